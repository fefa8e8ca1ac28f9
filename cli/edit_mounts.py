"""--mount and --tmpfs in the specification of a service."""

from __future__ import annotations

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
