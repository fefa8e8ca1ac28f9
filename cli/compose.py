"""A whole compose file as values: services in their order, and what they use. Pure.

`project` takes the tree of all files together, with variables filled in; compose_files makes it, compose_spec
turns the result into what the managers store.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from swarmpy.cli.compose_service import NAME, Attachment, Service, Surroundings, service
from swarmpy.cli.compose_tree import Report, boolean, known, mapping, pairs, sequence, text
from swarmpy.cli.yaml_tree import Item

TOP = ("name", "version", "services", "networks", "volumes", "secrets", "configs")
REFUSED_TOP = {"include": "name the files with several -c", "models": "models are not built"}
NETWORK_KEYS = (
    "name", "external", "driver", "driver_opts", "attachable", "internal", "labels", "enable_ipv4",
    "enable_ipv6", "ipam",
)  # fmt: skip
VOLUME_KEYS = ("name", "external", "driver", "driver_opts", "labels")
FILE_KEYS = (
    "name",
    "external",
    "file",
    "environment",
    "content",
    "labels",
    "driver",
    "driver_opts",
    "template_driver",
)
DEFAULT_NETWORK = "default"
Content = Callable[[Item, str, Report], bytes]  # of the file at a path


@dataclass(frozen=True)
class Shared:
    """A network, volume, secret or config of the stack. `options`: of its driver; the rest as it applies."""

    noun: str
    key: str
    name: str
    external: bool
    item: Item
    labels: dict[str, str] = field(default_factory=dict)
    options: dict[str, str] = field(default_factory=dict)
    internal: bool = False
    attachable: bool = False
    ipv6: bool = False
    subnet: str = ""
    data: bytes = b""
    template_driver: str = ""


@dataclass
class Project:
    """What is to be; `levels` are services that may be written at the same time, those depended on first."""

    stack: str
    levels: list[list[Service]] = field(default_factory=list)
    networks: dict[str, Shared] = field(default_factory=dict)
    volumes: dict[str, Shared] = field(default_factory=dict)
    secrets: dict[str, Shared] = field(default_factory=dict)
    configs: dict[str, Shared] = field(default_factory=dict)

    @property
    def services(self) -> list[Service]:
        return [one for level in self.levels for one in level]


@dataclass(frozen=True)
class Reading:
    """How what is outside of the files is read."""

    around: Surroundings
    content: Content
    profiles: Collection[str] = ()


def project(root: Item, stack: str, reading: Reading, report: Report) -> Project:
    """The project called `stack`; what is wrong goes to the report."""
    top = mapping(root, "", report)
    for key, item in top.items():
        if key in REFUSED_TOP:
            report.refuse(item, key, f"is not supported: {REFUSED_TOP[key]}")
        elif key not in TOP:
            known(Item({key: item}, item.line, "map", item.file), "", TOP, report)
    if "name" in top and text(top["name"], "name", report) != stack:
        report.notice(top["name"], "name", f"ignored: the stack is called {stack}")
    if "version" in top:
        report.notice(top["version"], "version", "ignored: compose files have no versions any more")
    made = Project(stack)
    for noun, read in (("network", network), ("volume", volume)):
        for key, item in mapping(top.get(f"{noun}s", nothing(root)), f"{noun}s", report).items():
            getattr(made, f"{noun}s")[key] = read(stack, key, item, report)
    for noun in ("secret", "config"):
        for key, item in mapping(top.get(f"{noun}s", nothing(root)), f"{noun}s", report).items():
            getattr(made, f"{noun}s")[key] = file(noun, stack, key, item, reading, report)
    found = mapping(top.get("services", nothing(root)), "services", report)
    if not found:
        report.refuse(root, "services", "there is none")
    services = {key: service(key, item, reading.around, report) for key, item in found.items()}
    wanted = set(reading.profiles)
    chosen = {
        key: one
        for key, one in services.items()
        if not one.profiles or "*" in wanted or wanted.intersection(one.profiles)
    }
    attach(made, chosen.values(), root, report)
    made.levels = levels(chosen, services, report)
    return made


def nothing(root: Item) -> Item:
    return Item("", root.line, "null", root.file)


def attach(made: Project, services: Collection[Service], root: Item, report: Report) -> None:
    """Services without networks are on the stack's own."""
    for one in services:
        if not one.attachments and not one.has("network"):
            one.attachments.append(Attachment(DEFAULT_NETWORK, (), one.item))
        for attachment in one.attachments:
            if attachment.network == DEFAULT_NETWORK and DEFAULT_NETWORK not in made.networks:
                name = f"{made.stack}_{DEFAULT_NETWORK}"
                made.networks[DEFAULT_NETWORK] = Shared("network", DEFAULT_NETWORK, name, False, root)
            elif attachment.network not in made.networks:
                where = f"{one.path}.networks"
                report.refuse(
                    attachment.item, where,
                    f"{attachment.network!r} is not declared: add it under networks, at the top of the file",
                )  # fmt: skip


