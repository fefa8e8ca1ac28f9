"""One run: build the cluster, let clients work, break and mend, read everything, judge."""

from __future__ import annotations

import asyncio
import itertools
import random
import signal
import sys
import tempfile
import time
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from swarmpy.proto import control_pb2, store_pb2

from tests.chaos.caller import Caller, OutcomeUnknown, Refused
from tests.chaos.clients import (
    LABEL,
    VALUE,
    Client,
    Faithful,
    Watcher,
    World,
    elements,
)
from tests.chaos.cluster import ChaosError, Cluster
from tests.chaos.faults import FAULTS, Bench
from tests.chaos.history import CREATE, OK, READ, UNKNOWN, Op
from tests.chaos.judge import Verdict, judge

WARM_UP_S = 2.0
RECOVERY_S = 60.0
ALL_BACK_S = 90.0
LONG_S = 20.0


@dataclass(frozen=True)
class Options:
    """What to run."""

    minutes: float = 10.0
    seed: int = 0
    managers: int = 5
    clients: int = 6
    watchers: int = 2
    only: tuple[str, ...] = ()
    workers: int = 1
    rate: float = 0.0
    pace: float = 1.0
    faults_wanted: int = 0
    operations_wanted: int = 0
    history: Path | None = None


@dataclass
class Window:
    """One fault: when, what, and the longest time without an acknowledged write."""

    kind: str
    what: str
    begin_ns: int
    end_ns: int = 0
    gap_s: float = 0.0


@dataclass
class Report:
    """What came of a run."""

    options: Options
    seconds: float = 0.0
    judged_s: float = 0.0
    windows: list[Window] = field(default_factory=list)
    verdict: Verdict = field(default_factory=Verdict)
    operations: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    tracebacks: dict[str, list[str]] = field(default_factory=dict)

    @property
    def good(self) -> bool:
        verdict = self.verdict
        return not (verdict.anomalies or verdict.lost or verdict.undecided or self.problems)


