"""--sidecar, --init-container, --pre-start and --pod: containers of a pod as plain values. Pure.

A container is described by the flags of `service create` that are about one container, without their
dashes: `name=proxy,image=envoy:1,cmd=envoy -c /e.yaml,env=A=1,readiness-http=:9901/ready`. In a file the
same names are keys. Which names there are and what they take is known in edit_pods.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass

from swarmpy.cli.parse import csv_pairs
from swarmpy.cli.yaml_tree import Item, YamlRefused

COMMAND = "cmd"
OTHER_NAMES = {"command": COMMAND, "args": COMMAND, "label": "container-label"}
MAP_KEYS = {"env", "container-label", "sysctl", "annotation", "log-opt", "host"}
POD_KEYS = ("init-containers", "sidecars", "share-pid")


@dataclass(frozen=True)
class ContainerValue:
    """One container: flag name -> the values it was given. `command`: words; `where` is for messages."""

    name: str
    given: Mapping[str, tuple[str, ...]]
    command: tuple[str, ...] = ()
    where: str = ""


@dataclass(frozen=True)
class PodValue:
    """A --pod file."""

    init_containers: tuple[ContainerValue, ...] = ()
    sidecars: tuple[ContainerValue, ...] = ()
    share_pid: bool = False


def container(text: str) -> ContainerValue:
    """`name=NAME,image=IMAGE[,cmd=…][,FLAG=VALUE…]`, comma-separated values in CSV quotes."""
    given: dict[str, tuple[str, ...]] = {}
    for key, value in csv_pairs(text):
        name = canonical(key)
        given[name] = (*given.get(name, ()), value)
    return made(given, f"{text!r}")


def pre_start(text: str) -> ContainerValue:
    """`IMAGE [COMMAND…]` in shell quoting; it gets its name when it is added."""
    words = words_of(text, f"{text!r}")
    if not words:
        raise ValueError("it is empty: write IMAGE and, if need be, a command")
    return ContainerValue("", {"image": (words[0],)}, tuple(words[1:]), f"{text!r}")


def made(
    given: dict[str, tuple[str, ...]], where: str, command: tuple[str, ...] | None = None
) -> ContainerValue:
    names = given.pop("name", ())
    if len(names) != 1 or not names[0]:
        raise ValueError(f"{where} needs one name: add name=NAME")
    if "image" not in given:
        raise ValueError(f"{where} names no image: add image=IMAGE")
    if command is None:
        command = tuple(words_of(" ".join(given.pop(COMMAND, ())), where))
    return ContainerValue(names[0], given, command, where)


def canonical(key: str) -> str:
    name = key.strip().replace("_", "-")
    return OTHER_NAMES.get(name, name)


def words_of(text: str, where: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def pod(root: Item, file: str) -> PodValue:
    """What a --pod file says. Raises YamlRefused with the line."""
    found = {key.replace("_", "-"): item for key, item in map_of(root, file).items()}
    for key, item in found.items():
        if key not in POD_KEYS:
            raise YamlRefused(
                f"{file}, line {item.line}: {key!r} is not a key here: use {', '.join(POD_KEYS)}"
            )
    share = found.get("share-pid", Item("false", root.line))
    if share.value not in ("true", "false"):
        raise YamlRefused(f"{file}, line {share.line}: share-pid is true or false")
    lists = {key: list_of(found.get(key, Item([], root.line)), file) for key in POD_KEYS[:2]}
    return PodValue(
        tuple(container_item(item, file) for item in lists["init-containers"]),
        tuple(container_item(item, file) for item in lists["sidecars"]),
        share.value == "true",
    )


def container_item(item: Item, file: str) -> ContainerValue:
    given: dict[str, tuple[str, ...]] = {}
    command: tuple[str, ...] | None = None
    for key, value in map_of(item, file).items():
        name = canonical(key)
        if name in given or (name == COMMAND and command is not None):
            raise YamlRefused(f"{file}, line {value.line}: {key!r} is there twice")
        if name == COMMAND and isinstance(value.value, list):
            command = tuple(texts(value, file, name))
        else:
            given[name] = tuple(texts(value, file, name))
    try:
        return made(given, f"{file}, line {item.line}", command)
    except ValueError as error:
        raise YamlRefused(str(error)) from None


def texts(item: Item, file: str, name: str) -> list[str]:
    """The values of one key: a text, a list of texts, or a map where the flag takes NAME=VALUE."""
    if isinstance(item.value, str):
        return [item.value]
    if isinstance(item.value, list):
        entries = item.value
    elif name in MAP_KEYS:
        entries = [Item(f"{key}={text_of(value, file)}", value.line) for key, value in item.value.items()]
    else:
        raise YamlRefused(f"{file}, line {item.line}: {name} takes a text or a list")
    return [text_of(entry, file) for entry in entries]


def text_of(item: Item, file: str) -> str:
    if not isinstance(item.value, str):
        raise YamlRefused(f"{file}, line {item.line}: a text is wanted here")
    return item.value


def map_of(item: Item, file: str) -> dict[str, Item]:
    if not isinstance(item.value, dict):
        raise YamlRefused(f"{file}, line {item.line}: a map is wanted here, KEY: VALUE on each line")
    return item.value


def list_of(item: Item, file: str) -> list[Item]:
    if not isinstance(item.value, list):
        raise YamlRefused(f"{file}, line {item.line}: a list is wanted here, each entry with a dash")
    return item.value
