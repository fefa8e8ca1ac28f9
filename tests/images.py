"""Images for tests: layers from a list of entries, archives in each format, a busybox image."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from swarmpy.node.image import manifest
from swarmpy.node.image.build import build_busybox_image

__all__ = ["build_busybox_image", "config_for", "docker_archive", "entry", "layer", "oci_archive", "tar_of"]
Entry = tuple[tarfile.TarInfo, bytes]


def entry(name: str, data: bytes | None = None, **fields: Any) -> Entry:
    """A file if there is data, else what `type` says; any field of TarInfo by name."""
    member = tarfile.TarInfo(name)
    member.mode = 0o644
    for key, value in fields.items():
        setattr(member, key, value)
    member.size = fields.get("size", len(data or b""))
    return member, data or b""


def layer(*entries: Entry, format: int = tarfile.PAX_FORMAT) -> bytes:  # noqa: A002
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as archive:
        for member, data in entries:
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def config_for(layers: Sequence[bytes], **run: Any) -> bytes:
    """An image config for layers given uncompressed."""
    value = {
        "architecture": manifest.host_platform().architecture,
        "os": "linux",
        "config": {"Cmd": ["/bin/sh"], **run},
        "rootfs": {"type": "layers", "diff_ids": [manifest.sha256(data) for data in layers]},
    }
    return manifest.canonical_json(value)


def tar_of(files: Iterable[tuple[str, bytes]]) -> bytes:
    return layer(*(entry(name, data) for name, data in files))


def docker_archive(path: Path, name: str, layers: Sequence[bytes], config: bytes | None = None) -> Path:
    config = config or config_for(layers)
    files = [(f"{number}/layer.tar", data) for number, data in enumerate(layers)]
    listing = [
        {"Config": "config.json", "RepoTags": [name] if name else None, "Layers": [n for n, _ in files]}
    ]
    path.write_bytes(
        tar_of([*files, ("config.json", config), ("manifest.json", json.dumps(listing).encode())])
    )
    return path


def compressed_image(layers: Sequence[bytes], **run: Any) -> tuple[bytes, dict[str, bytes]]:
    """Manifest and blobs of an image with gzip layers, as a registry has them."""
    config = config_for(layers, **run)
    packed = [gzip.compress(data, 1, mtime=0) for data in layers]
    parts = [
        manifest.Descriptor(manifest.sha256(d), len(d), manifest.layer_media_type("gzip")) for d in packed
    ]
    document = manifest.make_manifest(config, parts)
    return document, {manifest.sha256(data): data for data in (config, *packed)}


def index_of(documents: Sequence[tuple[bytes, str]]) -> bytes:
    """An index of manifests, each with its architecture."""
    entries = [
        {
            "mediaType": manifest.OCI_MANIFEST,
            "digest": manifest.sha256(document),
            "size": len(document),
            "platform": {"os": "linux", "architecture": architecture},
        }
        for document, architecture in documents
    ]
    return manifest.canonical_json(
        {"schemaVersion": 2, "mediaType": manifest.OCI_INDEX, "manifests": entries}
    )


def oci_archive(path: Path, name: str, document: bytes, blobs: dict[str, bytes]) -> Path:
    top = {
        "digest": manifest.sha256(document),
        "size": len(document),
        "mediaType": manifest.OCI_MANIFEST,
        "annotations": {"io.containerd.image.name": name},
    }
    every = {manifest.sha256(document): document, **blobs}
    files = [("oci-layout", b'{"imageLayoutVersion":"1.0.0"}')]
    files += [(f"blobs/sha256/{digest.removeprefix('sha256:')}", data) for digest, data in every.items()]
    files.append(("index.json", json.dumps({"schemaVersion": 2, "manifests": [top]}).encode()))
    path.write_bytes(tar_of(files))
    return path