def levels(
    chosen: Mapping[str, Service], every: Mapping[str, Service], report: Report
) -> list[list[Service]]:
    """Services in the order of their dependencies; each level needs only those before it."""
    needs: dict[str, set[str]] = {}
    for name, one in chosen.items():
        for dependency in list(one.depends_on):
            path = f"{one.path}.depends_on"
            if dependency.service in chosen:
                check_condition(
                    chosen[dependency.service], dependency.condition, dependency.item, path, report
                )
            elif not dependency.required:
                one.depends_on.remove(dependency)
            elif dependency.service in every:
                profile = ", ".join(every[dependency.service].profiles)
                report.refuse(
                    dependency.item,
                    path,
                    f"service {dependency.service} is of a profile that is not chosen: --profile {profile}",
                )
            else:
                report.refuse(dependency.item, path, f"there is no service {dependency.service!r}")
        needs[name] = {dependency.service for dependency in one.depends_on} & set(chosen)
    result: list[list[Service]] = []
    done: set[str] = set()
    while len(done) < len(chosen):
        ready = [name for name in chosen if name not in done and needs[name] <= done]
        if not ready:
            circle = sorted(set(chosen) - done)
            report.refuse(
                chosen[circle[0]].item,
                f"{chosen[circle[0]].path}.depends_on",
                f"goes in a circle: {', '.join(circle)}",
            )
            return [*result, [chosen[name] for name in circle]]
        result.append([chosen[name] for name in ready])
        done.update(ready)
    return result


def check_condition(other: Service, condition: str, item: Item, path: str, report: Report) -> None:
    if condition == "completed" and not other.mode.endswith("-job"):
        report.refuse(
            item, path,
            f"{other.name} is not a job and never completes: give it deploy: {{mode: replicated-job}}",
        )  # fmt: skip


def external_name(keys: Mapping[str, Item], path: str, report: Report) -> tuple[bool, str]:
    """Whether it belongs to somebody else, and the name that is written (`external: {name: …}` is the old form)."""
    name = text(keys["name"], f"{path}.name", report) if "name" in keys else ""
    item = keys.get("external")
    if item is None:
        return False, name
    if isinstance(item.value, dict):
        inner = known(item, f"{path}.external", ("name",), report)
        return True, text(inner["name"], path, report) if "name" in inner else name
    return boolean(item, f"{path}.external", report), name


def labels_of(keys: Mapping[str, Item], path: str, report: Report, key: str = "labels") -> dict[str, str]:
    return {name: value or "" for name, value, _ in pairs(keys[key], path, report)} if key in keys else {}


def check_external(keys: Mapping[str, Item], path: str, report: Report) -> None:
    for key in keys:
        if key not in {"external", "name"}:
            report.refuse(
                keys[key], f"{path}.{key}", "does not go with external: that exists already as it is"
            )


