"""Docker's value syntax of the flags that isolate a container; like parse.py: text to plain values, ValueError."""

from __future__ import annotations

import json
import re
from pathlib import Path

from swarmpy.cli.parse import boolean, one_of, size_bytes, strict_key_value

SECCOMP_FILE_BYTES_MAX = 1024 * 1024
CONTAINER_MODES = ("", "host")


def swap_bytes(text: str) -> int:
    """`512m`, 0 for none, -1 for no limit."""
    return -1 if text.strip() == "-1" else size_bytes(text)


def own_or_host(what: str, text: str) -> str:
    """The value of --pid and --ipc: "" or private for its own, host for the node's."""
    if text.startswith("container:") or text == "shareable":
        raise ValueError(
            f"{what} {text.partition(':')[0]} is not built: tasks of a pod share it, others do not"
        )
    return one_of(
        "" if text == "private" else text, CONTAINER_MODES, f"{what}: leave it out or write host; mode"
    )


def pid(text: str) -> str:
    return own_or_host("pid", text)


def ipc(text: str) -> str:
    return own_or_host("ipc", text)


def userns(text: str) -> str:
    """`auto`: a range of ids of its own; `host`: the node's ids, which is the default."""
    return one_of("" if text == "host" else text, ("", "auto"), "user namespace: use auto or host; mode")


def gpus(text: str) -> tuple[str, tuple[str, ...]]:
    """`all`, or `device=/dev/dri/renderD128,/dev/nvidia0` -> ("all", ()) or ("", paths)."""
    if text in {"", "none", "0"}:
        return "", ()
    if text in {"all", "-1"}:
        return "all", ()
    key, _, value = text.strip('"').partition("=")
    paths = tuple(value.split(","))
    if key != "device" or not all(path.startswith("/dev/") for path in paths):
        raise ValueError(f"{text!r} names no GPU: write all, or device=/dev/NAME[,/dev/NAME]")
    return "", paths


def device_bytes(text: str) -> tuple[str, int]:
    """`/dev/sda:10mb`, bytes a second."""
    device, rate = _device_rate(text)
    return device, size_bytes(rate)


def device_requests(text: str) -> tuple[str, int]:
    """`/dev/sda:1000`, requests a second."""
    device, rate = _device_rate(text)
    if not rate.isascii() or not rate.isdigit():
        raise ValueError(f"{rate!r} is not a number of requests a second")
    return device, int(rate)


def _device_rate(text: str) -> tuple[str, str]:
    device, colon, rate = text.rpartition(":")
    if not colon or not device.startswith("/dev/") or not rate:
        raise ValueError(f"{text!r} is no disk and rate: write /dev/NAME:RATE")
    return device, rate


def log_driver(text: str) -> str:
    if text not in {"json-file", "local", "none"}:
        raise ValueError(
            f"the log driver {text!r} is not built: use json-file, local or none (logs stay on the node)"
        )
    return text


def log_option(text: str) -> tuple[str, int]:
    """`max-size=10m`, `max-file=3`."""
    key, value = strict_key_value(text)
    if key == "max-size":
        return key, size_bytes(value)
    if key == "max-file":
        if not re.fullmatch(r"[1-9]\d?|100", value):
            raise ValueError(f"{value!r} is not a number of files from 1 to 100")
        return key, int(value)
    if key in {"mode", "compress", "labels", "labels-regex", "env", "env-regex", "tag", "max-buffer-size"}:
        raise ValueError(f"the log option {key} is not built: use max-size and max-file")
    raise ValueError(f"{key!r} is not a log option: use max-size and max-file")


def cpu_list(text: str) -> str:
    """`0-3,5`; "" for all."""
    if text and not re.fullmatch(r"\d+(-\d+)?(,\d+(-\d+)?)*", text):
        raise ValueError(f"{text!r} is not a list of CPUs or memory nodes: write for example 0-3,5")
    return text


def security_option(text: str) -> tuple[str, str]:
    """`seccomp=unconfined|default|FILE`, `no-new-privileges[=true|false]`."""
    key, _, value = text.replace(":", "=", 1).partition("=")
    if key == "no-new-privileges":
        return key, "true" if boolean(value or "true") else "false"
    if key == "seccomp":
        if not value:
            raise ValueError("seccomp needs a value: unconfined, default, or the file of a profile")
        return key, value
    if key in {"apparmor", "label", "systempaths", "credentialspec"}:
        raise ValueError(f"the security option {key} is not built yet: use seccomp=… or no-new-privileges")
    raise ValueError(f"{key!r} is not a security option: use seccomp=… or no-new-privileges")


def seccomp_profile(file: str) -> str:
    """The profile in a file, in as few bytes as it takes: it is stored with the service."""
    path = Path(file)
    try:
        if path.stat().st_size > SECCOMP_FILE_BYTES_MAX:
            raise ValueError(f"{file} has more than {SECCOMP_FILE_BYTES_MAX} bytes")
        profile = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(
            f"{file}: {error.strerror}; write unconfined, default, or a profile's file"
        ) from None
    except json.JSONDecodeError as error:
        raise ValueError(f"{file}, line {error.lineno}: not JSON: {error.msg}") from None
    if isinstance(profile, dict):
        for rule in profile.get("syscalls") or []:
            if isinstance(rule, dict):
                rule.pop("comment", None)
    return json.dumps(profile, separators=(",", ":"))


def network_mode(name: str) -> str:
    """The networks that are none of the cluster's: "host", "none"; "" for any other name."""
    return name if name in {"host", "none"} else ""
