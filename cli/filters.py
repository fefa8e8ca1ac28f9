"""-f/--filter of the lists.

As Docker has it: the same key twice means either, different keys mean both, labels mean all.
Applied here as well as by the managers, so a filter means the same with every version.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from swarmpy.cli.errors import UsageRefused

Filters = Sequence[tuple[str, str]]
Test = Callable[[Any, str], bool]


def by_id(item: Any, value: str) -> bool:
    """The id begins so."""
    return bool(item.meta.id.startswith(value))


def by_name(item: Any, value: str) -> bool:
    """The name begins so."""
    return bool(item.meta.name.startswith(value))


def by_name_part(item: Any, value: str) -> bool:
    """The name contains it."""
    return value in item.meta.name


def has_label(labels: Mapping[str, str], value: str) -> bool:
    """`key` or `key=value`."""
    key, separator, wanted = value.partition("=")
    return key in labels and (not separator or labels[key] == wanted)


def by_label(item: Any, value: str) -> bool:
    """The object's own labels."""
    return has_label(item.meta.labels, value)


def by_engine_label(item: Any, value: str) -> bool:
    """The labels the node's agent reports."""
    return has_label(item.description.labels, value)


def by_mode(item: Any, value: str) -> bool:
    """A service's mode."""
    return (item.spec.WhichOneof("mode") or "").replace("_", "-") == value


def by_role(item: Any, value: str) -> bool:
    """A node's observed role."""
    return ("manager" if item.role else "worker") == value


def by_availability(item: Any, value: str) -> bool:
    """A node's availability."""
    return ("active", "pause", "drain")[item.spec.availability] == value


def by_desired_state(item: Any, value: str) -> bool:
    """What is wanted of a task: running, ready, accepted or shutdown."""
    wanted = item.desired_state
    states = {"running": 512, "ready": 384, "accepted": 256}
    return bool(wanted > 512 if value in {"shutdown", "remove"} else wanted == states.get(value, -1))


def by_service(item: Any, value: str) -> bool:
    """The service of a task."""
    return item.service_name == value or (bool(value) and item.service_id.startswith(value))


def by_node_id(item: Any, value: str) -> bool:
    """The node of a task; names have been replaced by ids before."""
    return bool(value) and bool(item.node_id.startswith(value))


def by_reference(item: Any, value: str) -> bool:
    """An image's name, with or without registry and tag."""
    name = item.meta.name
    familiar = name.removeprefix("docker.io/").removeprefix("library/")
    return value in {name, familiar, familiar.rpartition(":")[0]}


def by_driver(item: Any, value: str) -> bool:
    """A volume's driver."""
    return (item.spec.driver or "local") == value


def by_home_id(item: Any, value: str) -> bool:
    """A node that has a volume; names have been replaced by ids before."""
    return bool(value) and any(str(node_id).startswith(value) for node_id in (item.node_id, *item.holders))


TESTS: dict[str, dict[str, Test]] = {
    "service": {"id": by_id, "name": by_name, "label": by_label, "mode": by_mode},
    "node": {
        "id": by_id, "name": by_name, "label": by_engine_label, "node.label": by_label, "role": by_role,
        "availability": by_availability,
    },
    "task": {
        "id": by_id, "name": by_name, "desired-state": by_desired_state, "service": by_service,
        "node": by_node_id, "label": by_label,
    },
    "network": {"id": by_id, "name": by_name_part, "label": by_label},
    "volume": {
        "id": by_id, "name": by_name_part, "label": by_label, "driver": by_driver, "node": by_home_id,
    },
    "policy": {"id": by_id, "name": by_name_part, "label": by_label},
    "secret": {"id": by_id, "name": by_name_part, "label": by_label},
    "config": {"id": by_id, "name": by_name_part, "label": by_label},
    "token": {"id": by_id, "role": by_role},
    "schedule": {"id": by_id, "name": by_name_part, "label": by_label},
    "image": {"id": by_id, "reference": by_reference, "label": by_label},
}  # fmt: skip
ALL_OF = {"label", "node.label"}


def keys(kind: str) -> str:
    """The keys of a kind, for help and messages."""
    return ", ".join(TESTS[kind])


def select(kind: str, items: Sequence[Any], filters: Filters) -> list[Any]:
    """The items that pass."""
    tests = TESTS[kind]
    wanted: dict[str, list[str]] = {}
    for key, value in filters:
        if key not in tests:
            raise UsageRefused(f"{key!r} is not a filter of {kind}s: use {keys(kind)}.")
        wanted.setdefault(key, []).append(value)

    def passes(item: Any) -> bool:
        return all(
            (all if key in ALL_OF else any)(tests[key](item, value) for value in values)
            for key, values in wanted.items()
        )

    return [item for item in items if passes(item)]