def network(stack: str, key: str, item: Item, report: Report) -> Shared:
    path = f"networks.{key}"
    keys = known(item, path, NETWORK_KEYS, report)
    external, name = external_name(keys, path, report)
    if external:
        check_external(keys, path, report)
        return Shared("network", key, name or key, True, item)
    driver = text(keys["driver"], f"{path}.driver", report) if "driver" in keys else "overlay"
    if driver not in {"overlay", "default", ""}:
        report.refuse(
            keys["driver"], f"{path}.driver", f"{driver!r} is not built: leave it out, or write overlay"
        )
    if "enable_ipv4" in keys and not boolean(keys["enable_ipv4"], f"{path}.enable_ipv4", report):
        report.refuse(keys["enable_ipv4"], f"{path}.enable_ipv4", "networks always have IPv4")
    flags = {
        name_: boolean(keys[name_], f"{path}.{name_}", report) if name_ in keys else False
        for name_ in ("internal", "attachable", "enable_ipv6")
    }
    return Shared(
        "network", key, name or f"{stack}_{key}", False, item, labels_of(keys, path, report),
        labels_of(keys, path, report, "driver_opts"), flags["internal"], flags["attachable"], flags["enable_ipv6"],
        ipam(keys["ipam"], f"{path}.ipam", report) if "ipam" in keys else "",
    )  # fmt: skip


def ipam(item: Item, path: str, report: Report) -> str:
    """The one IPv4 subnet."""
    keys = known(item, path, ("driver", "config", "options"), report)
    if "driver" in keys and text(keys["driver"], path, report) != "default":
        report.refuse(keys["driver"], f"{path}.driver", "addresses come from the cluster: leave it out")
    if "options" in keys:
        report.refuse(keys["options"], f"{path}.options", "there are no options: leave it out")
    subnets = []
    for entry in sequence(keys["config"], f"{path}.config", report) if "config" in keys else []:
        for key, value in mapping(entry, f"{path}.config", report).items():
            if key == "subnet":
                subnets.append(text(value, f"{path}.config.subnet", report))
            else:
                report.refuse(
                    value,
                    f"{path}.config.{key}",
                    "every node gets a block of the subnet, and a gateway of its own",
                )
    if len(subnets) > 1:
        report.refuse(keys["config"], f"{path}.config", "a network has one IPv4 subnet")
    return subnets[0] if subnets else ""


def volume(stack: str, key: str, item: Item, report: Report) -> Shared:
    path = f"volumes.{key}"
    keys = known(item, path, VOLUME_KEYS, report)
    external, name = external_name(keys, path, report)
    if external:
        check_external(keys, path, report)
        return Shared("volume", key, name or key, True, item)
    if "driver" in keys and text(keys["driver"], f"{path}.driver", report) != "local":
        report.refuse(keys["driver"], f"{path}.driver", "volumes are of the driver local: leave it out")
    options = labels_of(keys, path, report, "driver_opts")
    return Shared(
        "volume", key, name or f"{stack}_{key}", False, item, labels_of(keys, path, report), options
    )


def file(noun: str, stack: str, key: str, item: Item, reading: Reading, report: Report) -> Shared:
    """A secret or config."""
    path = f"{noun}s.{key}"
    keys = known(item, path, FILE_KEYS, report)
    external, name = external_name(keys, path, report)
    for refused in ("driver", "driver_opts"):
        if refused in keys:
            report.refuse(keys[refused], f"{path}.{refused}", "contents come from a file, not from a driver")
    if external:
        check_external(keys, path, report)
        return Shared(noun, key, name or key, True, item)
    sources = [source for source in ("file", "environment", "content") if source in keys]
    if len(sources) != 1:
        report.refuse(item, path, "has one of file:, environment: and content:, or external: true")
        return Shared(noun, key, name or f"{stack}_{key}", False, item)
    source = keys[sources[0]]
    written = text(source, f"{path}.{sources[0]}", report)
    data = written.encode()
    if sources[0] == "file":
        data = reading.content(source, written, report)
    elif sources[0] == "environment":
        if written not in reading.around.environment:
            report.refuse(source, f"{path}.environment", f"variable {written} is not set")
        data = reading.around.environment.get(written, "").encode()
    template = text(keys["template_driver"], path, report) if "template_driver" in keys else ""
    return Shared(
        noun, key, name or f"{stack}_{key}", False, item, labels_of(keys, path, report), data=data,
        template_driver=template,
    )  # fmt: skip


def check_stack_name(stack: str) -> str:
    """What is wrong with a stack's name; "" when nothing is."""
    if len(stack) > 40 or not NAME.fullmatch(stack):
        return f"{stack[:60]!r} is no name of a stack: up to 40 letters, digits, - and _"
    return ""