def run(options: Options) -> Report:
    """A whole run; removes the cluster whatever happens, but keeps the nodes' logs of a bad one."""
    cluster = Cluster(options.managers, small_disks=max(1, options.managers // 2))
    report = Report(options)
    say(f"building a cluster of {options.managers} managers")
    cluster.lock()
    try:
        cluster.build()
        asyncio.run(_Run(options, cluster, report).run())
        report.tracebacks = cluster.tracebacks()
    finally:
        if not report.good or report.tracebacks or sys.exc_info()[0] is not None:
            keep_logs(cluster)
        cluster.down()
    return report


def say(text: str) -> None:
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {text}\n")
    sys.stderr.flush()


def keep_logs(cluster: Cluster) -> None:
    directory = Path(tempfile.gettempdir()) / f"{cluster.control_directory.name}-logs"
    directory.mkdir(exist_ok=True)
    for name in cluster.names:
        source = cluster.node(name).state / "daemon.log" if cluster.demo is not None else None
        if source is not None and source.exists():
            (directory / f"{name}.log").write_bytes(source.read_bytes())
    say(f"the nodes' logs are in {directory}")


class _Run:
    def __init__(self, options: Options, cluster: Cluster, report: Report) -> None:
        self.options, self.cluster, self.report = options, cluster, report
        self.rng = random.Random(options.seed)
        self.world = World(
            cluster.hosts, random.Random(options.seed + 1), workers=options.clients * options.workers,
            rate=options.rate,
        )  # fmt: skip
        self.caller = Caller(cluster.hosts, 0, self.world.errors)
        self.bench = Bench(cluster, self.caller, self.rng)
        self.told = False

    async def run(self) -> None:
        began = time.monotonic()
        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, self._told_to_end)
        callers = [
            Caller(self.cluster.hosts, number, self.world.errors, stream=bool(number % 3))
            for number in range(self.options.clients)
        ]
        clients = [
            Client(self.world, number + 1, callers[number % len(callers)])
            for number in range(self.world.workers)
        ]
        watchers = [Watcher(self.world, number + 1) for number in range(self.options.watchers)]
        faithful = [
            Faithful(self.world, 10_000 + number, host) for number, host in enumerate(self.cluster.hosts)
        ]
        tasks = [asyncio.create_task(client.run()) for client in [*clients, *faithful]]
        following = [asyncio.create_task(watcher.run()) for watcher in watchers]
        try:
            await asyncio.sleep(WARM_UP_S)
            await self._break_things(began + 60 * self.options.minutes, [*tasks, *following])
            await asyncio.to_thread(self.cluster.heal)
            await self._recovered()
        finally:
            self.world.stopping = True
            for task in following:
                task.cancel()
            await asyncio.gather(*tasks, *following, return_exceptions=True)
            for caller in callers:
                await caller.close()
        await self._read_everything()
        await self.caller.close()
        self.report.seconds = time.monotonic() - began
        self._judge()

    async def _break_things(self, until_s: float, tasks: Sequence[asyncio.Task[None]]) -> None:
        kinds = list(self.options.only or FAULTS)
        weights = [FAULTS[kind][1] for kind in kinds]
        while time.monotonic() < until_s and not self._enough():
            for task in tasks:
                if task.done():
                    task.result()
                    raise ChaosError("a client ended before its time")
            kind = self.rng.choices(kinds, weights)[0]
            if not await self._one_fault(kind):
                return
            await asyncio.sleep(self.rng.uniform(0.3, 2.0) / self.options.pace)

    def _told_to_end(self) -> None:
        """Ctrl-C: no more faults, but judge what there is; a second one ends the run as it is."""
        say("told to end: judging what there is (again: at once)")
        self.told = True
        asyncio.get_running_loop().remove_signal_handler(signal.SIGINT)

    def _enough(self) -> bool:
        """Whether as much has happened as was asked for, if anything was."""
        if self.told:
            return True
        faults, operations = self.options.faults_wanted, self.options.operations_wanted
        reached = len(self.report.windows) >= faults and len(self.world.history.ops) >= operations
        return bool(faults or operations) and reached

    async def _one_fault(self, kind: str) -> bool:
        before = len(self.world.history.ops)
        window = Window(kind, "", time.monotonic_ns())
        done = await FAULTS[kind][0](self.bench)
        window.what = done.what
        # However fast the run, the rare long fault stays as long: it is the one that outlasts every timeout.
        paced = done.duration_s < LONG_S
        await asyncio.sleep(done.duration_s / (self.options.pace if paced else 1))
        await done.heal()
        recovered = await self._recovered()
        window.end_ns = time.monotonic_ns()
        self.report.windows.append(window)
        seconds = (window.end_ns - window.begin_ns) / 1e9
        count = len(self.world.history.ops)
        say(
            f"{len(self.report.windows):4d} {kind}: {done.what}; {seconds:.1f} s, {count - before} operations "
            f"of {count}"
        )
        return recovered

    async def _recovered(self) -> bool:
        """Wait for a write that was acknowledged from now on."""
        since = time.monotonic_ns()
        while self.world.last_write_ns <= since:
            if time.monotonic_ns() - since > RECOVERY_S * 1e9:
                self.report.problems.append(
                    f"no write was acknowledged within {RECOVERY_S:g} s after healing"
                )
                say(self.report.problems[-1])
                return False
            await asyncio.sleep(0.05)
        return True

    # -- the end

    async def _read_everything(self) -> None:
        """From every manager in turn as the leader: each one's own copy must hold everything."""
        for name in self.cluster.names:
            if not await self._make_leader(name):
                self.report.problems.append(f"{name} could not be made the leader at the end")
                continue
            for kind in ("register", "list", "item"):
                await self._read_kind(kind)

    async def _make_leader(self, name: str) -> bool:
        until = time.monotonic() + ALL_BACK_S
        while time.monotonic() < until:
            if await self.bench.leader() == name:
                return True
            request = control_pb2.TransferRequest(to=self.bench.id_of(name))
            try:
                await self.caller.call("TransferLead", request, 6)
            except (OutcomeUnknown, Refused):
                await asyncio.sleep(0.5)
        return False

    async def _read_kind(self, kind: str) -> None:
        filters = [control_pb2.Filter(key="label", value=f"{LABEL}={kind}")]
        request = control_pb2.ListRequest(kind=store_pb2.KIND_SERVICE, filters=filters)
        begin = time.monotonic_ns()
        try:
            answer = await self.caller.call("List", request, 30)
        except (OutcomeUnknown, Refused) as error:
            self.report.problems.append(f"the last read of every {kind} failed: {error}")
            return
        end = time.monotonic_ns()
        services = [entry.service for entry in answer.objects]
        if kind == "item":
            there = sorted(
                sys.intern(service.meta.name) for service in services if not service.pending_delete
            )
            self.world.record(Op(0, "", READ, begin, end, OK, there, index=answer.index))
            return
        found = {service.meta.name: service.meta.labels[VALUE] for service in services}
        keys = {op.key for op in self.world.history.ops if op.key.startswith(f"chaos-{kind}-")}
        created = {op.key for op in self.world.history.ops if op.kind == CREATE and op.outcome == OK}
        for key in keys:
            text = found.get(key)
            value: Any = elements(text or "") if kind == "list" else text
            if text is not None or key in created:
                self.world.record(Op(0, key, READ, begin, end, OK, value, index=answer.index))

    def _judge(self) -> None:
        report, history = self.report, self.world.history
        if self.options.history is not None:
            history.save(self.options.history)
        report.errors = self.world.errors
        for op in history.ops:
            report.operations[f"{op.kind} {op.outcome}"] += 1
        writes = sorted(op.return_ns for op in history.ops if op.certain_write)
        for window in report.windows:
            window.gap_s = longest_gap_s(writes, window.begin_ns, window.end_ns)
        say(f"judging {len(history.ops)} operations")
        began = time.monotonic()
        report.verdict = judge(history)
        report.judged_s = time.monotonic() - began


def longest_gap_s(writes: Sequence[int], begin_ns: int, end_ns: int) -> float:
    """Between acknowledged writes round a fault."""
    first = max(0, bisect_left(writes, begin_ns) - 1)
    last = min(len(writes), bisect_left(writes, end_ns) + 1)
    near = writes[first:last]
    return max((later - earlier for earlier, later in itertools.pairwise(near)), default=0) / 1e9


def figures(report: Report) -> dict[str, Any]:
    """The report as plain values."""
    gaps: dict[str, list[float]] = defaultdict(list)
    for window in report.windows:
        gaps[window.kind].append(window.gap_s)
    total = sum(report.operations.values())
    return {
        "seed": report.options.seed,
        "managers": report.options.managers,
        "clients": report.options.clients,
        "workers": report.options.clients * report.options.workers,
        "seconds": round(report.seconds, 1),
        "judged_s": round(report.judged_s, 1),
        "faults": len(report.windows),
        "by_kind": {
            kind: {
                "count": len(seconds),
                "median_gap_s": round(sorted(seconds)[len(seconds) // 2], 3),
                "longest_gap_s": round(max(seconds), 3),
            }
            for kind, seconds in sorted(gaps.items())
        },
        "operations": total,
        "operations_by_outcome": dict(sorted(report.operations.items())),
        "unknown": sum(count for kind, count in report.operations.items() if kind.endswith(UNKNOWN)),
        "keys": report.verdict.keys,
        "watched_events": report.verdict.watched,
        "lost_acknowledged_writes": len(report.verdict.lost),
        "anomalies": [f"{a.key}: {a.reason}: {list(a.ops)}" for a in report.verdict.anomalies],
        "undecided": report.verdict.undecided,
        "problems": report.problems,
        "errors": dict(report.errors.most_common()),
        "tracebacks": {
            name: dict(Counter(lines).most_common(5)) for name, lines in sorted(report.tracebacks.items())
        },
        "good": report.good,
    }
