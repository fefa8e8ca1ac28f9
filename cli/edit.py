"""Flags -> ServiceSpec: one function for create (an edit of an empty service) and update.

`apply(service, flags)` changes meta and spec in place. A flag that was not given (None, ()) changes
nothing; an added entry replaces the one with the same key (variable, label, target path, …).
Imports protobuf, so only commands that run import it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from swarmpy.cli import edit_placement, edit_rollout, edit_runtime, edit_workload, parse
from swarmpy.cli.edit_endpoint import edit_balancing
from swarmpy.cli.edit_health import edit_health
from swarmpy.cli.edit_mounts import edit_files, mount_message
from swarmpy.cli.errors import UsageRefused
from swarmpy.proto import objects_pb2, types_pb2

Flags = Mapping[str, Any]
Resolve = Callable[[str], str]
PROTOCOLS = {"tcp": types_pb2.PROTOCOL_TCP, "udp": types_pb2.PROTOCOL_UDP, "sctp": types_pb2.PROTOCOL_SCTP}
MODES = {"ingress": types_pb2.PUBLISH_INGRESS, "host": types_pb2.PUBLISH_HOST}
CONDITIONS = {
    "any": types_pb2.RESTART_ANY,
    "on-failure": types_pb2.RESTART_ON_FAILURE,
    "none": types_pb2.RESTART_NONE,
}
ORDERS = {
    "auto": types_pb2.ORDER_AUTO,
    "stop-first": types_pb2.ORDER_STOP_FIRST,
    "start-first": types_pb2.ORDER_START_FIRST,
}
FAILURES = {
    "rollback": types_pb2.FAILURE_ROLLBACK,
    "pause": types_pb2.FAILURE_PAUSE,
    "continue": types_pb2.FAILURE_CONTINUE,
}
# Flags that are a field of ContainerSpec as they are.
CONTAINER_FIELDS = {
    "hostname": "hostname",
    "workdir": "dir",
    "user": "user",
    "tty": "tty",
    "read_only": "read_only",
    "privileged": "privileged",
    "stop_signal": "stop_signal",
    "stop_grace_period": "stop_grace_ms",
    "drain_delay": "drain_delay_ms",
    "shm_size": "shm_size_bytes",
    "pull": "pull_policy",
    "oom_score_adj": "oom_score_adj",
}


def new_service(
    name: str, image: str, command: Iterable[str], mode: str, flags: Flags
) -> objects_pb2.Service:
    """The service `service create` asks for."""
    service = objects_pb2.Service()
    service.meta.name = name
    service.spec.task.container.image = image
    service.spec.task.container.args.extend(command)
    edit_workload.set_mode(service.spec, mode)
    apply(service, flags, lambda name: name)
    return service


def apply(service: objects_pb2.Service, flags: Flags, resolve: Resolve) -> None:
    """All flags; `resolve` turns a network's name into its id (for --network-rm)."""
    from swarmpy.cli.edit_pods import edit_pods  # which edits containers with what is here

    spec = service.spec
    edit_labels(service.meta.labels, flags, "label")
    edit_container(spec.task.container, flags)
    edit_process(spec.task.container, flags)
    edit_health(spec.task.container, flags)
    edit_task(spec, flags)
    edit_runtime.edit(spec.task, flags)
    edit_pods(spec.task, flags)
    edit_update(spec.update, flags, "update")
    edit_update(spec.rollback, flags, "rollback")
    edit_rollout.edit(spec, flags)
    edit_workload.apply(spec, flags)
    edit_networks(spec.task, flags, resolve)
    edit_ports(spec.endpoint, flags)
    edit_balancing(spec.endpoint, flags)
    drop_empty(spec.task.container, "health", "readiness", "startup", "log")
    drop_empty(spec.task.resources, "limits", "reservations")
    drop_empty(spec.task, "resources", "restart", "placement")
    drop_empty(spec, "update", "rollback", "endpoint")


def drop_empty(message: Any, *fields: str) -> None:
    """A part in which nothing is set is not there: it must not look like a change."""
    for field in fields:
        if message.HasField(field) and not getattr(message, field).ByteSize():
            message.ClearField(field)


