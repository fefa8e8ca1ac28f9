"""One service of a compose file as the flags of `service create`: names and texts, with their places. Pure.

What the flags mean is known where they are (cli/flags), so that a compose file and a command line give the
same specification. Networks, volumes, secrets and configs keep the short names of the file; compose_spec gives
them those of the stack.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from swarmpy.cli import compose_keys
from swarmpy.cli.compose_deploy import blkio, deploy, healthcheck, logging_, ulimits
from swarmpy.cli.compose_mounts import file_uses, ports, volumes
from swarmpy.cli.compose_tree import Report, boolean, known, mapping, pairs, text, texts, unknown
from swarmpy.cli.parse import ip_address
from swarmpy.cli.yaml_tree import Item

CONDITIONS = {
    "service_started": "started", "service_healthy": "healthy", "service_completed_successfully": "completed",
}  # fmt: skip
PULL_POLICIES = {"always": "always", "missing": "missing", "if_not_present": "missing", "never": "never"}
NAME = re.compile(r"[A-Za-z0-9](?:[-_A-Za-z0-9]*[A-Za-z0-9])?")
EnvFile = Callable[[Item, str, bool, bool, Report], Mapping[str, str | None]]


@dataclass(frozen=True)
class Given:
    """One flag: its name without dashes, the text it is given, and where that is written."""

    flag: str
    value: str
    item: Item
    path: str


@dataclass(frozen=True)
class Attachment:
    """A network of the file, by its key there, and the service's aliases and its tasks' addresses on it."""

    network: str
    aliases: tuple[str, ...]
    item: Item
    addresses: tuple[str, ...] = ()
    addresses6: tuple[str, ...] = ()


@dataclass(frozen=True)
class Dependency:
    service: str
    condition: str
    required: bool
    item: Item


@dataclass
class Service:
    """See the module."""

    name: str
    item: Item
    path: str
    image: str = ""
    mode: str = "replicated"
    command: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] | None = None
    health_test: tuple[str, ...] = ()
    stdin_open: bool = False
    given: list[Given] = field(default_factory=list)
    switches: dict[str, bool] = field(default_factory=dict)
    attachments: list[Attachment] = field(default_factory=list)
    depends_on: list[Dependency] = field(default_factory=list)
    profiles: tuple[str, ...] = ()

    def give(self, flag: str, value: str, item: Item, path: str) -> None:
        self.given.append(Given(flag, value, item, path))

    def has(self, flag: str) -> bool:
        return any(given.flag == flag for given in self.given)


@dataclass(frozen=True)
class Surroundings:
    """What a service is read in."""

    environment: Mapping[str, str]
    env_file: EnvFile  # (path's item, its text, required, raw, report)
    directory: str  # to which relative paths are relative


def service(name: str, item: Item, around: Surroundings, report: Report) -> Service:
    """One service; problems go to the report."""
    made = Service(name, item, f"services.{name}")
    if not NAME.fullmatch(name):
        report.refuse(item, made.path, "a name has letters, digits, - and _, a letter or digit at both ends")
    found = mapping(item, made.path, report)
    for key, value in found.items():
        path = f"{made.path}.{key}"
        if key in compose_keys.IGNORED:
            if key == "build" and "image" not in found:
                report.refuse(
                    value,
                    path,
                    "a stack runs images: build it (swarmpy image build -t NAME .), add image: NAME",
                )
            else:
                report.notice(value, path, f"ignored, as in Docker's swarm mode: {compose_keys.IGNORED[key]}")
        elif key in compose_keys.REFUSED:
            report.refuse(value, path, f"is not supported: {compose_keys.REFUSED[key]}")
        elif key not in compose_keys.SUPPORTED:
            report.refuse(value, path, unknown(key, compose_keys.SUPPORTED))
        else:
            simple(made, key, value, path, report)
    own_keys(made, found, around, report)
    if not made.image and "build" not in found:
        report.refuse(item, made.path, "has no image: add image: NAME")
    return made


def simple(made: Service, key: str, item: Item, path: str, report: Report) -> None:
    """The keys that are a flag."""
    if item.tag == "null":
        return
    if key in compose_keys.TEXT_FLAGS:
        made.give(compose_keys.TEXT_FLAGS[key], text(item, path, report), item, path)
    elif key in compose_keys.SWITCH_FLAGS:
        made.switches[compose_keys.SWITCH_FLAGS[key]] = boolean(item, path, report)
    elif key in compose_keys.LIST_FLAGS:
        for entry, at in texts(item, path, report, single=key in compose_keys.SINGLE):
            made.give(compose_keys.LIST_FLAGS[key], entry, at, path)
    elif key in compose_keys.PAIR_FLAGS:
        for name, value, at in pairs(item, path, report):
            made.give(compose_keys.PAIR_FLAGS[key], f"{name}={value or ''}", at, path)


def own_keys(made: Service, found: Mapping[str, Item], around: Surroundings, report: Report) -> None:
    """The keys that are read one by one; those that are not there are skipped."""
    readers: dict[str, Callable[[Item, str], None]] = {
        "image": lambda item, path: setattr(made, "image", text(item, path, report)),
        "blkio_config": lambda item, path: blkio(made, item, path, report),
        "stdin_open": lambda item, path: setattr(made, "stdin_open", boolean(item, path, report)),
        "command": lambda item, path: setattr(made, "command", words(item, path, report)),
        "entrypoint": lambda item, path: setattr(made, "entrypoint", words(item, path, report)),
        "profiles": lambda item, path: setattr(
            made, "profiles", tuple(t for t, _ in texts(item, path, report))
        ),
        "extra_hosts": lambda item, path: extra_hosts(made, item, path, report),
        "depends_on": lambda item, path: depends_on(made, item, path, report),
        "networks": lambda item, path: networks(made, item, path, report),
        "network_mode": lambda item, path: network_mode(made, item, path, report),
        "pull_policy": lambda item, path: pull_policy(made, item, path, report),
        "gpus": lambda item, path: gpus(made, item, path, report),
        "ulimits": lambda item, path: ulimits(made, item, path, report),
        "logging": lambda item, path: logging_(made, item, path, report),
        "healthcheck": lambda item, path: healthcheck(made, item, path, report),
        "deploy": lambda item, path: deploy(made, item, path, report),
        "restart": lambda item, path: restart(made, item, path, report),
        "ports": lambda item, path: ports(made, item, path, report),
        "volumes": lambda item, path: volumes(made, item, path, around.directory, report),
        "secrets": lambda item, path: file_uses(made, "secret", item, path, report),
        "configs": lambda item, path: file_uses(made, "config", item, path, report),
    }
    for key, reader in readers.items():
        if key in found and found[key].tag != "null":
            reader(found[key], f"{made.path}.{key}")
    environment(made, found, around, report)
    if isinstance(made.item.value, dict) and compose_keys.EXTENSION in made.item.value:
        path = f"{made.path}.{compose_keys.EXTENSION}"
        extension(made, made.item.value[compose_keys.EXTENSION], path, report)
    if "networks" in found and "network_mode" in found:
        report.refuse(found["networks"], made.path, "networks and network_mode exclude each other")


def words(item: Item, path: str, report: Report) -> tuple[str, ...]:
    """A command: a list, or a text in shell quoting."""
    if isinstance(item.value, list):
        return tuple(entry for entry, _ in texts(item, path, report))
    try:
        return tuple(shlex.split(text(item, path, report)))
    except ValueError as error:
        report.refuse(item, path, f"{error}")
        return ()


def environment(made: Service, found: Mapping[str, Item], around: Surroundings, report: Report) -> None:
    """env_file first, environment over it; a name alone takes the value from here, or is left out."""
    values: dict[str, tuple[str | None, Item]] = {}
    if "env_file" in found:
        item, path = found["env_file"], f"{made.path}.env_file"
        entries = item.value if isinstance(item.value, list) else [item]
        for entry in entries:
            required, raw, file = True, False, entry
            if isinstance(entry.value, dict):
                keys = known(entry, path, ("path", "required", "format"), report)
                required = boolean(keys["required"], path, report) if "required" in keys else True
                raw = "format" in keys and text(keys["format"], path, report) == "raw"
                if "path" not in keys:
                    report.refuse(entry, path, "names no file: add path:")
                    continue
                file = keys["path"]
            lines = around.env_file(file, text(file, path, report), required, raw, report)
            values.update({name: (value, file) for name, value in lines.items()})
    if "environment" in found:
        path = f"{made.path}.environment"
        values.update({name: (value, at) for name, value, at in pairs(found["environment"], path, report)})
    for name, (written, at) in values.items():
        shown = around.environment.get(name) if written is None else written
        if shown is not None:
            made.give("env", f"{name}={shown}", at, f"{made.path}.environment.{name}")


def extra_hosts(made: Service, item: Item, path: str, report: Report) -> None:
    if isinstance(item.value, dict):
        for name, value in item.value.items():
            for address, at in texts(value, path, report, single=True):
                made.give("host", f"{name}:{address}", at, path)
        return
    for name, found, at in pairs(item, path, report, "=:"):
        made.give("host", f"{name}:{(found or '').strip('[]')}", at, path)


def depends_on(made: Service, item: Item, path: str, report: Report) -> None:
    if isinstance(item.value, list):
        for name, at in texts(item, path, report):
            made.depends_on.append(Dependency(name, "started", True, at))
        return
    for name, rules in mapping(item, path, report).items():
        keys = known(rules, f"{path}.{name}", ("condition", "restart", "required"), report)
        condition = "service_started"
        if "condition" in keys:
            condition = text(keys["condition"], path, report)
        if condition not in CONDITIONS:
            report.refuse(
                rules, f"{path}.{name}.condition", f"{condition!r} is not one of {', '.join(CONDITIONS)}"
            )
            continue
        if "restart" in keys and boolean(keys["restart"], path, report):
            report.refuse(
                keys["restart"], f"{path}.{name}.restart",
                "is not supported: tasks keep running while what they depend on is replaced",
            )  # fmt: skip
        required = boolean(keys["required"], path, report) if "required" in keys else True
        made.depends_on.append(Dependency(name, CONDITIONS[condition], required, rules))


STATIC = {"ipv4_address": 4, "ipv6_address": 6}


def networks(made: Service, item: Item, path: str, report: Report) -> None:
    if isinstance(item.value, list):
        for name, at in texts(item, path, report):
            made.attachments.append(Attachment(name, (), at))
        return
    for name, value in mapping(item, path, report).items():
        where = f"{path}.{name}"
        keys = mapping(value, where, report)
        aliases: tuple[str, ...] = ()
        addresses: dict[str, tuple[str, ...]] = {}
        for key, at in keys.items():
            if key == "aliases":
                aliases = tuple(alias for alias, _ in texts(at, f"{where}.aliases", report))
            elif key in {"priority", "gw_priority", "mac_address"}:
                report.notice(at, f"{where}.{key}", "ignored, as in Docker's swarm mode")
            elif key in STATIC:
                try:
                    addresses[key] = (ip_address(text(at, f"{where}.{key}", report), STATIC[key]),)
                except ValueError as error:
                    report.refuse(at, f"{where}.{key}", str(error))
            elif key in {"link_local_ips", "driver_opts", "interface_name"}:
                report.refuse(at, f"{where}.{key}", "is not supported")
            else:
                report.refuse(at, f"{where}.{key}", unknown(key, ("aliases", "priority", *STATIC)))
        given = (addresses.get(key, ()) for key in STATIC)
        made.attachments.append(Attachment(name, aliases, value, *given))


def network_mode(made: Service, item: Item, path: str, report: Report) -> None:
    mode = text(item, path, report)
    if mode in {"host", "none"}:
        made.give("network", mode, item, path)
    else:
        report.refuse(
            item, path, f"{mode!r} is not supported: use host, none or networks; containers that share one network "
            "are one service with x-swarmpy: {sidecar: …}",
        )  # fmt: skip


def pull_policy(made: Service, item: Item, path: str, report: Report) -> None:
    policy = text(item, path, report)
    if policy in PULL_POLICIES:
        made.give("pull", PULL_POLICIES[policy], item, path)
    else:
        report.refuse(item, path, f"{policy!r} is not supported: use {', '.join(PULL_POLICIES)}")


def gpus(made: Service, item: Item, path: str, report: Report) -> None:
    if isinstance(item.value, str):
        made.give("gpus", item.value, item, path)
    else:
        report.refuse(item, path, "only `all` is supported, or x-swarmpy: {gpus: 'device=/dev/NAME'}")


def restart(made: Service, item: Item, path: str, report: Report) -> None:
    """Counts only where deploy.restart_policy says nothing, as with Docker."""
    policy, _, most = text(item, path, report).partition(":")
    condition = {
        "no": "none",
        "false": "none",
        "always": "any",
        "unless-stopped": "any",
        "on-failure": "on-failure",
    }
    if policy not in condition or (most and policy != "on-failure"):
        report.refuse(item, path, f"{item.value!r} is not no, always, unless-stopped or on-failure[:TIMES]")
    elif made.has("restart-condition"):
        report.notice(item, path, "ignored: deploy.restart_policy says it")
    else:
        made.give("restart-condition", condition[policy], item, path)
        if most:
            made.give("restart-max-attempts", most, item, path)


def extension(made: Service, item: Item, path: str, report: Report) -> None:
    """x-swarmpy: any flag of `service create` by its name, for what compose files have no key."""
    if not isinstance(item.value, dict):
        report.refuse(item, path, "a map is wanted here, FLAG: VALUE on each line")
        return
    for name, value in item.value.items():
        for entry, at in texts(value, f"{path}.{name}", report, single=True):
            made.give(name.replace("_", "-"), entry, at, f"{path}.{name}")
