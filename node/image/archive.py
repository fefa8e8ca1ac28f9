"""Read image archives: `docker save`, OCI layout in a tar, and a bare root file system.

Any of them may be compressed by gzip or zstd. Names inside the archive are never
used as paths: each member goes to a numbered file of a work directory, on the
store's file system so that it can be committed by rename. Everything is verified
before the caller sees it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from swarmpy.node.image import compression, manifest
from swarmpy.node.image.compression import CHUNK
from swarmpy.node.image.errors import ArchiveDamaged, DigestMismatch, Unsupported, full_disk_as_no_space
from swarmpy.node.image.limits import ARCHIVE_ENTRIES_MAX, CONFIG_BYTES_MAX, Limits
from swarmpy.node.image.manifest import Descriptor, Index, Manifest, Platform
from swarmpy.node.image.reference import is_digest
from swarmpy.node.image.tar import TarReader

NAME_ANNOTATIONS = ("io.containerd.image.name", "org.opencontainers.image.ref.name")
LINKS_MAX = 8
Tick = Callable[[int, int], None]  # bytes done, bytes in all; may raise to stop


@dataclass(frozen=True)
class Member:
    path: Path
    digest: str
    size: int


@dataclass(frozen=True)
class Candidate:
    """A verified image that is not in the store yet."""

    names: tuple[str, ...]  # as the archive has them, not normalised
    manifest: bytes
    indexes: tuple[bytes, ...] = ()
    config: bytes = b""
    layers: dict[str, Path] = field(default_factory=dict)  # digest -> file to take over


class ArchiveReader:
    def __init__(self, archive: Path, work: Path, limits: Limits, tick: Tick) -> None:
        self._archive = archive
        self._what = f"image archive {archive}"
        self._work = work
        self._limits = limits
        self._tick = tick
        self._members: dict[str, Member] = {}
        self._by_digest: dict[str, Member] = {}
        self._links: dict[str, str] = {}

    def read(self, wanted: Platform, *, reference: str = "") -> list[Candidate]:
        kind = self._kind()
        if kind == "rootfs":
            if not reference:
                raise ArchiveDamaged(
                    f"{self._what} is neither a `docker save` nor an OCI archive; "
                    "if it is a root file system, say under which name to load it"
                )
            return [self._read_rootfs(wanted)]
        with full_disk_as_no_space(self._what, self._work):
            self._extract()
        candidates = self._read_oci(wanted) if self._has("index.json") else self._read_docker()
        if not candidates:
            raise ArchiveDamaged(f"{self._what} contains no image")
        return candidates

    # -- the outer tar --------------------------------------------------------------

    def _kind(self) -> str:
        """One pass over the headers, ended by the first telling name."""
        seen = False
        with self._archive.open("rb") as file, compression.opened(file, self._what) as stream:
            for entry in self._tar(stream, self._limits.entries_max).entries():
                seen = True
                if _clean(entry.name) in {"manifest.json", "oci-layout", "index.json"}:
                    return "images"
                self._tick(0, 0)
        if not seen:
            raise ArchiveDamaged(f"{self._what} is empty")
        return "rootfs"

    def _tar(self, stream: compression.Stream, entries_max: int) -> TarReader:
        limit = self._limits.bomb_bytes_max(self._archive.stat().st_size)
        return TarReader(
            compression.MeteredStream(stream, self._what, limit), self._what, entries_max=entries_max
        )

    def _extract(self) -> None:
        total = self._archive.stat().st_size
        with self._archive.open("rb") as file, compression.opened(file, self._what) as stream:
            reader = self._tar(stream, ARCHIVE_ENTRIES_MAX)
            for number, entry in enumerate(reader.entries()):
                name = _clean(entry.name)
                if entry.kind == "symlink":
                    base = name.rpartition("/")[0]
                    self._links[name] = _clean(
                        entry.link if entry.link.startswith("/") else f"{base}/{entry.link}"
                    )
                elif entry.kind == "hardlink":
                    self._links[name] = _clean(entry.link)
                elif entry.kind == "file":
                    self._links.pop(name, None)
                    member = self._copy(
                        reader, self._work / str(number), lambda: self._tick(file.tell(), total)
                    )
                    self._members[name] = self._by_digest[member.digest] = member

    def _copy(self, reader: TarReader, target: Path, tick: Callable[[], None]) -> Member:
        digest, size = hashlib.sha256(), 0
        with target.open("wb") as file:
            while data := reader.read(CHUNK):
                digest.update(data)
                size += len(data)
                file.write(data)
                tick()
        return Member(target, f"sha256:{digest.hexdigest()}", size)

    def _has(self, name: str) -> bool:
        return name in self._members

    def _member(self, name: str) -> Member:
        found = _clean(name)
        for _ in range(LINKS_MAX):
            if found not in self._links:
                break
            found = self._links[found]
        if found not in self._members:
            raise ArchiveDamaged(f"{self._what}: {name[:200]!r} is missing in it (incomplete copy?)")
        return self._members[found]

    def _small(self, member: Member, name: str) -> bytes:
        if member.size > CONFIG_BYTES_MAX:
            raise ArchiveDamaged(
                f"{self._what}: {name[:200]!r} has {member.size} bytes, {CONFIG_BYTES_MAX} at most"
            )
        return member.path.read_bytes()

    # -- docker save ----------------------------------------------------------------

    def _docker_entries(self) -> list[dict[str, Any]]:
        data = self._small(self._member("manifest.json"), "manifest.json")
        value = manifest.parse_json(data, f"{self._what}: manifest.json")
        if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
            raise ArchiveDamaged(f"{self._what}: manifest.json must be a list of objects")
        for entry in value:
            texts = [entry.get("Config"), *(entry.get("Layers") or [None]), *(entry.get("RepoTags") or [])]
            if not all(isinstance(text, str) for text in texts):
                raise ArchiveDamaged(
                    f"{self._what}: manifest.json: 'Config', 'Layers', 'RepoTags' must be texts"
                )
        return value

    def _read_docker(self) -> list[Candidate]:
        return [self._docker_image(entry) for entry in self._docker_entries()]

    def _docker_image(self, entry: dict[str, Any]) -> Candidate:
        config = self._small(self._member(entry["Config"]), entry["Config"])
        members = [self._member(name) for name in entry["Layers"]]
        layers = []
        for member in members:
            with member.path.open("rb") as file:
                kind = compression.detect(file.read(8), f"{self._what}: layer {member.digest}")
            layers.append(Descriptor(member.digest, member.size, manifest.layer_media_type(kind)))
        data = manifest.make_manifest(config, layers)
        parsed = manifest.parse_document(data, self._what)
        assert isinstance(parsed, Manifest)
        value = manifest.parse_config(config, parsed, f"{self._what}: {entry['Config']}")
        for layer, diff_id in zip(layers, value["rootfs"]["diff_ids"], strict=True):
            if layer.media_type == manifest.OCI_LAYER and layer.digest != diff_id:
                raise DigestMismatch(f"{self._what}: layer {diff_id} has the content of {layer.digest}")
        return Candidate(
            tuple(entry.get("RepoTags") or ()), data, (), config, {m.digest: m.path for m in members}
        )

    # -- OCI layout -----------------------------------------------------------------

    def _read_oci(self, wanted: Platform) -> list[Candidate]:
        top = manifest.parse_document(
            self._small(self._member("index.json"), "index.json"), f"{self._what}: index.json"
        )
        if not isinstance(top, Index):
            raise ArchiveDamaged(f"{self._what}: index.json is no index")
        tags: dict[str, list[str]] = {}
        if self._has("manifest.json"):
            for entry in self._docker_entries():
                tags[self._member(entry["Config"]).digest] = entry.get("RepoTags") or []
        by_manifest: dict[str, Candidate] = {}
        for entry_ in top.entries:
            if entry_.platform.os == "unknown":
                continue  # an attestation, no image
            names = [entry_.annotations[key] for key in NAME_ANNOTATIONS if key in entry_.annotations][:1]
            found = self._oci_image(entry_.descriptor, wanted, names, tags)
            digest = manifest.sha256(found.manifest)
            if digest in by_manifest:
                merged = dict.fromkeys((*by_manifest[digest].names, *found.names))
                found = Candidate(tuple(merged), found.manifest, found.indexes, found.config, found.layers)
            by_manifest[digest] = found
        return list(by_manifest.values())

    def _blob(self, digest: str) -> Member:
        name = f"blobs/sha256/{digest.removeprefix('sha256:')}"
        member = self._member(name)
        if member.digest != digest:
            raise DigestMismatch(
                f"{self._what}: {name} has the content of {member.digest}, the archive is damaged"
            )
        return member

    def _oci_image(
        self, top: Descriptor, wanted: Platform, names: list[str], tags: dict[str, list[str]]
    ) -> Candidate:
        indexes: list[bytes] = []
        digest = top.digest
        while True:
            data = self._small(self._blob(digest), digest)
            parsed = manifest.parse_document(data, f"{self._what}: {digest}")
            if isinstance(parsed, Manifest):
                break
            if len(indexes) >= 2:
                raise Unsupported(f"{self._what}: indexes nested in indexes")
            indexes.append(data)
            digest = parsed.choose(wanted, self._what).descriptor.digest
        config = self._small(self._blob(parsed.config.digest), parsed.config.digest)
        manifest.parse_config(config, parsed, f"{self._what}: config {parsed.config.digest}")
        layers = {}
        for layer in parsed.layers:
            member = self._blob(layer.digest)
            if member.size != layer.size:
                raise ArchiveDamaged(
                    f"{self._what}: layer {layer.digest} has {member.size} bytes, not {layer.size}"
                )
            layers[layer.digest] = member.path
        names = [*tags.get(parsed.config.digest, ()), *(n for n in names if _is_full_name(n))]
        return Candidate(tuple(dict.fromkeys(names)), data, tuple(indexes), config, layers)

    # -- root file system -----------------------------------------------------------

    def _read_rootfs(self, wanted: Platform) -> Candidate:
        """The archive itself becomes the only layer, compressed or not."""
        target = self._work / "rootfs"
        total = self._archive.stat().st_size
        raw = hashlib.sha256()
        size = 0
        with (
            full_disk_as_no_space(self._what, self._work),
            self._archive.open("rb") as file,
            target.open("wb") as out,
        ):
            while data := file.read(CHUNK):
                raw.update(data)
                size += len(data)
                out.write(data)
                self._tick(size, total)
        with target.open("rb") as file:
            kind = compression.detect(file.read(8), self._what)
            with compression.opened(file, self._what) as stream:
                metered = compression.MeteredStream(
                    stream, self._what, self._limits.layer_stream_bytes_max(size)
                )
                for _ in TarReader(metered, self._what, entries_max=self._limits.entries_max).entries():
                    self._tick(size, total)
                diff_id = metered.digest()
        platform = {"os": wanted.os, "architecture": wanted.architecture}
        config = manifest.canonical_json(
            {**platform, "config": {}, "rootfs": {"type": "layers", "diff_ids": [diff_id]}, "history": []}
        )
        layer = Descriptor(f"sha256:{raw.hexdigest()}", size, manifest.layer_media_type(kind))
        return Candidate((), manifest.make_manifest(config, [layer]), (), config, {layer.digest: target})


def _clean(name: str) -> str:
    """A member's name as a key: no leading './' or '/', 'a/..' resolved."""
    parts: list[str] = []
    for part in name.split("/"):
        if part == "..":
            if parts:
                parts.pop()
        elif part not in {"", "."}:
            parts.append(part)
    return "/".join(parts)


def _is_full_name(name: str) -> bool:
    """An OCI archive may note a whole reference, or only a tag, which names nothing."""
    return ("/" in name or ":" in name) and not is_digest(name)
