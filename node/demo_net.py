"""The demo's network: one namespace a node, one for the bridge that joins them.

Namespaces are pinned below /run/swarmpy-demo/netns, a private mount point, so that they are
not in anybody's `ip netns` list; SWARMPY_DEMO_ROOT changes the name (see demo.py). Only
util-linux and iproute2 are used: this is scaffolding round the nodes, not part of them.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from swarmpy.overlay import namespaces
from swarmpy.overlay.errors import OverlayError

NAME = Path(os.environ.get("SWARMPY_DEMO_ROOT") or "swarmpy-demo").name
DIRECTORY = Path("/run") / NAME / "netns"
SWITCH = "switch"
PREFIX = "10.55.0."
PREFIX_LENGTH = 24
UPLINK = "swarmpy-demo"
UPLINK_MARK = DIRECTORY.parent / "uplink"
FORWARDING = Path("/proc/sys/net/ipv4/ip_forward")
UPLINK_HOST, UPLINK_SWITCH, UPLINK_LENGTH = "10.56.0.1", "10.56.0.2", 30
NODES_GATEWAY = PREFIX + "254"
CUT_TABLE = "swarmpy-demo-cut"


def address(number: int) -> str:
    """The underlay address of node `number`, from 1."""
    return f"{PREFIX}{number}"


def namespace_path(name: str) -> Path:
    return DIRECTORY / name


def build(nodes: list[tuple[str, str]], *, uplink: bool) -> None:
    """Make the switch and a namespace per (name, address)."""
    namespaces.prepare_directory(DIRECTORY)
    for name in [SWITCH, *(name for name, _ in nodes)]:
        if not namespaces.is_pinned(namespace_path(name)):
            namespaces.pin(namespace_path(name))
    run_in(SWITCH, "ip", "link", "add", "br0", "type", "bridge", "forward_delay", "0", "stp_state", "0")
    run_in(SWITCH, "ip", "link", "set", "br0", "up")
    for name, node_address in nodes:
        _plug(name, node_address)
    if uplink:
        _uplink([name for name, _ in nodes])


def _plug(name: str, node_address: str) -> None:
    port = f"p-{name}"
    run_in(SWITCH, "ip", "link", "add", port, "type", "veth", "peer", "name", f"q-{name}")
    run_in(SWITCH, "ip", "link", "set", f"q-{name}", "netns", str(namespace_path(name)))
    run_in(SWITCH, "ip", "link", "set", port, "master", "br0", "up")
    run_in(name, "ip", "link", "set", f"q-{name}", "name", "eth0")
    run_in(name, "ip", "address", "add", f"{node_address}/{PREFIX_LENGTH}", "dev", "eth0")
    run_in(name, "ip", "link", "set", "eth0", "up")


def _uplink(names: list[str]) -> None:
    """A veth to the machine and NAT there: asked for with --uplink, removed by down.

    Both have one name on the machine, so `UPLINK_MARK` says whose they are; it holds what forwarding was before.
    """
    if (Path("/sys/class/net") / UPLINK).exists():
        raise OverlayError(
            f"another demo has the uplink ({UPLINK}) already: run `swarmpy demo down` for it first"
        )
    UPLINK_MARK.write_text(FORWARDING.read_text())
    run("ip", "link", "add", UPLINK, "type", "veth", "peer", "name", "up0")
    run("ip", "link", "set", "up0", "netns", str(namespace_path(SWITCH)))
    run("ip", "address", "add", f"{UPLINK_HOST}/{UPLINK_LENGTH}", "dev", UPLINK)
    run("ip", "link", "set", UPLINK, "up")
    run("ip", "route", "add", f"{PREFIX}0/{PREFIX_LENGTH}", "via", UPLINK_SWITCH, "dev", UPLINK)
    run_in(SWITCH, "ip", "address", "add", f"{UPLINK_SWITCH}/{UPLINK_LENGTH}", "dev", "up0")
    run_in(SWITCH, "ip", "link", "set", "up0", "up")
    run_in(SWITCH, "ip", "address", "add", f"{NODES_GATEWAY}/{PREFIX_LENGTH}", "dev", "br0")
    run_in(SWITCH, "ip", "route", "add", "default", "via", UPLINK_HOST)
    run_in(SWITCH, "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
    for name in names:
        run_in(name, "ip", "route", "add", "default", "via", NODES_GATEWAY)
    FORWARDING.write_text("1\n")
    rules = (
        f"table ip {UPLINK} {{ chain post {{ type nat hook postrouting priority 100; "
        f"ip saddr {PREFIX}0/{PREFIX_LENGTH} masquerade; }}\n}}\n"
    )
    run("nft", "-f", "-", text=rules)


def set_link(name: str, *, up: bool) -> None:
    """Plug or unplug a node's cable."""
    run_in(SWITCH, "ip", "link", "set", f"p-{name}", "up" if up else "down")


def cut(name: str, others: list[str]) -> None:
    """Have the node drop every packet from `others`; none = mend."""
    rules = f"table inet {CUT_TABLE}\ndelete table inet {CUT_TABLE}\n"
    if others:
        rules += (
            f"table inet {CUT_TABLE} {{ chain pre {{ type filter hook prerouting priority -400; "
            f"ip saddr {{ {', '.join(others)} }} drop; }}\n}}\n"
        )
    run_in(name, "nft", "-f", "-", text=rules)


def left_forwarding() -> bool:
    """Whether the uplink turned the machine's forwarding on. It stays: others may count on it by now."""
    return UPLINK_MARK.exists() and UPLINK_MARK.read_text().strip() == "0" != FORWARDING.read_text().strip()


def remove() -> None:
    """Remove every namespace and this demo's uplink; what is not there is fine."""
    if UPLINK_MARK.exists():
        subprocess.run(["ip", "link", "delete", UPLINK], check=False, capture_output=True)
        subprocess.run(["nft", "delete", "table", "ip", UPLINK], check=False, capture_output=True)
        UPLINK_MARK.unlink()
    if not DIRECTORY.is_dir():
        return
    for path in DIRECTORY.iterdir():
        namespaces.unpin(path)
    namespaces.remove_directory(DIRECTORY)


def run_in(name: str, *command: str, text: str | None = None) -> None:
    run("nsenter", f"--net={namespace_path(name)}", "--", *command, text=text)


def run(*command: str, text: str | None = None) -> None:
    done = subprocess.run(command, capture_output=True, text=True, input=text, check=False, timeout=30)
    if done.returncode:
        raise OverlayError(f"`{' '.join(command)}` failed: {done.stderr.strip()}")
