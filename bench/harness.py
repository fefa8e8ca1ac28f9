"""What every benchmark shares: the command line, the table, a cluster of ours, a sandbox for a peer.

Every benchmark is one command, `python -m bench.NAME`, run as root. It starts ours and the peer on this
machine, measures both in the same run, prints both beside each other, and removes everything it made, also
on Ctrl-C. Nothing is printed as measured that was not measured in this run: a peer that cannot run here is
shown as "not run" with the reason.

Ours is a demo cluster (`swarmpy demo`) with a name of its own. A peer runs in a `Sandbox`: fresh network,
mount and pid namespaces that end, with every process in them, when their first process does.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from swarmpy.cli.client import Client
from swarmpy.node import demo, demo_net
from swarmpy.node.image.build import build_busybox_image

import bench

STATE_ROOT = Path(bench.STATE_ROOT)
PEER_ROOT = Path("/var/lib/swarmpy-bench-peer")
PEER_PREFIX = "10.57.0."
IMAGE = "bench-web:1"
POLL_S = 0.02
CALL_TIMEOUT_S = 20.0


class BenchError(Exception):
    """The benchmark cannot run or was not able to finish; the message says why."""


@dataclass
class Row:
    """One measured thing: the values of every round, ours and the peer's."""

    what: str
    unit: str
    ours: list[float]
    peer: list[float]
    target: str = ""
    note: str = ""
    peer_missing: str = ""

    def as_json(self) -> dict[str, Any]:
        ours, peer = median(self.ours), median(self.peer)
        ratio = ours / peer if ours is not None and peer else None
        return {**asdict(self), "ours_median": ours, "peer_median": peer, "ratio": ratio}


@dataclass
class Report:
    """What a benchmark found."""

    title: str
    peer: str
    rows: list[Row] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def show(self, form: str) -> None:
        if form == "json":
            rows = [row.as_json() for row in self.rows]
            print(json.dumps({"title": self.title, "peer": self.peer, "rows": rows, "remarks": self.remarks}))
            return
        print(f"\n{self.title}")
        table = [["", "swarmpy", self.peer, "ratio", "target", "swarmpy min–max", "peer min–max"]]
        table += [_cells(row) for row in self.rows]
        widths = [max(len(line[column]) for line in table) for column in range(len(table[0]))]
        for line in table:
            print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
        for remark in self.remarks:
            print(remark)


def _cells(row: Row) -> list[str]:
    ours, peer = median(row.ours), median(row.peer)
    ratio = f"{ours / peer:.2f}" if ours is not None and peer else "–"
    peer_cell = (
        _value(peer, row.unit)
        if peer is not None
        else f"not run{': ' if row.peer_missing else ''}{row.peer_missing}"
    )
    what = f"{row.what} ({row.note})" if row.note else row.what
    return [what, _value(ours, row.unit), peer_cell, ratio, row.target, _range(row.ours), _range(row.peer)]


def _value(value: float | None, unit: str) -> str:
    return "–" if value is None else f"{value:.3g} {unit}" if value < 100 else f"{value:.0f} {unit}"


def _range(values: Sequence[float]) -> str:
    return f"{min(values):.3g}–{max(values):.3g}" if len(values) > 1 else ""


def median(values: Sequence[float]) -> float | None:
    return statistics.median(values) if values else None


def say(line: str) -> None:
    """Progress, on stderr: stdout is for the result."""
    print(line, file=sys.stderr, flush=True)


def parser(description: str | None, rounds: int) -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--rounds", type=int, default=rounds, help=f"measured rounds (default {rounds})")
    made.add_argument("--format", choices=["table", "json"], default="table")
    made.add_argument("--no-peer", action="store_true", help="measure swarmpy only")
    return made


