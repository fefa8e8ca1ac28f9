"""From the services of a compose file to the objects that the managers store, by way of the flags' own functions.

Names become those of the stack, and everything carries Docker's label of its stack. Imports protobuf.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from swarmpy.cli import edit, flag_values
from swarmpy.cli.compose import Project, Shared
from swarmpy.cli.compose_service import Given, Service
from swarmpy.cli.compose_tree import Report, unknown
from swarmpy.cli.errors import UsageRefused
from swarmpy.cli.parse import NetworkValue
from swarmpy.proto import objects_pb2

NAMESPACE = "com.docker.stack.namespace"
IMAGE = "com.docker.stack.image"


def labels_of(stack: str, more: dict[str, str]) -> dict[str, str]:
    return {**more, NAMESPACE: stack}


def network_message(stack: str, shared: Shared) -> objects_pb2.Network:
    spec = objects_pb2.NetworkSpec(
        subnet=shared.subnet, internal=shared.internal, attachable=shared.attachable, ipv6=shared.ipv6,
        options=shared.options,
    )  # fmt: skip
    made = objects_pb2.Network(spec=spec)
    made.meta.name = shared.name
    made.meta.labels.update(labels_of(stack, shared.labels))
    return made


def file_message(stack: str, shared: Shared, name: str) -> objects_pb2.Secret | objects_pb2.Config:
    made = objects_pb2.Secret() if shared.noun == "secret" else objects_pb2.Config()
    made.data, made.template_driver = shared.data, shared.template_driver
    made.meta.name = name
    made.meta.labels.update(labels_of(stack, shared.labels))
    return made


def service_message(project: Project, one: Service, report: Report) -> objects_pb2.Service:
    """The service as `service create` would make it; what is wrong goes to the report."""
    flags = converted(project, one, report)
    stack = project.stack
    flags["network_add"] = (*flags.get("network_add", ()), *attachments(project, one))
    flags["depends_on_add"] = (
        *flags.get("depends_on_add", ()), *((f"{stack}_{d.service}", d.condition) for d in one.depends_on),
    )  # fmt: skip
    flags["label_add"] = (*flags.get("label_add", ()), (IMAGE, one.image), (NAMESPACE, stack))
    flags["container_label_add"] = (*flags.get("container_label_add", ()), (NAMESPACE, stack))
    if one.entrypoint is not None:
        flags["entrypoint"] = list(one.entrypoint)
    try:
        made = edit.new_service(f"{stack}_{one.name}", one.image, one.command, one.mode, flags)
    except UsageRefused as error:
        report.refuse(one.item, one.path, error.message.rstrip("."))
        return objects_pb2.Service()
    container = made.spec.task.container
    if one.health_test:
        container.health.test[:] = one.health_test
    container.open_stdin = one.stdin_open
    return made


def converted(project: Project, one: Service, report: Report) -> dict[str, Any]:
    """The values as click would give them to the command."""
    kinds = flag_values.kinds()
    flags: dict[str, Any] = dict(one.switches)
    first: dict[str, Given] = {}
    for given in one.given:
        if given.flag not in kinds:
            report.refuse(given.item, given.path, f"--{given.flag} {unknown(given.flag, kinds)}")
            continue
        kind = kinds[given.flag]
        before = first.setdefault(given.flag, given)
        if before is not given and not kind.several:
            report.refuse(
                given.item, given.path, f"says what line {before.item.line} says already: leave one out"
            )
            continue
        try:
            value = named(project, given, flag_values.read(kind, given.value))
        except ValueError as error:
            report.refuse(given.item, given.path, f"{error}".rstrip("."))
            continue
        flags[kind.dest] = (*flags.get(kind.dest, ()), value) if kind.several else value
    return flags


def named(project: Project, given: Given, value: Any) -> Any:
    """The value with the name that what it refers to has in the cluster. Raises ValueError."""
    match given.flag:
        case "mount" if value.type == "volume" and value.source:
            shared = declared(project.volumes, "volume", value.source)
            if shared.external:
                return dataclasses.replace(value, source=shared.name)
            labels = labels_of(project.stack, shared.labels)
            return dataclasses.replace(value, source=shared.name, labels=labels, options=shared.options)
        case "secret" | "config":
            group = project.secrets if given.flag == "secret" else project.configs
            shared = declared(group, given.flag, value.source)
            return dataclasses.replace(value, source=shared.name, target=value.target or value.source)
    return value


def declared(group: dict[str, Shared], noun: str, key: str) -> Shared:
    if key not in group:
        raise ValueError(f"{noun} {key!r} is not declared: add it under {noun}s, at the top of the file")
    return group[key]


def attachments(project: Project, one: Service) -> list[NetworkValue]:
    """The service's networks, where it is also called what it is called in the file."""
    found = []
    for attachment in one.attachments:
        if shared := project.networks.get(attachment.network):
            aliases = tuple(dict.fromkeys((one.name, *attachment.aliases)))
            if shared.name in {"host", "none"}:
                found.append(NetworkValue(shared.name))
            else:
                found.append(NetworkValue(shared.name, aliases, attachment.addresses, attachment.addresses6))
    return found


def used(project: Project, noun: str) -> dict[str, Shared]:
    """What the chosen services refer to, of networks, secrets or configs, by key."""
    group: dict[str, Shared] = getattr(project, f"{noun}s")
    if noun == "network":
        names = {attachment.network for one in project.services for attachment in one.attachments}
        return {
            key: shared
            for key, shared in group.items()
            if key in names and shared.name not in {"host", "none"}
        }
    kind = flag_values.kinds()[noun]
    names = set()
    for one in project.services:
        for given in one.given:
            if given.flag == noun:
                names.add(flag_values.read(kind, given.value).source)
    return {key: shared for key, shared in group.items() if key in names}


def updated(
    current: objects_pb2.Service, wanted: objects_pb2.Service, *, replicas_given: bool, resolve: bool
) -> objects_pb2.Service:
    """The stored service as the file wants it. What the file cannot say stays: how often it was forced to restart,
    whether it is stopped and, where the file gives no number, how many tasks it has."""
    from swarmpy.cli.edit_workload import replicas_of, set_replicas

    made = objects_pb2.Service()
    made.CopyFrom(current)
    made.meta.labels.clear()
    made.meta.labels.update(wanted.meta.labels)
    made.spec.CopyFrom(wanted.spec)
    made.spec.task.force_update = current.spec.task.force_update
    made.spec.stopped = current.spec.stopped
    same_mode = current.spec.WhichOneof("mode") == wanted.spec.WhichOneof("mode")
    count = replicas_of(current.spec)
    if not replicas_given and same_mode and count is not None:
        set_replicas(made.spec, count)
    if not resolve:
        keep_digests(made.spec, current.spec)
    return made


def keep_digests(spec: objects_pb2.ServiceSpec, before: objects_pb2.ServiceSpec) -> None:
    """Images of the same name stay what they were."""
    pairs = [(spec.task.container, before.task.container)]
    known = {part.name: part.container for part in (*before.task.init_containers, *before.task.sidecars)}
    parts = (*spec.task.init_containers, *spec.task.sidecars)
    pairs += [(part.container, known[part.name]) for part in parts if part.name in known]
    for new, old in pairs:
        if new.image == old.image:
            new.image_digest = old.image_digest
    if spec.HasField("pre_deploy") and spec.pre_deploy.image == before.pre_deploy.image:
        spec.pre_deploy.image_digest = before.pre_deploy.image_digest
