"""Write images as an archive that `docker load`, podman, skopeo and `image load` read: an OCI layout
in a tar, with Docker's manifest.json beside it.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from swarmpy.node.image import manifest
from swarmpy.node.image.catalog import StoredImage
from swarmpy.node.image.manifest import Manifest

CHUNK_BYTES = 1 << 20
BLOCK = 512


def archive(
    images: Mapping[str, StoredImage], manifests: Mapping[str, Manifest], blobs: Mapping[str, Path]
) -> Iterator[bytes]:
    """`images` by name ("" or a digest = no name), `manifests` by digest, `blobs` those that they consist of."""
    yield from _file("oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
    written: set[str] = set()
    for image in images.values():
        for digest in (image.digest, *(blob.digest for blob in manifests[image.digest].blobs)):
            if digest not in written:
                written.add(digest)
                yield from _path(_name(digest), blobs[digest])
    yield from _file("index.json", manifest.canonical_json(_index(images, blobs)))
    yield from _file("manifest.json", manifest.canonical_json(_docker(images, manifests)))
    yield bytes(2 * BLOCK)


def _name(digest: str) -> str:
    return f"blobs/sha256/{digest.removeprefix('sha256:')}"


def _index(images: Mapping[str, StoredImage], blobs: Mapping[str, Path]) -> dict[str, object]:
    entries = [
        {
            "mediaType": manifest.parse_json(blobs[image.digest].read_bytes(), image.digest).get("mediaType")
            or manifest.OCI_MANIFEST,
            "digest": image.digest,
            "size": blobs[image.digest].stat().st_size,
            **({"annotations": _annotations(name)} if name else {}),
        }
        for name, image in images.items()
    ]
    return {"schemaVersion": 2, "mediaType": manifest.OCI_INDEX, "manifests": entries}


def _annotations(name: str) -> dict[str, str]:
    tag = name.rpartition("/")[2].partition("@")[0].partition(":")[2]
    return {
        "io.containerd.image.name": name,
        **({"org.opencontainers.image.ref.name": tag} if tag else {}),
    }


def _docker(images: Mapping[str, StoredImage], manifests: Mapping[str, Manifest]) -> list[dict[str, object]]:
    names: dict[str, list[str]] = {}
    for name, image in images.items():
        names.setdefault(image.digest, []).extend([name] if name and "@" not in name else [])
    return [
        {
            "Config": _name(manifests[digest].config.digest),
            "RepoTags": tags or None,
            "Layers": [_name(layer.digest) for layer in manifests[digest].layers],
        }
        for digest, tags in names.items()
    ]


def _header(name: str, size: int) -> bytes:
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, 0o644
    return member.tobuf(tarfile.PAX_FORMAT)


def _file(name: str, data: bytes) -> Iterator[bytes]:
    yield _header(name, len(data)) + data + bytes(-len(data) % BLOCK)


def _path(name: str, path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        size = path.stat().st_size
        yield _header(name, size)
        while data := file.read(CHUNK_BYTES):
            yield data
    if padding := bytes(-size % BLOCK):
        yield padding
