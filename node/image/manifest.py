"""OCI and Docker manifests, indexes and configs: checked values, no I/O.

Everything from outside is checked here once: digests (only sha256, since they
become file names), sizes, counts, and that the config lists one diff id for each
layer. A chain id names a layer together with all layers below it.
"""

from __future__ import annotations

import hashlib
import json
import platform as machine
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from swarmpy.node.image.errors import ArchiveDamaged, Unsupported
from swarmpy.node.image.limits import BLOB_BYTES_MAX, CONFIG_BYTES_MAX, LAYERS_MAX
from swarmpy.node.image.reference import is_digest

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
ACCEPTED = (OCI_INDEX, DOCKER_LIST, OCI_MANIFEST, DOCKER_MANIFEST)
_ARCHITECTURES = {
    "x86_64": ("amd64", ""), "aarch64": ("arm64", "v8"), "armv7l": ("arm", "v7"), "armv6l": ("arm", "v6"),
    "i686": ("386", ""), "i386": ("386", ""),
}  # fmt: skip


@dataclass(frozen=True)
class Platform:
    os: str = ""
    architecture: str = ""
    variant: str = ""

    def __str__(self) -> str:
        return "/".join(part for part in (self.os or "any", self.architecture or "any", self.variant) if part)

    def fits(self, wanted: Platform) -> bool:
        """Whether an image of this platform runs where `wanted` does; unknown fits."""
        return self.os in {"", wanted.os} and self.architecture in {"", wanted.architecture}


@dataclass(frozen=True)
class Descriptor:
    digest: str
    size: int
    media_type: str = ""


@dataclass(frozen=True)
class Manifest:
    config: Descriptor
    layers: tuple[Descriptor, ...]

    @property
    def blobs(self) -> tuple[Descriptor, ...]:
        """Config and layers, each digest once."""
        return tuple({blob.digest: blob for blob in (self.config, *self.layers)}.values())


@dataclass(frozen=True)
class IndexEntry:
    descriptor: Descriptor
    platform: Platform
    annotations: Mapping[str, str]


@dataclass(frozen=True)
class Index:
    entries: tuple[IndexEntry, ...]

    def choose(self, wanted: Platform, what: str) -> IndexEntry:
        """The entry for a platform: its variant, else none, else the first that fits."""
        fitting = [e for e in self.entries if e.platform.os != "unknown" and e.platform.fits(wanted)]
        if not fitting:
            offered = ", ".join(sorted({str(e.platform) for e in self.entries if e.platform.os != "unknown"}))
            raise Unsupported(f"{what} has no image for {wanted}; it has: {offered or 'none'}")
        order = {wanted.variant: 0, "": 1}
        return min(fitting, key=lambda entry: order.get(entry.platform.variant, 2))


def host_platform() -> Platform:
    name = machine.machine()
    architecture, variant = _ARCHITECTURES.get(name, (name, ""))
    return Platform("linux", architecture, variant)


