"""Rewrite the golden dump of all protobuf fields (`make proto`)."""

from pathlib import Path

from swarmpy.proto import (
    agent_pb2,
    ca_pb2,
    control_pb2,
    dispatcher_pb2,
    images_pb2,
    objects_pb2,
    payloads_pb2,
    raft_pb2,
    recovery_pb2,
    store_pb2,
    tasks_pb2,
    types_pb2,
    volumes_pb2,
)

MODULES = (
    types_pb2,
    objects_pb2,
    store_pb2,
    control_pb2,
    dispatcher_pb2,
    ca_pb2,
    agent_pb2,
    raft_pb2,
    recovery_pb2,
    tasks_pb2,
    volumes_pb2,
    images_pb2,
    payloads_pb2,
)
GOLDEN = Path(__file__).with_name("descriptors.txt")


def lines() -> list[str]:
    """One line a field or enum value, in a stable order."""
    out: list[str] = []
    for module in MODULES:
        for message in sorted(module.DESCRIPTOR.message_types_by_name.values(), key=lambda m: m.name):
            out += [f"{message.name}.{f.name} = {f.number} type {f.type}" for f in message.fields]
        for enum in sorted(module.DESCRIPTOR.enum_types_by_name.values(), key=lambda e: e.name):
            out += [f"{enum.name}.{v.name} = {v.number}" for v in enum.values]
    return out


if __name__ == "__main__":
    GOLDEN.write_text("\n".join(lines()) + "\n")
