"""Which managers to ask.

In this order: --host, --context, SWARMPY_HOST, SWARMPY_CONTEXT, and else the manager of this
machine: unix://<state dir>/run/control.sock, state dir from SWARMPY_STATE_DIR or /var/lib/swarmpy.
A context is a named list of hosts in ~/.config/swarmpy/contexts.json; the one called "demo" may
also come from the file that `swarmpy demo up` writes.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from swarmpy.cli.errors import UsageRefused

DEFAULT_STATE_DIR = "/var/lib/swarmpy"
DEMO_NAME = Path(os.environ.get("SWARMPY_DEMO_ROOT") or "swarmpy-demo").name
DEMO_CONTEXT = Path("/run") / DEMO_NAME / "context.json"


@dataclass(frozen=True)
class Settings:
    """The global flags, as given."""

    hosts: tuple[str, ...] = ()
    context: str = ""
    timeout_ms: int | None = None
    stale: bool = False
    at: str = ""  # INDEX or TIME: read the cluster as it was


def hosts_of(settings: Settings) -> list[str]:
    """The addresses to try, in turn; at least one, each checked."""
    if settings.hosts:
        return [checked(host) for host in settings.hosts]
    if settings.context:
        return context_hosts(settings.context)
    if host := os.environ.get("SWARMPY_HOST", ""):
        return [checked(part.strip()) for part in host.split(",") if part.strip()]
    if context := os.environ.get("SWARMPY_CONTEXT", ""):
        return context_hosts(context)
    return [f"unix://{state_dir()}/run/control.sock"]


def state_dir() -> Path:
    """Where this machine's node keeps its state."""
    return Path(os.environ.get("SWARMPY_STATE_DIR") or DEFAULT_STATE_DIR)


def contexts_file() -> Path:
    """The user's own list of contexts."""
    base = os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    return Path(base) / "swarmpy" / "contexts.json"


def context_hosts(name: str) -> list[str]:
    """The hosts of a named context."""
    listed = read_json(contexts_file()).get("contexts")
    contexts = listed if isinstance(listed, dict) else {}
    found = contexts.get(name)
    source = contexts_file()
    if found is None and name == "demo":
        found, source = read_json(DEMO_CONTEXT) or None, DEMO_CONTEXT
        if found is None:
            raise UsageRefused("There is no demo cluster here: start one with `swarmpy demo up`.")
    if found is None:
        known = ", ".join(sorted(contexts)) or "none"
        raise UsageRefused(f"No context {name!r} in {source} (known: {known}).")
    hosts = found.get("hosts") if isinstance(found, dict) else None
    if not isinstance(hosts, list) or not hosts or not all(isinstance(host, str) for host in hosts):
        raise UsageRefused(
            f'{source}: context {name!r} needs "hosts": a list of addresses like "unix:///path".'
        )
    return [checked(host) for host in hosts]


def read_json(path: Path) -> dict[str, object]:
    """A JSON object from a file; {} when the file does not exist."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UsageRefused(f"{path} cannot be read: {error}") from None
    if not isinstance(value, dict):
        raise UsageRefused(f"{path} does not hold a JSON object.")
    return value


def checked(host: str) -> str:
    """The address in the form unix:///path; what is not built is refused here."""
    if host.startswith("/"):
        host = f"unix://{host}"
    path = host.removeprefix("unix://")
    if path == host:
        raise UsageRefused(
            f"{host!r} cannot be reached yet: only unix:///path addresses work so far; run the command "
            "on a manager, or with --host unix:///path/to/control.sock."
        )
    if not path.startswith("/"):
        raise UsageRefused(f"{host!r} is not an address: write unix:///path/to/control.sock.")
    if len(os.fsencode(path)) > 107:
        raise UsageRefused(
            f"{path!r} is longer than a socket's path may be (107 bytes): use a shorter state dir."
        )
    return host