def run(main: Callable[[], Report], form: str) -> None:
    """Run a benchmark and print its report; SIGTERM cleans up like Ctrl-C."""
    if os.geteuid() != 0:
        sys.exit("benchmarks make network namespaces and run containers: run this as root (sudo)")
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    try:
        main().show(form)
    except KeyboardInterrupt:
        sys.exit("interrupted; everything is removed")
    except (BenchError, *demo.REFUSALS) as error:
        sys.exit(f"{Path(sys.argv[0]).stem}: {error}")


def wait_until(condition: Callable[[], bool], timeout_s: float, what: str, poll_s: float = POLL_S) -> float:
    """Wait; the monotonic time at which it was true."""
    deadline = time.monotonic() + timeout_s
    while True:
        done, now = condition(), time.monotonic()
        if done:
            return now
        if now > deadline:
            raise BenchError(f"not within {timeout_s:g} s: {what}")
        time.sleep(poll_s)


def image_archive(directory: Path) -> Path:
    """The image that both sides run: busybox httpd."""
    return build_busybox_image(directory / "web.tar", reference=IMAGE, web=True)


# --- ours ---------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def cluster(count: int, managers: int, *, image: bool = True) -> Iterator[demo.Demo]:
    """A cluster of ours, with the image loaded unless it says no; removed at the end."""
    assert demo.STATE_ROOT == STATE_ROOT
    say(f"swarmpy: starting {count} node{'s' if count > 1 else ''}")
    try:
        made = demo.up(count, managers, lambda _line: None)
        if image:
            load_image()
        yield made
    finally:
        say("swarmpy: removing everything")
        with uninterrupted():
            demo.down(lambda _line: None)


def load_image() -> None:
    archive = image_archive(STATE_ROOT)
    cli("image", "load", "-i", str(archive))
    archive.unlink()


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """A second Ctrl-C does not leave half of a clean-up."""
    former = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def cli(*arguments: str) -> str:
    """Run our command line against the cluster."""
    return command([*demo.swarmpy("--context", "demo"), *arguments])


def command(argv: Sequence[str], timeout_s: float = 120, **options: Any) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=timeout_s, check=False, **options)
    if done.returncode:
        raise BenchError(f"`{' '.join(argv)}` failed: {(done.stderr or done.stdout).strip()}")
    return str(done.stdout)


def client(node: demo.DemoNode) -> Client:
    return Client([f"unix://{node.paths.control_socket}"], CALL_TIMEOUT_S)


# --- peers --------------------------------------------------------------------------------------------------


class Sandbox:
    """A program in namespaces of its own, with a directory of its own; `close` ends and removes it all."""

    def __init__(self, name: str) -> None:
        self.directory = PEER_ROOT / name
        if self.directory.exists():
            _unmount_below(self.directory)
            shutil.rmtree(self.directory)
        self.directory.mkdir(parents=True, mode=0o700)
        self._log = (self.directory / "log").open("wb")
        # What the peer writes into /run, /opt and /etc is its own and goes with the mount namespace.
        script = (
            "ip link set lo up; for d in /run /opt /mnt; do mount -t tmpfs none $d; done; mkdir /mnt/up /mnt/work;"
            "mount -t overlay none -o lowerdir=/etc,upperdir=/mnt/up,workdir=/mnt/work /etc;"
            "exec tini -- sleep infinity"
        )
        self._holder = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "unshare", "--net", "--mount", "--pid", "--fork", "--kill-child",
             "--mount-proc", "sh", "-c", script],
            stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log,
        )  # fmt: skip
        self._started: list[subprocess.Popen[bytes]] = []
        wait_until(lambda: self._first() is not None, 10, f"sandbox {name}")
        first = self._first()
        assert first is not None
        self.pid = first
        wait_until(lambda: self._says("sleep"), 10, f"sandbox {name}")

    def _first(self) -> int | None:
        children = Path(f"/proc/{self._holder.pid}/task/{self._holder.pid}/children").read_text().split()
        return int(children[0]) if children else None

    def _says(self, word: str) -> bool:
        return word.encode() in Path(f"/proc/{self.pid}/cmdline").read_bytes()

    def inside(self, argv: Sequence[str]) -> list[str]:
        return ["nsenter", "-t", str(self.pid), "--net", "--mount", "--pid", "--", *argv]

    def inside_network(self, argv: Sequence[str]) -> list[str]:
        """Only in the sandbox's network: for a client that uses this machine's files."""
        return ["nsenter", "-t", str(self.pid), "--net", "--", *argv]

    def start(self, argv: Sequence[str]) -> subprocess.Popen[bytes]:
        """Start a program in the sandbox; its output goes to the sandbox's log."""
        child = subprocess.Popen(
            self.inside(argv), stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log
        )
        self._started.append(child)
        return child

    def run(self, *argv: str, **options: Any) -> str:
        return command(self.inside(argv), **options)

    def processes(self) -> dict[int, str]:
        """Pid (as seen here) and name of every process in the sandbox."""
        own = os.stat(f"/proc/{self.pid}/ns/pid").st_ino
        found = {}
        for entry in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError):
                if os.stat(f"/proc/{entry}/ns/pid").st_ino == own:
                    found[int(entry)] = Path(f"/proc/{entry}/comm").read_text().strip()
        return found

    def tail(self) -> str:
        return (self.directory / "log").read_text(errors="replace")[-600:]

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)  # the first of its pid namespace: all others go with it
        for child in [*self._started, self._holder]:
            child.wait(20)
        self._log.close()
        shutil.rmtree(self.directory, ignore_errors=True)
        with contextlib.suppress(OSError):
            PEER_ROOT.rmdir()


