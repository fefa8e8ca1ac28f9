"""--mount, --tmpfs, --secret and --config in the specification of a service."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from swarmpy.cli.parse_files import FileValue
from swarmpy.cli.parse_mounts import MountValue
from swarmpy.proto import types_pb2

MOUNT_TYPES = {
    "bind": types_pb2.MOUNT_BIND,
    "volume": types_pb2.MOUNT_VOLUME,
    "tmpfs": types_pb2.MOUNT_TMPFS,
    "pod": types_pb2.MOUNT_POD,
}


def mount_message(value: MountValue) -> types_pb2.Mount:
    """A --mount or --tmpfs."""
    return types_pb2.Mount(
        type=MOUNT_TYPES[value.type],
        source=value.source,
        target=value.target,
        read_only=value.read_only,
        propagation=value.propagation,
        create_source=value.create_source,
        subpath=value.subpath,
        tmpfs_size_bytes=value.tmpfs_size_bytes,
        tmpfs_mode=value.tmpfs_mode,
        volume_driver=value.driver,
        volume_options=value.options,
        volume_labels=value.labels,
        recursive=value.recursive,
        volume_nocopy=value.nocopy,
    )


def file_message(value: FileValue) -> types_pb2.FileReference:
    """A --secret or --config."""
    return types_pb2.FileReference(
        source=value.source, target=value.target, uid=value.uid, gid=value.gid, mode=value.mode
    )


def edit_files(references: Any, flags: Mapping[str, Any], name: str) -> None:
    """Those of --NAME-rm go, by what they are of; what is added takes the place of what had its target."""
    added = [file_message(value) for value in flags.get(f"{name}_add", ())]
    targets = {reference.target or reference.source for reference in added}
    gone = set(flags.get(f"{name}_rm", ()))
    kept = [r for r in references if r.source not in gone and (r.target or r.source) not in targets]
    del references[:]
    references.extend([*kept, *added])
