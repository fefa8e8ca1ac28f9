"""What a support bundle holds of this machine: facts, the tail of the logs, what the kernel has of ours.

Nothing that could open anything: no key, no token, no certificate's key, no environment of a service, no
volume's content, no container's log. `redacted` is for objects of the cluster: it blanks values that are
secrets or may hold some. Commands have a time limit, outputs a bound; one that fails is noted in its place.
"""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from swarmpy.node import config as node_config
from swarmpy.node import daemon_doctor, daemon_setup

COMMAND_TIMEOUT_S = 10.0
OUTPUT_BYTES_MAX = 2 << 20
LOG_BYTES_MAX = 8 << 20
HIDDEN = "(hidden)"
# Names of fields whose values are never shown, and of those of which only the names of entries are.
SECRET_FIELDS = re.compile(
    r"(secret|token|password|passwd|auth|private|root_key|unlock_key|backup_key|data_key|^data$)"
)
ENTRY_FIELDS = {"env"}
VALUE_FIELDS = {"labels", "options", "annotations", "sysctls"}
COMMANDS = {
    "kernel/links.txt": ["ip", "-d", "-s", "link"],
    "kernel/addresses.txt": ["ip", "address"],
    "kernel/routes.txt": ["ip", "route", "show", "table", "all"],
    "kernel/rules.txt": ["ip", "rule"],
    "kernel/nexthops.txt": ["ip", "nexthop"],
    "kernel/neighbours.txt": ["ip", "neighbour"],
    "kernel/fdb.txt": ["bridge", "fdb"],
    "kernel/nft.txt": ["nft", "list", "ruleset"],
    "kernel/mounts.txt": ["cat", "/proc/mounts"],
    "kernel/memory.txt": ["cat", "/proc/meminfo"],
    "kernel/pressure.txt": ["sh", "-c", "head /proc/pressure/*"],
    "kernel/messages.txt": ["sh", "-c", "dmesg | tail -n 500"],
    "machine/disks.txt": ["df", "-h"],
    "machine/processes.txt": ["ps", "-eo", "pid,ppid,stat,rss,etime,comm"],
    "log/systemd.txt": ["journalctl", "-u", "swarmpy", "-n", "20000", "--no-pager"],
}


def files(state_dir: Path) -> Iterator[tuple[str, bytes]]:
    """(name in the bundle, content) of everything of this machine."""
    yield "machine/facts.json", _json(_facts(state_dir))
    yield "machine/doctor.json", _json([vars(check) for check in daemon_doctor.local_checks(state_dir)])
    yield "node/node.json", _json(_node(state_dir))
    yield "node/files.txt", _listing(state_dir)
    for name, command in COMMANDS.items():
        yield name, _output(command)
    for path in (state_dir / "daemon.log", state_dir / "daemon.log.1"):
        if path.exists():
            yield f"log/{path.name}", _tail(path)


def _facts(state_dir: Path) -> dict[str, Any]:
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "swarmpy": node_config.release(),
        "python": platform.python_version(), "kernel": platform.release(), "machine": platform.machine(),
        "system": Path("/etc/os-release").read_text() if Path("/etc/os-release").exists() else "",
        "load": os.getloadavg(), "cpus": os.cpu_count(), "daemon_pid": daemon_setup.daemon_pid(state_dir),
        "systemd": daemon_setup.under_systemd(),
    }  # fmt: skip


def _node(state_dir: Path) -> Any:
    try:
        return redacted(json.loads(node_config.Paths(state_dir).node_json.read_text()))
    except (OSError, ValueError) as error:
        return {"problem": str(error)}


def redacted(value: Any, name: str = "") -> Any:
    """The same shape without what may be a secret; names stay, so that one sees what is set."""
    if SECRET_FIELDS.search(name) and value not in ("", None, False, True, 0, [], {}):
        return HIDDEN
    if name in ENTRY_FIELDS and isinstance(value, list):
        return [f"{str(entry).partition('=')[0]}={HIDDEN}" for entry in value]
    if name in VALUE_FIELDS:
        return dict.fromkeys(value, HIDDEN) if isinstance(value, dict) else HIDDEN
    if isinstance(value, dict):
        return {key: redacted(inner, str(key).lower()) for key, inner in value.items()}
    if isinstance(value, list):
        return [redacted(inner, name) for inner in value]
    return value


def _listing(state_dir: Path) -> bytes:
    """Names, sizes and modes below the state directory, two levels deep; no content."""
    lines = []
    for top, directories, names in os.walk(state_dir):
        depth = len(Path(top).relative_to(state_dir).parts)
        for name in sorted([*directories, *names])[:500]:
            path = Path(top, name)
            try:
                found = path.lstat()
            except OSError:
                continue
            lines.append(f"{found.st_mode:o} {found.st_size:>12} {path.relative_to(state_dir)}")
        if depth >= 2:
            directories.clear()
    return "\n".join(lines).encode(errors="replace")


def _output(command: list[str]) -> bytes:
    try:
        done = subprocess.run(command, capture_output=True, timeout=COMMAND_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{' '.join(command)}: {error}\n".encode()
    return (done.stdout + done.stderr)[-OUTPUT_BYTES_MAX:]


def _tail(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - LOG_BYTES_MAX))
        return file.read(LOG_BYTES_MAX)


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=2, ensure_ascii=False, default=str).encode()