def sha256(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def parse_json(data: bytes, what: str) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ArchiveDamaged(f"{what} is no valid JSON: {str(error)[:200]}") from error


def parse_document(data: bytes, what: str) -> Manifest | Index:
    """A manifest or an index, by what it contains (the media type is optional in OCI)."""
    value = parse_json(data, what)
    if not isinstance(value, dict):
        raise ArchiveDamaged(f"{what} is no manifest: a JSON object is expected")
    if value.get("schemaVersion") == 1 or "fsLayers" in value:
        raise Unsupported(f"{what} has the manifest format 1 of 2015; push it again with a current tool")
    if "manifests" in value:
        entries = value["manifests"]
        if not isinstance(entries, list) or len(entries) > 1000:
            raise ArchiveDamaged(f"{what}: 'manifests' must be a list of at most 1000 entries")
        return Index(tuple(_index_entry(entry, what) for entry in entries))
    layers = value.get("layers")
    if not isinstance(layers, list) or "config" not in value:
        raise ArchiveDamaged(f"{what} is neither a manifest nor an index: it has no 'layers' and 'config'")
    if len(layers) > LAYERS_MAX:
        raise Unsupported(f"{what} has {len(layers)} layers, at most {LAYERS_MAX} can be stacked; squash it")
    config = descriptor_of(value["config"], what)
    if config.media_type not in {OCI_CONFIG, DOCKER_CONFIG, ""}:
        raise Unsupported(f"{what} is no container image but {config.media_type}")
    if config.size > CONFIG_BYTES_MAX:
        raise ArchiveDamaged(
            f"{what}: a config of {config.size} bytes, at most {CONFIG_BYTES_MAX} are accepted"
        )
    return Manifest(config, tuple(_layer(layer, what) for layer in layers))


def parse_config(data: bytes, manifest: Manifest, what: str) -> dict[str, Any]:
    """The image config, checked to have a diff id for each layer of the manifest."""
    value = parse_json(data, what)
    rootfs = value.get("rootfs") if isinstance(value, dict) else None
    diff_ids = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
    if not isinstance(diff_ids, list) or not all(isinstance(d, str) and is_digest(d) for d in diff_ids):
        raise ArchiveDamaged(f"{what}: 'rootfs.diff_ids' must be a list of sha256 digests")
    if len(diff_ids) != len(manifest.layers):
        raise ArchiveDamaged(f"{what} lists {len(diff_ids)} layers, the manifest {len(manifest.layers)}")
    assert isinstance(value, dict)
    _check_run_config(value.get("config"), what)
    return value


def _check_run_config(run: object, what: str) -> None:
    """The part that the runtime reads; a wrong type there must not reach it."""
    if not isinstance(run, dict | None):
        raise ArchiveDamaged(f"{what}: 'config' must be an object")
    for key in ("Entrypoint", "Cmd", "Env"):
        texts = (run or {}).get(key)
        if texts is not None and not (isinstance(texts, list) and all(map(_is_text, texts))):
            raise ArchiveDamaged(f"{what}: 'config.{key}' must be a list of texts")
    for key in ("User", "WorkingDir", "StopSignal"):
        if (text := (run or {}).get(key)) is not None and not _is_text(text):
            raise ArchiveDamaged(f"{what}: 'config.{key}' must be a text")


def _is_text(value: object) -> bool:
    """One that can be a path or an argument: JSON also has halves of characters, and NUL."""
    if not isinstance(value, str) or "\0" in value:
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def platform_of(config: Mapping[str, Any]) -> Platform:
    def text(key: str) -> str:
        value = config.get(key)
        return value if isinstance(value, str) else ""

    return Platform(text("os"), text("architecture"), text("variant"))


def chain_ids(diff_ids: Sequence[str]) -> tuple[str, ...]:
    """Chain id of each layer, lowest first."""
    chains: list[str] = []
    for diff_id in diff_ids:
        chains.append(sha256(f"{chains[-1]} {diff_id}".encode()) if chains else diff_id)
    return tuple(chains)


def make_manifest(config: bytes, layers: Sequence[Descriptor]) -> bytes:
    """An OCI manifest in a canonical form: the same parts give the same digest."""
    return canonical_json(
        {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": {"mediaType": OCI_CONFIG, "digest": sha256(config), "size": len(config)},
            "layers": [{"mediaType": la.media_type, "digest": la.digest, "size": la.size} for la in layers],
        }
    )


def canonical_json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def layer_media_type(compression: str) -> str:
    return OCI_LAYER + (f"+{compression}" if compression else "")


def descriptor_of(value: object, what: str) -> Descriptor:
    if not isinstance(value, dict):
        raise ArchiveDamaged(f"{what}: a descriptor must be a JSON object")
    digest, size, media_type = value.get("digest"), value.get("size"), value.get("mediaType", "")
    if not isinstance(digest, str) or not is_digest(digest):
        raise ArchiveDamaged(f"{what}: {str(digest)[:100]!r} is no sha256 digest")
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= BLOB_BYTES_MAX:
        raise ArchiveDamaged(f"{what}: {str(size)[:40]} is no size for {digest}")
    if not isinstance(media_type, str):
        raise ArchiveDamaged(f"{what}: 'mediaType' must be a text")
    return Descriptor(digest, size, media_type)


def _layer(value: object, what: str) -> Descriptor:
    layer = descriptor_of(value, what)
    if "foreign" in layer.media_type or "encrypted" in layer.media_type:
        raise Unsupported(f"{what}: layer {layer.digest} is of the type {layer.media_type}")
    return layer


def _index_entry(value: object, what: str) -> IndexEntry:
    descriptor = descriptor_of(value, what)
    assert isinstance(value, dict)
    platform, annotations = value.get("platform") or {}, value.get("annotations") or {}
    if not isinstance(platform, dict) or not isinstance(annotations, dict):
        raise ArchiveDamaged(f"{what}: 'platform' and 'annotations' must be objects")
    return IndexEntry(
        descriptor, platform_of(platform), {k: v for k, v in annotations.items() if isinstance(v, str)}
    )
