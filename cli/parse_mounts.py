"""--mount and --tmpfs of services: Docker's value syntax, as pure functions (see parse)."""

from __future__ import annotations

from dataclasses import dataclass, field

from swarmpy.cli.parse import boolean, csv_pairs, octal, one_of, size_bytes, strict_key_value

PROPAGATIONS = ("private", "rprivate", "shared", "rshared", "slave", "rslave")
RECURSIONS = ("enabled", "disabled", "writable", "readonly")
NOT_BUILT_KEYS = {"consistency"}
KEYS = {
    "type", "source", "target", "readonly", "bind-propagation", "bind-create-src", "bind-recursive",
    "bind-nonrecursive", "volume-driver", "volume-opt",
    "volume-label", "volume-nocopy", "volume-subpath", "tmpfs-size", "tmpfs-mode",
}  # fmt: skip
OTHER_NAMES = {"src": "source", "dst": "target", "destination": "target", "ro": "readonly"}
REPEATED = {"volume-opt", "volume-label"}


@dataclass(frozen=True)
class MountValue:
    """One --mount or --tmpfs."""

    type: str
    target: str
    source: str = ""
    read_only: bool = False
    propagation: str = ""
    create_source: bool = False
    subpath: str = ""
    tmpfs_size_bytes: int = 0
    tmpfs_mode: int = 0
    recursive: str = ""
    driver: str = ""
    options: dict[str, str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    nocopy: bool = False


def mount(text: str) -> MountValue:
    """`type=bind,src=/a,dst=/b,readonly` and its relatives."""
    values, options, labels = mount_values(text)
    kind = values.get("type", "volume")
    if kind in {"npipe", "cluster", "image"}:
        raise ValueError(f"mounts of type {kind} are not built yet: use bind, volume or tmpfs")
    one_of(kind, ("bind", "volume", "tmpfs", "pod"), "type")
    target, source = values.get("target", ""), values.get("source", "")
    if not target.startswith("/"):
        raise ValueError(f"{text!r} needs an absolute path in the container: add target=/path")
    if kind == "bind" and not source.startswith("/"):
        raise ValueError(f"{text!r} needs an absolute path on the node: add source=/path")
    if kind == "pod" and not source:
        raise ValueError(f"{text!r} needs a name for what the containers share: add source=NAME")
    if kind == "tmpfs" and source:
        raise ValueError("a tmpfs mount has no source: leave source out")
    for key in (*values, *(["volume-opt"] if options else []), *(["volume-label"] if labels else [])):
        own = "tmpfs-" if kind == "pod" else f"{kind}-"  # with a size it is in memory
        if key.partition("-")[0] in {"bind", "volume", "tmpfs"} and not key.startswith(own):
            raise ValueError(f"{key} does not go with type={kind}")
    propagation, recursive = values.get("bind-propagation", ""), values.get("bind-recursive", "")
    if boolean(values.get("bind-nonrecursive", "false")):
        recursive = "disabled"
    return MountValue(
        type=kind,
        target=target,
        source=source,
        read_only=boolean(values.get("readonly", "false")),
        propagation=one_of(propagation, PROPAGATIONS, "bind-propagation") if propagation else "",
        create_source=boolean(values.get("bind-create-src", "false")),
        subpath=values.get("volume-subpath", ""),
        tmpfs_size_bytes=size_bytes(values.get("tmpfs-size", "0")),
        tmpfs_mode=octal(values.get("tmpfs-mode", "0")),
        driver=one_of(values["volume-driver"], ("local",), "volume-driver")
        if "volume-driver" in values
        else "",
        options=options,
        labels=labels,
        recursive=one_of(recursive, RECURSIONS, "bind-recursive") if recursive else "",
        nocopy=boolean(values.get("volume-nocopy", "false")),
    )


def mount_values(text: str) -> tuple[dict[str, str], dict[str, str], dict[str, str]]:
    """The keys of a --mount; apart from them those that may be repeated: options and labels."""
    values: dict[str, str] = {}
    repeated: dict[str, dict[str, str]] = {name: {} for name in REPEATED}
    for key, value in csv_pairs(text):
        name = OTHER_NAMES.get(key, key)
        if name in NOT_BUILT_KEYS:
            raise ValueError(f"{name} is not built yet: leave it out")
        if name not in KEYS:
            raise ValueError(f"{key!r} is not a key of --mount: use {', '.join(sorted(KEYS))}")
        if name == "volume-opt":
            option, setting = strict_key_value(value)
            repeated[name][option] = setting
        elif name == "volume-label":
            label, _, setting = value.partition("=")
            repeated[name][label] = setting
        else:
            values[name] = value
    return values, repeated["volume-opt"], repeated["volume-label"]


def tmpfs(text: str) -> MountValue:
    """`/path[:size=64m,mode=1777,ro]`."""
    target, _, options = text.partition(":")
    if not target.startswith("/"):
        raise ValueError(f"{text!r} needs an absolute path in the container")
    size, mode, read_only = 0, 0, False
    for key, value in csv_pairs(options) if options else []:
        if key == "size":
            size = size_bytes(value)
        elif key == "mode":
            mode = octal(value)
        elif key in {"ro", "rw"}:
            read_only = key == "ro"
        else:
            raise ValueError(f"{key!r} is not an option of --tmpfs: use size, mode, ro, rw")
    return MountValue("tmpfs", target, read_only=read_only, tmpfs_size_bytes=size, tmpfs_mode=mode)