def edit_container(container: types_pb2.ContainerSpec, flags: Flags) -> None:
    """Image, command, environment, files and names."""
    if flags.get("image") is not None:
        container.image, container.image_digest = flags["image"], ""
    if flags.get("args") is not None:
        container.args[:] = flags["args"]
    if flags.get("entrypoint") is not None:
        container.command[:] = flags["entrypoint"]
    for flag, field in CONTAINER_FIELDS.items():
        if flags.get(flag) is not None:
            setattr(container, field, flags[flag])
    if flags.get("init") is not None:
        container.init, container.no_init = flags["init"], not flags["init"]
    from_files = [line for file in flags.get("env_file", ()) for line in env_lines(file)]
    added = parse.environment([*from_files, *flags.get("env_add", ())], os.environ)
    container.env[:] = keyed(
        container.env, added, flags.get("env_rm", ()), lambda entry: entry.partition("=")[0]
    )
    edit_labels(container.labels, flags, "container_label")
    mounts = [mount_message(value) for value in (*flags.get("mount_add", ()), *flags.get("tmpfs_add", ()))]
    gone = (*flags.get("mount_rm", ()), *flags.get("tmpfs_rm", ()))
    replace(container.mounts, keyed(container.mounts, mounts, gone, lambda mount: mount.target))
    edit_files(container.secrets, flags, "secret")
    edit_files(container.configs, flags, "config")
    hosts = [types_pb2.Host(name=name, address=address) for name, address in flags.get("host_add", ())]
    removed = set(flags.get("host_rm", ()))
    kept = [h for h in container.hosts if (h.name, "") not in removed and (h.name, h.address) not in removed]
    replace(container.hosts, [*kept, *(host for host in hosts if host not in kept)])
    edit_set(container.dns_servers, flags, "dns")
    edit_set(container.dns_search, flags, "dns_search")
    edit_set(container.dns_options, flags, "dns_option")


def edit_process(container: types_pb2.ContainerSpec, flags: Flags) -> None:
    """Rights and limits of the process."""
    edit_set(container.groups, flags, "group")
    devices = keyed(container.devices, flags.get("device_add", ()), flags.get("device_rm", ()), device_path)
    container.devices[:] = devices
    edit_labels(container.sysctls, flags, "sysctl")
    limits = [types_pb2.Ulimit(name=u.name, soft=u.soft, hard=u.hard) for u in flags.get("ulimit_add", ())]
    replace(container.ulimits, keyed(container.ulimits, limits, flags.get("ulimit_rm", ()), lambda u: u.name))
    give, take = set(container.cap_add), set(container.cap_drop)
    asked_add, asked_drop = set(flags.get("cap_add", ())), set(flags.get("cap_drop", ()))
    if asked_add & asked_drop:
        both = ", ".join(sorted(asked_add & asked_drop))
        raise UsageRefused(f"--cap-add and --cap-drop both name {both}: leave one out.")
    give, take = (give - asked_drop) | asked_add, (take - asked_add) | asked_drop
    for asked, names in ((asked_add, give), (asked_drop, take)):
        if "RESET" in asked:
            names.clear()
    container.cap_add[:], container.cap_drop[:] = sorted(give), sorted(take)
    edit_runtime.security(container, flags.get("security_opt", ()))


def edit_task(spec: objects_pb2.ServiceSpec, flags: Flags) -> None:
    """Mode, resources, restart, placement."""
    task = spec.task
    resources = task.resources
    for flag, side in (("limit", resources.limits), ("reserve", resources.reservations)):
        if flags.get(f"{flag}_cpu") is not None:
            side.nano_cpus = flags[f"{flag}_cpu"]
        if flags.get(f"{flag}_memory") is not None:
            side.memory_bytes = flags[f"{flag}_memory"]
    if flags.get("limit_pids") is not None:
        resources.pids_limit = flags["limit_pids"]
    if flags.get("restart_condition") is not None:
        task.restart.condition = CONDITIONS[flags["restart_condition"]]
    for flag, field in (
        ("delay", "delay_ms"),
        ("max_delay", "max_delay_ms"),
        ("max_attempts", "max_attempts"),
        ("window", "window_ms"),
    ):
        if flags.get(f"restart_{flag}") is not None:
            setattr(task.restart, field, flags[f"restart_{flag}"])
    if flags.get("replicas_max_per_node") is not None:
        task.placement.max_replicas_per_node = flags["replicas_max_per_node"]
    placement = task.placement
    placement.constraints[:] = keyed(
        placement.constraints,
        flags.get("constraint_add", ()),
        [squeezed(text) for text in flags.get("constraint_rm", ())],
        squeezed,
    )
    edit_placement.apply(spec, flags)
    task.force_update += bool(flags.get("force"))


