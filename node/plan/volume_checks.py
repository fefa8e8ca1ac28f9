"""Whether a volume can be what a user asks for: every problem, with its field path."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from swarmpy.node.plan import limits
from swarmpy.node.plan.limits import Problem
from swarmpy.node.plan.volumes import SHARED_TYPES, VOLUME_NAME, template_problem
from swarmpy.proto import objects_pb2, types_pb2

OPTION_KEYS = ("type", "device", "o", "size")
OPTION_BYTES_MAX = 4000  # the kernel takes one page
SIZE_MIN_BYTES = 1 << 20
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgtp]?)(?:i?b)?", re.IGNORECASE)
_PASSWORD = re.compile(r"((?:^|,)(?:password|pass)=)[^,]*")
_KIND = re.compile(r"[a-z0-9_.-]{1,32}")


def validate_volume(volume: objects_pb2.Volume) -> list[Problem]:
    problems = list(limits.labels(volume.meta.labels, "meta.labels"))
    if not VOLUME_NAME.fullmatch(volume.meta.name):
        known = "letters, digits, '_', '.', '-', beginning with a letter or digit, at most 128"
        problems.append(Problem("meta.name", f"{volume.meta.name[:140]!r} is no volume name: {known}"))
    spec = volume.spec
    return [*problems, *driver(spec.driver, dict(spec.options), "spec")]


def mount(entry: types_pb2.Mount, path: str) -> Iterator[Problem]:
    """The part of a mount that is about its volume."""
    if entry.type != types_pb2.MOUNT_VOLUME:
        if entry.volume_driver or entry.volume_options or entry.volume_labels or entry.volume_nocopy:
            yield Problem(path, "has options of a volume and is none: write type=volume")
        return
    if entry.source and (problem := template_problem(entry.source)):
        yield Problem(path + ".source", problem)
    if not entry.source and (entry.volume_driver or entry.volume_options or entry.subpath):
        yield Problem(path + ".source", "a volume with options of its own needs a name")
    if entry.subpath.startswith("/") or ".." in entry.subpath.split("/"):
        yield Problem(path + ".subpath", f"{entry.subpath!r} must be a path inside the volume")
    yield from limits.labels(entry.volume_labels, path + ".volume_labels")
    yield from driver(entry.volume_driver, dict(entry.volume_options), path)


def driver(name: str, options: dict[str, str], path: str) -> Iterator[Problem]:
    if name not in ("", "local"):
        yield Problem(path + ".driver", f"{name!r} is not built: volumes are of the driver local")
        return
    where = path + ".options"
    for key, value in options.items():
        if key not in OPTION_KEYS:
            known = ", ".join(OPTION_KEYS)
            yield Problem(where, f"{key!r} is no option of the driver local: use {known}")
        if len(value.encode()) > OPTION_BYTES_MAX or "\0" in value:
            yield Problem(where, f"{key} has more than {OPTION_BYTES_MAX} bytes, or a NUL character")
    kind, device, data = options.get("type", ""), options.get("device", ""), options.get("o", "")
    if kind and not _KIND.fullmatch(kind):
        yield Problem(where, f"type={kind[:40]!r} is no type of file system such as nfs, cifs, tmpfs or ext4")
    if not kind and (device or data):
        yield Problem(where, "device and o need a type: nfs, cifs, tmpfs, none (a directory), ext4, …")
    if kind and kind != "tmpfs" and not device:
        yield Problem(where, f"type={kind} needs a device=")
    if kind == "cifs" and device and not device.startswith("//"):
        yield Problem(where, f"device={device} is not of the form //SERVER/SHARE")
    if kind in {"nfs", "nfs4"} and ":" not in device:
        yield Problem(where, f"device={device} is not of the form SERVER:/PATH, or :/PATH with o=addr=SERVER")
    if kind == "none" and (not device.startswith("/") or not {"bind", "rbind"} & set(data.split(","))):
        yield Problem(where, "type=none is a directory of the node: device=/PATH and o=bind")
    if "size" in options:
        yield from _size(kind, options["size"], where)


def _size(kind: str, text: str, where: str) -> Iterator[Problem]:
    if kind == "tmpfs":
        yield Problem(where, "the size of a tmpfs is one of its mount options: o=size=64m")
    elif kind:
        why = "its server limits it" if kind in SHARED_TYPES else "it is a file system of its own"
        yield Problem(where, f"size= is for volumes on a node's disk; this one is of type {kind}: {why}")
    size = size_bytes(text)
    if size is None or size < SIZE_MIN_BYTES:
        yield Problem(where, f"size={text!r} is no size of at least 1m, such as 500m or 10g")


def size_bytes(text: str) -> int | None:
    """`10g` in bytes, units of 1024; None for what is no size."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        return None
    size = float(match[1]) * 1024 ** " kmgtp".index(match[2].lower() or " ")
    return int(size) if size < 2**62 else None


def shown_options(options: Mapping[str, str]) -> dict[str, str]:
    """A volume's options as people may see them: no password of a file server."""
    return {key: _PASSWORD.sub(r"\1***", value) if key == "o" else value for key, value in options.items()}
