"""deploy:, healthcheck:, logging: and ulimits: of a compose service, as flags. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from swarmpy.cli import compose_keys
from swarmpy.cli.compose_tree import Report, boolean, known, mapping, pairs, sequence, text, texts
from swarmpy.cli.yaml_tree import Item

if TYPE_CHECKING:
    from swarmpy.cli.compose_service import Service

MODES = ("replicated", "global", "ordered", "replicated-job", "global-job")
UPDATE_KEYS = ("parallelism", "delay", "failure_action", "monitor", "max_failure_ratio", "order")
BLKIO_RATES = ("device_read_bps", "device_write_bps", "device_read_iops", "device_write_iops")
HEALTH_KEYS = ("test", "interval", "timeout", "retries", "start_period", "start_interval", "disable")


def deploy(made: Service, item: Item, path: str, report: Report) -> None:
    keys = known(item, path, compose_keys.DEPLOY, report)
    if "mode" in keys:
        made.mode = text(keys["mode"], f"{path}.mode", report)
        if made.mode not in MODES:
            report.refuse(keys["mode"], f"{path}.mode", f"{made.mode!r} is not one of {', '.join(MODES)}")
            made.mode = MODES[0]
    for key, flag in (("replicas", "replicas"), ("endpoint_mode", "endpoint-mode")):
        if key in keys:
            made.give(flag, text(keys[key], f"{path}.{key}", report), keys[key], f"{path}.{key}")
    if "labels" in keys:
        for name, label, at in pairs(keys["labels"], f"{path}.labels", report):
            made.give("label", f"{name}={label or ''}", at, f"{path}.labels")
    for key, prefix in (("update_config", "update"), ("rollback_config", "rollback")):
        if key in keys:
            for name, value in known(keys[key], f"{path}.{key}", UPDATE_KEYS, report).items():
                where = f"{path}.{key}.{name}"
                made.give(f"{prefix}-{name.replace('_', '-')}", text(value, where, report), value, where)
    if "restart_policy" in keys:
        where = f"{path}.restart_policy"
        names = ("condition", "delay", "max_attempts", "window")
        for name, value in known(keys["restart_policy"], where, names, report).items():
            made.give(
                f"restart-{name.replace('_', '-')}", text(value, where, report), value, f"{where}.{name}"
            )
    if "placement" in keys:
        placement(made, keys["placement"], f"{path}.placement", report)
    if "resources" in keys:
        resources(made, keys["resources"], f"{path}.resources", report)


def placement(made: Service, item: Item, path: str, report: Report) -> None:
    keys = known(item, path, ("constraints", "preferences", "max_replicas_per_node"), report)
    if "constraints" in keys:
        for entry, at in texts(keys["constraints"], f"{path}.constraints", report):
            made.give("constraint", entry, at, f"{path}.constraints")
    if "preferences" in keys:
        where = f"{path}.preferences"
        for one in sequence(keys["preferences"], where, report):
            inner = known(one, where, ("spread",), report)
            if "spread" in inner:
                made.give("placement-pref", f"spread={text(inner['spread'], where, report)}", one, where)
    if most := keys.get("max_replicas_per_node"):
        where = f"{path}.max_replicas_per_node"
        made.give("replicas-max-per-node", text(most, where, report), most, where)


def resources(made: Service, item: Item, path: str, report: Report) -> None:
    keys = known(item, path, ("limits", "reservations"), report)
    if "limits" in keys:
        limits = known(keys["limits"], f"{path}.limits", ("cpus", "memory", "pids"), report)
        for key, flag in (("cpus", "limit-cpu"), ("memory", "limit-memory"), ("pids", "limit-pids")):
            if key in limits:
                where = f"{path}.limits.{key}"
                made.give(flag, text(limits[key], where, report), limits[key], where)
    if "reservations" not in keys:
        return
    where = f"{path}.reservations"
    kept = known(keys["reservations"], where, ("cpus", "memory", "generic_resources", "devices"), report)
    for key, flag in (("cpus", "reserve-cpu"), ("memory", "reserve-memory")):
        if key in kept:
            made.give(flag, text(kept[key], f"{where}.{key}", report), kept[key], f"{where}.{key}")
    if "devices" in kept:
        report.refuse(
            kept["devices"], f"{where}.devices",
            "is not supported: use gpus: all, or generic_resources with nodes that have some (node update "
            "--generic-resource)",
        )  # fmt: skip
    if "generic_resources" in kept:
        generic(made, kept["generic_resources"], f"{where}.generic_resources", report)


def generic(made: Service, item: Item, path: str, report: Report) -> None:
    for entry in sequence(item, path, report):
        spec = known(entry, path, ("discrete_resource_spec",), report).get("discrete_resource_spec")
        inner = known(spec, path, ("kind", "value"), report) if spec is not None else {}
        if set(inner) != {"kind", "value"}:
            report.refuse(entry, path, "is discrete_resource_spec: {kind: NAME, value: NUMBER}")
            continue
        kind, value = (text(inner[key], f"{path}.{key}", report) for key in ("kind", "value"))
        made.give("generic-resource", f"{kind}={value}", entry, path)


def healthcheck(made: Service, item: Item, path: str, report: Report) -> None:
    keys = known(item, path, HEALTH_KEYS, report)
    if "disable" in keys and boolean(keys["disable"], f"{path}.disable", report):
        made.switches["no_healthcheck"] = True
        return
    if "test" in keys:
        health_test(made, keys["test"], f"{path}.test", report)
    for key in HEALTH_KEYS[1:-1]:
        if key in keys and not made.switches.get("no_healthcheck"):
            where = f"{path}.{key}"
            made.give(f"health-{key.replace('_', '-')}", text(keys[key], where, report), keys[key], where)


def health_test(made: Service, item: Item, path: str, report: Report) -> None:
    """A text for a shell, [CMD, …], [CMD-SHELL, text] or [NONE]."""
    if isinstance(item.value, str):
        made.give("health-cmd", item.value, item, path)
        return
    given = tuple(entry for entry, _ in texts(item, path, report))
    if given == ("NONE",):
        made.switches["no_healthcheck"] = True
    elif len(given) == 2 and given[0] == "CMD-SHELL":
        made.give("health-cmd", given[1], item, path)
    elif len(given) > 1 and given[0] == "CMD":
        made.health_test = given
    else:
        report.refuse(item, path, "begins with CMD, CMD-SHELL (and one text) or NONE, or is a text")


def logging_(made: Service, item: Item, path: str, report: Report) -> None:
    keys = known(item, path, ("driver", "options"), report)
    if "driver" in keys:
        made.give("log-driver", text(keys["driver"], path, report), keys["driver"], f"{path}.driver")
    if "options" in keys:
        for name, value, at in pairs(keys["options"], f"{path}.options", report):
            made.give("log-opt", f"{name}={value or ''}", at, f"{path}.options")


def blkio(made: Service, item: Item, path: str, report: Report) -> None:
    for key, value in mapping(item, path, report).items():
        where = f"{path}.{key}"
        if key == "weight":
            made.give("blkio-weight", text(value, where, report), value, where)
        elif key in BLKIO_RATES:
            for position, entry in enumerate(sequence(value, where, report)):
                at = f"{where}[{position}]"
                keys = known(entry, at, ("path", "rate"), report)
                if set(keys) != {"path", "rate"}:
                    report.refuse(entry, at, "has both path: and rate:")
                    continue
                disk, rate = (text(keys[name], f"{at}.{name}", report) for name in ("path", "rate"))
                made.give(key.replace("_", "-"), f"{disk}:{rate}", entry, at)
        else:
            report.refuse(value, where, f"is not built; weight and {', '.join(BLKIO_RATES)} are")


def ulimits(made: Service, item: Item, path: str, report: Report) -> None:
    for name, value in mapping(item, path, report).items():
        where = f"{path}.{name}"
        if isinstance(value.value, str):
            made.give("ulimit", f"{name}={value.value}", value, where)
            continue
        keys = known(value, where, ("soft", "hard"), report)
        if set(keys) != {"soft", "hard"}:
            report.refuse(value, where, "has both soft: and hard:")
            continue
        soft, hard = (text(keys[key], where, report) for key in ("soft", "hard"))
        made.give("ulimit", f"{name}={soft}:{hard}", value, where)
