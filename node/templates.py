"""Placeholders in a task's specification: `{{.Task.Slot}}` and its relatives, as Docker writes them.

Known in --hostname, --env and --mount (source, target, subpath). The managers refuse what is not known
when a service is created or changed; the node fills in, once it knows which task it has. Only plain fields:
no functions, no conditions, so that a text means the same wherever it is read. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from swarmpy.proto import objects_pb2, types_pb2

FIELDS = (
    ".Service.ID", ".Service.Name", ".Node.ID", ".Node.Hostname", ".Node.Platform.OS",
    ".Node.Platform.Architecture", ".Task.ID", ".Task.Name", ".Task.Slot",
)  # fmt: skip
_PLACEHOLDER = re.compile(r"\{\{(.*?)\}\}", re.DOTALL)


def problem(text: str) -> str:
    """What is wrong with the placeholders of a text; "" where each is known."""
    for match in _PLACEHOLDER.finditer(text):
        if match[1].strip() not in FIELDS:
            return f"{match[0][:60]} is not known: use {', '.join(FIELDS)}"
    if "{{" in _PLACEHOLDER.sub("", text):
        return f"{text[:60]!r} opens a placeholder with {{{{ and does not close it"
    return ""


def templated(spec: types_pb2.ContainerSpec) -> Iterator[tuple[str, str]]:
    """(field path below the container, text) of everything that may hold placeholders."""
    yield "hostname", spec.hostname
    for position, text in enumerate(spec.env):
        yield f"env[{position}]", text
    for position, mount in enumerate(spec.mounts):
        for name in ("source", "target", "subpath"):
            yield f"mounts[{position}].{name}", getattr(mount, name)


def values_of(
    task: objects_pb2.Task, *, node_id: str, hostname: str, platform: tuple[str, str]
) -> dict[str, str]:
    """The value of every field for one task; `platform` is (OS, architecture)."""
    return {
        ".Service.ID": task.service_id,
        ".Service.Name": task.service_name,
        ".Node.ID": node_id,
        ".Node.Hostname": hostname,
        ".Node.Platform.OS": platform[0],
        ".Node.Platform.Architecture": platform[1],
        ".Task.ID": task.meta.id,
        ".Task.Name": task.meta.name,
        ".Task.Slot": str(task.slot or node_id),
    }


def filled(text: str, values: Mapping[str, str]) -> str:
    return _PLACEHOLDER.sub(lambda match: values.get(match[1].strip(), match[0]), text)


def expanded(spec: types_pb2.ContainerSpec, values: Mapping[str, str]) -> types_pb2.ContainerSpec:
    """The specification with every placeholder filled in; the same object where it has none."""
    if not any("{{" in text for _, text in templated(spec)):
        return spec
    copy = types_pb2.ContainerSpec()
    copy.CopyFrom(spec)
    copy.hostname = filled(spec.hostname, values)[:63]
    copy.env[:] = [filled(text, values) for text in spec.env]
    for mount in copy.mounts:
        for name in ("source", "target", "subpath"):
            setattr(mount, name, filled(getattr(mount, name), values))
    return copy