def edit_update(config: types_pb2.UpdateConfig, flags: Flags, prefix: str) -> None:
    """--update-* and --rollback-*."""
    values = {
        key: flags.get(f"{prefix}_{key}")
        for key in ("delay", "order", "failure_action", "monitor", "max_failure_ratio")
    }
    if values["max_failure_ratio"] is not None:
        config.max_failure_ratio = values["max_failure_ratio"]
    for field in ("delay", "monitor"):
        if values[field] is not None:
            setattr(config, f"{field}_ms", values[field])
    if values["order"] is not None:
        config.order = ORDERS[values["order"]]
    if values["failure_action"] is not None:
        config.failure_action = FAILURES[values["failure_action"]]


def placed(
    reference: types_pb2.NetworkReference, addresses: Sequence[str], addresses6: Sequence[str]
) -> types_pb2.NetworkReference:
    """The addresses that the user named: which of them is the virtual one the managers know."""
    reference.address = addresses[0] if addresses else ""
    reference.task_addresses[:] = addresses[1:]
    reference.task_addresses6[:] = addresses6
    return reference


def edit_networks(task: types_pb2.TaskSpec, flags: Flags, resolve: Resolve) -> None:
    """--network*."""
    edit_runtime.take_network_modes(
        task, (value.target for value in flags.get("network_add", ())), flags.get("network_rm", ())
    )
    gone = {name for value in flags.get("network_rm", ()) for name in (value, resolve(value))}
    added = [
        placed(types_pb2.NetworkReference(target=n.target, aliases=n.aliases), n.addresses, n.addresses6)
        for n in flags.get("network_add", ())
        if n.target != task.network_mode
    ]
    if added:
        gone |= {resolve(reference.target) for reference in added}
    replace(task.networks, keyed(task.networks, added, gone, lambda reference: reference.target))


def edit_ports(endpoint: objects_pb2.EndpointSpec, flags: Flags) -> None:
    """--publish*: --publish-rm names target ports, as Docker has it."""
    added = [port_message(value) for ports in flags.get("publish_add", ()) for value in ports]

    def goes(port: types_pb2.Port) -> bool:
        for value in flags.get("publish_rm", ()):
            same = port.target == value.target and port.protocol == PROTOCOLS[value.protocol]
            if same and value.published in {0, port.published}:
                return True
        return any(
            (port.published, port.protocol, port.mode, port.address)
            == (new.published, new.protocol, new.mode, new.address)
            and port.published
            for new in added
        )

    replace(endpoint.ports, [*(port for port in endpoint.ports if not goes(port)), *added])


def edit_labels(labels: Any, flags: Flags, name: str) -> None:
    """A map: --NAME-rm, then --NAME-add."""
    for key in flags.get(f"{name}_rm", ()):
        labels.pop(key, None)
    labels.update(dict(flags.get(f"{name}_add", ())))


def edit_set(values: Any, flags: Flags, name: str) -> None:
    """A list of different texts."""
    values[:] = keyed(values, flags.get(f"{name}_add", ()), flags.get(f"{name}_rm", ()), str)


def keyed(
    old: Iterable[Any], added: Iterable[Any], removed: Iterable[str], key: Callable[[Any], str]
) -> list[Any]:
    """Old entries without the removed keys, then the added; the last of a key wins, in its first place."""
    gone = set(removed)
    result = {key(entry): entry for entry in old if key(entry) not in gone}
    result.update({key(entry): entry for entry in added})
    return list(result.values())


def replace(field: Any, entries: Iterable[Any]) -> None:
    """New contents for a repeated message field."""
    copies = list(entries)
    del field[:]
    field.extend(copies)


def squeezed(constraint: str) -> str:
    """A constraint without spaces around its operator: what makes two the same."""
    return re.sub(r"\s*(==|!=|>=|<=|>|<)\s*", r"\1", constraint).strip()


def device_path(device: str) -> str:
    """The device as the container sees it."""
    parts = device.split(":")
    return parts[1] if len(parts) > 1 else parts[0]


def env_lines(file: str) -> list[str]:
    """An --env-file."""
    try:
        return parse.env_file_lines(Path(file).read_text(encoding="utf-8"), file)
    except (OSError, ValueError) as error:
        raise UsageRefused(f"--env-file: {error}") from None


def port_message(value: parse.PortValue) -> types_pb2.Port:
    """A --publish."""
    return types_pb2.Port(
        name=value.name,
        protocol=PROTOCOLS[value.protocol],
        target=value.target,
        published=value.published,
        mode=MODES[value.mode],
        address=value.address,
    )
