"""Several compose files as one, and services that extend others: later entries over earlier ones. Pure.

Maps are merged key by key, lists put one after the other, but for commands, which are replaced, and for
volumes, secrets and configs, of which a target has one. Where one side writes a list and the other a map of
the same thing (environment, labels, …), the list is taken for a map first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from swarmpy.cli.compose_tree import Report
from swarmpy.cli.yaml_tree import Item

PAIRS = {"environment", "labels", "sysctls", "annotations", "driver_opts", "options", "extra_hosts"}
NAMES = {"networks", "depends_on"}
REPLACED = {"command", "entrypoint", "test"}
NOT_TAKEN_OVER = {
    "depends_on",
    "links",
    "volumes_from",
}  # by extends: they are about the other services there
EXTENDS_DEPTH_MAX = 8
Load = Callable[[Item, str], Mapping[str, Item]]  # the services of another file


def merged(base: Item, over: Item, key: str = "") -> Item:
    """`over` on top of `base`; `key` is the name under which both are."""
    if over.tag == "null" and isinstance(base.value, (dict, list)):
        return base
    if key in PAIRS | NAMES and isinstance(base.value, dict) != isinstance(over.value, dict):
        base, over = as_map(base, key), as_map(over, key)
    if isinstance(base.value, dict) and isinstance(over.value, dict):
        result = dict(base.value)
        for name, item in over.value.items():
            result[name] = merged(result[name], item, name) if name in result else item
        return Item(result, over.line, "map", over.file)
    if isinstance(base.value, list) and isinstance(over.value, list) and key not in REPLACED:
        return Item(appended(base.value, over.value, key), over.line, "seq", over.file)
    return over


def as_map(item: Item, key: str) -> Item:
    if not isinstance(item.value, list):
        return item
    result: dict[str, Item] = {}
    for entry in item.value:
        if not isinstance(entry.value, str):
            return item  # it is refused where it is read
        name, equals, value = entry.value.partition("=") if key in PAIRS else (entry.value, "", "")
        if key == "extra_hosts" and not equals:
            name, equals, value = entry.value.partition(":")
        result[name] = Item(value, entry.line, "str" if equals else "null", entry.file)
    return Item(result, item.line, "map", item.file)


def appended(base: list[Item], over: list[Item], key: str) -> list[Item]:
    """Both, each once; of a target only the later."""
    targets = {target_of(entry, key) for entry in over} - {""}
    shown = {plain(entry) for entry in over}
    kept = [entry for entry in base if target_of(entry, key) not in targets and plain(entry) not in shown]
    return [*kept, *over]


def target_of(entry: Item, key: str) -> str:
    """Where a volume, secret or config is in the container; "" for anything else."""
    if key not in {"volumes", "secrets", "configs"}:
        return ""
    if isinstance(entry.value, dict):
        found = entry.value.get("target") or entry.value.get("source")
        return found.value if found is not None and isinstance(found.value, str) else ""
    if not isinstance(entry.value, str):
        return ""
    parts = entry.value.split(":")
    return parts[1] if key == "volumes" and len(parts) > 1 else parts[0]


def plain(item: Item) -> str:
    """The content alone, as a text: what makes two entries the same."""
    if isinstance(item.value, dict):
        return repr(sorted((key, plain(value)) for key, value in item.value.items()))
    if isinstance(item.value, list):
        return repr([plain(value) for value in item.value])
    return item.value


def extended(name: str, services: Mapping[str, Item], load: Load, report: Report, depth: int = 0) -> Item:
    """The service with what it extends below it."""
    own = services[name]
    wanted = own.value.get("extends") if isinstance(own.value, dict) else None
    if wanted is None or not isinstance(own.value, dict):
        return own
    path = f"services.{name}.extends"
    rest = Item({key: v for key, v in own.value.items() if key != "extends"}, own.line, "map", own.file)
    if depth >= EXTENDS_DEPTH_MAX:
        report.refuse(wanted, path, f"goes on for more than {EXTENDS_DEPTH_MAX} services, or in a circle")
        return rest
    inner = wanted.value if isinstance(wanted.value, dict) else {"service": wanted}
    for key, value in inner.items():
        if key not in {"service", "file"} or not isinstance(value.value, str):
            report.refuse(value, f"{path}.{key}", "extends has service: NAME and file: PATH")
            return rest
    others = load(inner["file"], path) if "file" in inner else services
    other = inner["service"].value if "service" in inner else name
    if not isinstance(other, str) or other not in others:
        if not report.problems:
            report.refuse(wanted, path, f"there is no service {other!r}")
        return rest
    base = extended(other, others, load, report, depth + 1)
    if isinstance(base.value, dict):
        kept = {key: value for key, value in base.value.items() if key not in NOT_TAKEN_OVER}
        base = Item(kept, base.line, "map", base.file)
    return merged(base, rest)