def _unmount_below(directory: Path) -> None:
    with open("/proc/self/mountinfo") as lines:
        points = [line.split(" ", 5)[4] for line in lines]
    for point in sorted((p for p in points if p.startswith(f"{directory}/")), reverse=True):
        subprocess.run(["umount", "-l", point], check=False)


class Switch:
    """A bridge in a sandbox of its own that joins other sandboxes; `number`s are addresses."""

    def __init__(self, box: Sandbox) -> None:
        self.box = box
        box.run("ip", "link", "add", "br0", "type", "bridge", "forward_delay", "0", "stp_state", "0")
        box.run("ip", "link", "set", "br0", "up")
        box.run("ip", "address", "add", f"{PEER_PREFIX}254/24", "dev", "br0")

    def plug(self, box: Sandbox, number: int) -> str:
        """Give the sandbox an interface; returns its address."""
        port, other = f"p{number}", f"q{number}"
        self._here("ip", "link", "add", port, "type", "veth", "peer", "name", other)
        self._here("ip", "link", "set", port, "master", "br0", "up")
        # `ip` takes a pid of its own pid namespace, so it runs in the sandbox's network only.
        self._here("ip", "link", "set", other, "netns", str(box.pid))
        box.run("ip", "link", "set", other, "name", "eth0")
        box.run("ip", "address", "add", f"{PEER_PREFIX}{number}/24", "dev", "eth0")
        box.run("ip", "link", "set", "eth0", "up")
        return f"{PEER_PREFIX}{number}"

    def set_link(self, number: int, *, up: bool) -> None:
        self._here("ip", "link", "set", f"p{number}", "up" if up else "down")

    def _here(self, *argv: str) -> None:
        command(self.box.inside_network(argv))


@contextlib.contextmanager
def switch() -> Iterator[Switch]:
    with sandbox("switch") as box:
        yield Switch(box)


@contextlib.contextmanager
def sandbox(name: str) -> Iterator[Sandbox]:
    made = Sandbox(name)
    try:
        yield made
    finally:
        with uninterrupted():
            made.close()


def missing_tool(*tools: str) -> str:
    """Why a peer cannot run here; "" when it can."""
    absent = [tool for tool in tools if shutil.which(tool) is None]
    return f"{', '.join(absent)} not installed" if absent else ""


__all__ = ["demo", "demo_net"]
