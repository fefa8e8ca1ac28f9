"""The cluster under test: a demo of its own whose disks, clocks and links can be made to fail.

SWARMPY_DEMO_ROOT names it and must be set before this module is imported (tests/chaos/__main__.py
does). Some managers keep their log on a small tmpfs, so that it can be filled; the others stay on
the machine's disk. Everything below is synchronous: call it from a thread.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from swarmpy.node import config as node_config
from swarmpy.node import daemon_setup, demo, demo_net

SOURCE = Path(__file__).with_name("preload.c")
CONTROL = struct.Struct("=qii")
TMPFS_BYTES = 96 << 20
TABLE = "chaos"
STOP_TIMEOUT_S = 20.0


class ChaosError(Exception):
    """The harness itself could not do something."""


@dataclass
class Cluster:
    """A running demo of `count` nodes, all managers."""

    count: int
    small_disks: int
    demo: demo.Demo | None = None
    ids: dict[str, str] = field(default_factory=dict)  # node id -> name
    _pages: dict[str, mmap.mmap] = field(default_factory=dict)
    _relays: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    _lock_fd: int = -1

    @property
    def names(self) -> list[str]:
        return [f"n{number}" for number in range(1, self.count + 1)]

    @property
    def hosts(self) -> list[str]:
        return [f"unix:{self.node(name).paths.control_socket}" for name in self.names]

    @property
    def control_directory(self) -> Path:
        return Path("/run") / (demo.STATE_ROOT.name + "-control")

    def node(self, name: str) -> demo.DemoNode:
        assert self.demo is not None
        return self.demo.node(name)

    def small_disk_names(self) -> list[str]:
        return self.names[: self.small_disks]

    # -- life

    def build(self) -> None:
        clear()
        self._prepare_library()
        self.demo = demo.up(self.count, self.count, lambda _line: None)
        for name in self.names:
            self.ids[node_config.load(self.node(name).paths).node_id] = name
        for name in self.small_disk_names():
            self._move_to_small_disk(name)
        demo.wait_ready(self.demo, self.count, lambda _line: None)

    def lock(self) -> None:
        """One run at a time with one root: a second one would clear the first one away."""
        path = self.control_directory.with_suffix(".lock")
        self._lock_fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ChaosError(
                f"another run uses {demo.STATE_ROOT}: wait for it, or set SWARMPY_DEMO_ROOT to another directory"
            ) from None

    def _prepare_library(self) -> None:
        directory = self.control_directory
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        library = directory / "preload.so"
        command = ["gcc", "-O2", "-shared", "-fPIC", "-o", str(library), str(SOURCE), "-ldl"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        if done.returncode:
            raise ChaosError(f"the fault library could not be compiled: {done.stderr.strip()}")
        for name in self.names:
            path = directory / name
            path.write_bytes(bytes(mmap.PAGESIZE))
            with path.open("r+b") as file:
                self._pages[name] = mmap.mmap(file.fileno(), mmap.PAGESIZE)
        os.environ["LD_PRELOAD"] = str(library)
        os.environ["CHAOS_CONTROL"] = str(directory)

    def _move_to_small_disk(self, name: str) -> None:
        raft = self.node(name).paths.raft
        self.stop(name)
        aside = raft.with_name("raft.aside")
        raft.rename(aside)
        raft.mkdir(mode=0o700)
        demo_net.run("mount", "-t", "tmpfs", "-o", f"size={TMPFS_BYTES},mode=700", "chaos", str(raft))
        for path in aside.iterdir():
            shutil.copy2(path, raft / path.name)
        shutil.rmtree(aside)
        demo.start(self.node(name))

    def stop(self, name: str) -> None:
        """End a node's daemon in good order."""
        pid = daemon_setup.daemon_pid(self.node(name).state)
        if pid is None:
            return
        os.kill(pid, signal.SIGTERM)
        _until_gone([pid])

    def down(self) -> None:
        for name in list(self._relays):
            self.undelay(name)
        for page in self._pages.values():
            page.close()
        os.environ.pop("LD_PRELOAD", None)
        clear()
        shutil.rmtree(self.control_directory, ignore_errors=True)
        self.control_directory.with_suffix(".lock").unlink(missing_ok=True)

    # -- processes

    def managers(self, name: str) -> list[int]:
        return demo.role_pids(self.node(name), "manager")

    def signal_manager(self, name: str, number: signal.Signals) -> bool:
        pids = self.managers(name)
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        return bool(pids)

    def kill_node(self, name: str) -> None:
        with contextlib.suppress(demo.DemoError):
            _until_gone(demo.kill(name))

    def revive(self, name: str) -> None:
        if daemon_setup.daemon_pid(self.node(name).state) is None:
            demo.revive(name)
        else:
            demo_net.set_link(name, up=True)

    # -- clocks and disks

    def _write(self, name: str, position: int, value: int) -> None:
        values = list(CONTROL.unpack_from(self._pages[name], 0))
        values[position] = value
        CONTROL.pack_into(self._pages[name], 0, *values)

    def clock(self, name: str, offset_ms: int) -> None:
        self._write(name, 0, offset_ms)

    def fsync_error(self, name: str, number: int) -> None:
        self._write(name, 1, number)

    def fsync_delay(self, name: str, delay_ms: int) -> None:
        self._write(name, 2, delay_ms * 1000)

    def fill_disk(self, name: str) -> None:
        """Leave no free byte on a small disk."""
        with (
            contextlib.suppress(OSError),
            (self.node(name).paths.raft / "filler").open("ab", buffering=0) as file,
        ):
            for size in (1 << 20, 1 << 12, 1):
                with contextlib.suppress(OSError):
                    while file.write(bytes(size)) == size:
                        pass

    def free_disk(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            (self.node(name).paths.raft / "filler").unlink()

    def lose_files(self, name: str) -> None:
        """Everything of a manager's log; the directory itself may be a mount."""
        for path in self.node(name).paths.raft.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()

    # -- links

    def rules(self, name: str, rules: list[str]) -> None:
        """Packet rules of a node: `in` and `out` chains; none = a healthy link."""
        text = f"table inet {TABLE}\ndelete table inet {TABLE}\n"
        if rules:
            chains = {"in": ("prerouting", "i"), "out": ("output", "o")}
            text += f"table inet {TABLE} {{\n"
            for way, (hook, chain) in chains.items():
                lines = [rule.removeprefix(way) for rule in rules if rule.startswith(way + " ")]
                text += f"chain {chain} {{\ntype filter hook {hook} priority -400;\n"
                text += "\n".join([*lines, "}\n"])
            text += "}\n"
        demo_net.run_in(name, "nft", "-f", "-", text=text)

    def cut(self, name: str, others: list[str], *, inward: bool, outward: bool) -> None:
        addresses = ", ".join(self.node(other).address for other in others)
        rules = [f"in ip saddr {{ {addresses} }} drop"] if inward else []
        rules += [f"out ip daddr {{ {addresses} }} drop"] if outward else []
        self.rules(name, rules)

    def lose(self, name: str, percent: int) -> None:
        self.rules(name, [f'in iifname "eth0" numgen random mod 100 < {percent} drop'])

    def delay(self, name: str, delay_ms: int, jitter_ms: int) -> None:
        """Put the relay between a node's port and the switch."""
        port, near, far = f"p-{name}", f"r-{name}", f"s-{name}"
        switch = demo_net.SWITCH
        demo_net.run_in(switch, "ip", "link", "add", near, "type", "veth", "peer", "name", far)
        demo_net.run_in(switch, "ip", "link", "set", port, "nomaster")
        demo_net.run_in(switch, "ip", "link", "set", port, "promisc", "on")
        demo_net.run_in(switch, "ip", "link", "set", near, "promisc", "on", "up")
        demo_net.run_in(switch, "ip", "link", "set", far, "master", "br0", "up")
        script = str(Path(__file__).with_name("relay.py"))
        command = ["nsenter", f"--net={demo_net.namespace_path(switch)}", "--", sys.executable, script]
        environment = {key: value for key, value in os.environ.items() if key != "LD_PRELOAD"}
        self._relays[name] = subprocess.Popen(
            [*command, port, near, str(delay_ms), str(jitter_ms)], stdin=subprocess.DEVNULL, env=environment
        )

    def undelay(self, name: str) -> None:
        relay = self._relays.pop(name, None)
        if relay is None:
            return
        relay.kill()
        relay.wait()
        demo_net.run_in(demo_net.SWITCH, "ip", "link", "delete", f"r-{name}")
        demo_net.run_in(demo_net.SWITCH, "ip", "link", "set", f"p-{name}", "promisc", "off")
        demo_net.run_in(demo_net.SWITCH, "ip", "link", "set", f"p-{name}", "master", "br0")

    def heal(self) -> None:
        """Undo everything that may still be broken, whatever failed before."""
        for name in self.names:
            self.undelay(name)
            self.rules(name, [])
            self._pages[name][: CONTROL.size] = bytes(CONTROL.size)
            self.signal_manager(name, signal.SIGCONT)
            self.revive(name)
        for name in self.small_disk_names():
            self.free_disk(name)

    # -- what went wrong inside

    def tracebacks(self) -> dict[str, list[str]]:
        """The last line of every traceback in the daemons' logs."""
        found: dict[str, list[str]] = {}
        for name in self.names:
            inside = False
            for line in (self.node(name).state / "daemon.log").read_text(errors="replace").splitlines():
                text = line.lstrip(" |+-")
                if "Traceback (most recent call last)" in line:
                    inside = True
                elif inside and text and not line.startswith((" ", "|")):
                    found.setdefault(name, []).append(line[:300])
                    inside = False
        return found


def _runs(pid: int) -> bool:
    """False also for a child that ended and was not waited for."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def _until_gone(pids: list[int]) -> None:
    deadline = time.monotonic() + STOP_TIMEOUT_S
    while any(_runs(pid) for pid in pids):
        if time.monotonic() > deadline:
            raise ChaosError(f"processes {pids} did not end within {STOP_TIMEOUT_S:g} s")
        time.sleep(0.02)


def clear() -> None:
    """Remove what an interrupted run left."""
    if demo.STATE_ROOT.is_dir():
        for path in demo.STATE_ROOT.glob("n*/raft"):
            while os.path.ismount(path):
                # A killed daemon may be a moment away from closing its files.
                _stop(path.parent)
                subprocess.run(["umount", "-l", str(path)], check=False, capture_output=True)
    if demo.STATE_ROOT.exists() or demo.RUN_ROOT.exists():
        demo.down(lambda _line: None)


def _stop(state: Path) -> None:
    pid = daemon_setup.daemon_pid(state)
    if pid is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
