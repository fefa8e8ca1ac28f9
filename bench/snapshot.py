"""The store full of tasks: its memory; snapshots: for how long the loop stands still, how long they take.

    .venv/bin/python -m bench.snapshot [--tasks 10000,100000] [--rounds 3] [--format json]

A ticker on the loop asks to run every millisecond; the pause is its longest wait beyond that
while the snapshot is made and written, and while one is read back in. Memory is what the process grows
by (RSS, in a process of its own for each size) while the store is filled, 200 tasks a transaction.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from swarmpy.node.manager import garbage
from swarmpy.proto import objects_pb2, raft_pb2, store_pb2, types_pb2
from swarmpy.raft.checkpoint import Checkpoints
from swarmpy.raft.store import Store, transaction
from swarmpy.raft.tables import wrap

TICK_S = 0.001
CHANGES = 200


def filled(tasks: int) -> Store:
    """A store with so many running tasks of services of 100 replicas on 50 nodes."""
    store = Store()
    store.apply(1, transaction([], epoch=1, now_ms=1, new_epoch=True))
    index = 1
    for start in range(0, tasks, CHANGES):
        changes = [
            store_pb2.Change(put=wrap(task(number))) for number in range(start, min(start + CHANGES, tasks))
        ]
        index += 1
        store.apply(index, transaction(changes, epoch=1, now_ms=index, request_id=f"request-{index}"))
    return store


def task(number: int) -> objects_pb2.Task:
    made = objects_pb2.Task(
        meta=types_pb2.Meta(id=f"{number:025d}", name=f"web{number // 100}.{number % 100}", labels={"tier": "front"}),
        service_id=f"{number // 100:025d}", service_name=f"web{number // 100}", slot=number % 100 + 1,
        node_id=f"{number % 50:025d}", desired_state=types_pb2.TASK_RUNNING, spec_version=1,
    )  # fmt: skip
    made.spec.container.image = "docker.io/library/web:1"
    made.spec.container.image_digest = "sha256:" + "a" * 64
    made.spec.container.env.extend(["A=1", "B=2"])
    made.status.state = types_pb2.TASK_RUNNING
    made.status.since_ms = 1_700_000_000_000
    return made


async def paused(work: Callable[[], Awaitable[Any]]) -> tuple[float, float, Any]:
    """The longest pause in ms, the time in s, and the result."""
    longest = 0.0

    async def tick() -> None:
        nonlocal longest
        while True:
            before = time.perf_counter()
            await asyncio.sleep(TICK_S)
            longest = max(longest, time.perf_counter() - before - TICK_S)

    ticker = asyncio.create_task(tick())
    await asyncio.sleep(0.05)
    longest = 0.0
    started = time.perf_counter()
    result = await work()
    took = time.perf_counter() - started
    await asyncio.sleep(0.02)
    ticker.cancel()
    return longest * 1000, took, result


async def once(store: Store, directory: Path) -> dict[str, float]:
    checkpoints = Checkpoints(directory)
    meta = raft_pb2.SnapshotMeta(index=store.index, term=1)

    async def make() -> Path:
        return await asyncio.to_thread(checkpoints.write, meta, store.snapshot())

    kept = []

    async def install() -> None:
        other = Store()
        prepared = await asyncio.to_thread(other.prepare, checkpoints.chunks(path))
        prepared()()
        assert other.state_hash() == store.state_hash()
        kept.append(other)  # it would be freed here, all at once

    collector = asyncio.create_task(garbage.run())  # as in a manager
    idle, _, _ = await paused(lambda: asyncio.sleep(0.3))
    pause, took, path = await paused(make)
    install_pause, install_took, _ = await paused(install)
    collector.cancel()
    return {
        "idle_pause_ms": idle, "pause_ms": pause, "seconds": took, "mib": path.stat().st_size / 2**20,
        "install_pause_ms": install_pause, "install_seconds": install_took,
    }  # fmt: skip


def rss_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def measure(tasks: int, rounds: int) -> dict[str, float]:
    """Medians over the rounds, the worst for pauses."""
    filled(1)  # whatever is made once
    gc.collect()
    empty_bytes = rss_bytes()
    store = filled(tasks)
    gc.collect()
    memory_mb = (rss_bytes() - empty_bytes) / 1e6
    found = []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as directory:
            found.append(asyncio.run(once(store, Path(directory))))
    row = {
        key: (max if key.endswith("pause_ms") else statistics.median)([one[key] for one in found])
        for key in found[0]
    }
    return {
        "tasks": tasks,
        "memory_mb": memory_mb,
        "memory_mb_per_10k_tasks": memory_mb / tasks * 10_000,
        **row,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", default="10000,100000")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--format", choices=["table", "json"], default="table")
    arguments = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    rows = []
    for number in arguments.tasks.split(","):
        with context.Pool(1) as pool:
            rows.append(pool.apply(measure, (int(number), arguments.rounds)))
    if arguments.format == "json":
        print(json.dumps(rows))
        return
    print(
        f"{'tasks':>8} {'memory':>9} {'per 10k':>9} {'pause':>9} {'made in':>9} {'size':>10} "
        f"{'installed in':>13} {'pause':>9} {'idle loop':>10}"
    )
    for row in rows:
        print(
            f"{row['tasks']:>8.0f} {row['memory_mb']:>6.1f} MB {row['memory_mb_per_10k_tasks']:>6.1f} MB "
            f"{row['pause_ms']:>6.1f} ms {row['seconds']:>7.2f} s {row['mib']:>6.1f} MiB "
            f"{row['install_seconds']:>11.2f} s {row['install_pause_ms']:>6.1f} ms {row['idle_pause_ms']:>7.1f} ms"
        )


if __name__ == "__main__":
    sys.exit(main())
