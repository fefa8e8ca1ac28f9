"""Ports, volumes, secrets and configs of a compose service, short and long, as flags. Pure."""

from __future__ import annotations

import posixpath
from typing import TYPE_CHECKING

from swarmpy.cli.compose_tree import Report, boolean, csv_text, entries, known, text
from swarmpy.cli.yaml_tree import Item

if TYPE_CHECKING:
    from swarmpy.cli.compose_service import Service

PORT_KEYS = {
    "target": "target", "published": "published", "protocol": "protocol", "mode": "mode", "host_ip": "ip",
    "name": "name",
}  # fmt: skip
PARTS = {  # of a volume in the long form: their keys, as --mount has them
    "bind": {
        "propagation": "bind-propagation", "create_host_path": "bind-create-src", "recursive": "bind-recursive",
    },
    "volume": {"nocopy": "volume-nocopy", "subpath": "volume-subpath"},
    "tmpfs": {"size": "tmpfs-size", "mode": "tmpfs-mode"},
}  # fmt: skip
PROPAGATIONS = {"private", "rprivate", "shared", "rshared", "slave", "rslave"}
SELINUX, CONSISTENCY = {"z", "Z"}, {"cached", "delegated", "consistent"}


def ports(made: Service, item: Item, path: str, report: Report) -> None:
    for entry in entries(item, path, report):
        if isinstance(entry.value, str):
            made.give("publish", entry.value, entry, path)
            continue
        keys = known(entry, path, (*PORT_KEYS, "app_protocol"), report)
        if app := keys.pop("app_protocol", None):
            report.notice(app, f"{path}.app_protocol", "ignored: traffic is balanced by connection")
        values = {PORT_KEYS[key]: text(value, f"{path}.{key}", report) for key, value in keys.items()}
        if "target" in values:
            made.give("publish", csv_text(values), entry, path)
        else:
            report.refuse(entry, path, "has no target: add target: PORT")


def volumes(made: Service, item: Item, path: str, directory: str, report: Report) -> None:
    for entry in entries(item, path, report):
        if isinstance(entry.value, str):
            values = short_volume(entry.value, entry, path, report)
        else:
            values = long_volume(entry, path, report)
        source = values.get("source", "")
        if values.get("type") == "bind":
            values["source"] = absolute(source, directory)
        made.give("mount", csv_text(values), entry, path)


def absolute(path: str, directory: str) -> str:
    """A path of the node; a relative one is meant from the directory of the first file."""
    return posixpath.normpath(posixpath.join(directory, path))


def short_volume(entry: str, item: Item, path: str, report: Report) -> dict[str, str]:
    """`[SOURCE:]TARGET[:MODE]`."""
    parts = entry.split(":")
    if len(parts) > 3 or not parts[-1]:
        report.refuse(item, path, f"{entry!r} is not [SOURCE:]TARGET[:MODE]")
        return {}
    if len(parts) == 1:
        return {"type": "volume", "target": entry}
    source, target, modes = parts[0], parts[1], parts[2].split(",") if len(parts) == 3 else []
    is_path = source.startswith(("/", "./", "../")) or source in {".", ".."}
    if source.startswith("~"):
        report.refuse(item, path, f"{source!r}: ~ is whose home on which node? write the whole path")
    values = {"type": "bind" if is_path else "volume", "source": source, "target": target}
    for mode in modes:
        if mode == "ro":
            values["readonly"] = "true"
        elif mode in PROPAGATIONS and is_path:
            values["bind-propagation"] = mode
        elif mode == "nocopy" and not is_path:
            values["volume-nocopy"] = "true"
        elif mode in SELINUX | CONSISTENCY:
            report.notice(item, path, f"{mode} is ignored, as by Docker where it means nothing")
        elif mode != "rw":
            report.refuse(
                item, path, f"{mode!r} in {entry!r} is not known: use ro, rw, nocopy or a propagation"
            )
    return values


def long_volume(item: Item, path: str, report: Report) -> dict[str, str]:
    top = ("type", "source", "target", "read_only", "bind", "volume", "tmpfs", "consistency", "image")
    keys = known(item, path, top, report)
    values: dict[str, str] = {}
    for key in ("type", "source", "target"):
        if key in keys:
            values[key] = text(keys[key], f"{path}.{key}", report)
    if "type" not in values or "target" not in values:
        report.refuse(item, path, "a volume has type: and target:")
        return {}
    if "read_only" in keys and boolean(keys["read_only"], path, report):
        values["readonly"] = "true"
    if "consistency" in keys:
        report.notice(keys["consistency"], f"{path}.consistency", "ignored, as by Docker on Linux")
    for part, names in PARTS.items():
        if part not in keys:
            continue
        inner = known(
            keys[part], f"{path}.{part}", (*names, *(("labels",) if part == "volume" else ())), report
        )
        if labels := inner.pop("labels", None):
            report.refuse(labels, f"{path}.volume.labels", "write them under volumes, at the top of the file")
        for key, value in inner.items():
            values[names[key]] = text(value, f"{path}.{part}.{key}", report)
    if "image" in keys:
        report.refuse(keys["image"], f"{path}.image", "images cannot be mounted")
    return values


def file_uses(made: Service, noun: str, item: Item, path: str, report: Report) -> None:
    """secrets: and configs: of a service."""
    for entry in entries(item, path, report):
        if isinstance(entry.value, str):
            made.give(noun, csv_text({"source": entry.value}), entry, path)
            continue
        keys = known(entry, path, ("source", "target", "uid", "gid", "mode"), report)
        values = {key: text(value, f"{path}.{key}", report) for key, value in keys.items()}
        if "source" not in values:
            report.refuse(entry, path, f"names no {noun}: add source:")
            continue
        if "mode" in values:
            values["mode"] = octal_mode(values["mode"], keys["mode"], f"{path}.mode", report)
        made.give(noun, csv_text(values), entry, path)


def octal_mode(written: str, item: Item, path: str, report: Report) -> str:
    """`0440`; a number without its zero is decimal in YAML, and rarely what was meant."""
    if item.tag == "int" and not written.startswith("0"):
        report.refuse(item, path, f"{written} is a decimal number here: write 0{written}, or quote it")
    return written.replace("0o", "0", 1)
