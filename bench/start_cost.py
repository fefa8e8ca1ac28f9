"""What one container's start costs, without cluster and network: filter compiled once, or by crun each time.

No other product is the peer here: the two ways of ours alternate. CPU is that of everything that works for the
start, conmon, the OCI runtime and the container until its program runs, as the kernel's accounting has it
(cgroup v1 cpuacct or v2 cpu.stat of a group of this benchmark's own, and of the container's).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from swarmpy.node.runtime import ContainerRequest, Runtime, bpf, cgroups
from swarmpy.proto import types_pb2

from bench import harness

DIRECTORY = Path("/var/lib/swarmpy-bench-start")
WAYS = ("compiled once", "compiled by crun")


@contextlib.contextmanager
def own_group() -> Iterator[cgroups.Cgroup]:
    """A group that counts what this process and its children use."""
    layout = cgroups.detect()
    name = f"swarmpy-bench-{os.getpid()}"
    tree = layout.unified if layout.pure_v2 else layout.controllers.get("cpuacct")
    if tree is None:
        raise harness.BenchError("this machine has no control group that counts CPU time")
    (tree / name).mkdir()
    try:
        (tree / name / "cgroup.procs").write_text(str(os.getpid()))
        yield cgroups.Cgroup(layout, f"/{name}")
    finally:
        (tree / "cgroup.procs").write_text(str(os.getpid()))
        (tree / name).rmdir()


def layer() -> Path:
    made = DIRECTORY / "layer"
    (made / "bin").mkdir(parents=True)
    busybox = shutil.which("busybox")
    if busybox is None:
        raise harness.BenchError("busybox is missing: apt-get install busybox-static")
    shutil.copy(busybox, made / "bin/sleep")
    return made


async def measure(rounds: int) -> dict[str, dict[str, list[float]]]:
    found: dict[str, dict[str, list[float]]] = {way: {"cpu": [], "python": [], "wall": []} for way in WAYS}
    compiled, root = bpf.annotation, layer()
    runtime = Runtime(
        state_dir=DIRECTORY / "state", run_dir=DIRECTORY / "run", log_dir=DIRECTORY / "logs", owner="bench",
        runtime="crun",
    )  # fmt: skip
    await runtime.open()
    try:
        with own_group() as group:
            for number in range(rounds + 1):
                for way in WAYS:
                    bpf.annotation = compiled if way == WAYS[0] else (lambda _rules: {})
                    name = f"c{number}-{WAYS.index(way)}"
                    spec = types_pb2.ContainerSpec(command=["/bin/sleep", "1000"])
                    request = ContainerRequest(
                        id=name, spec=spec, resources=types_pb2.ResourceRequirements(), image_config={},
                        layers=(root,), netns=None, own_network=True, hostname="bench",
                    )  # fmt: skip
                    began = group.stats().cpu_ns, time.process_time(), time.monotonic()
                    await runtime.create(request)
                    await runtime.start(name)
                    inside = (await runtime.stats(name)).cpu_ns
                    ended = group.stats().cpu_ns, time.process_time(), time.monotonic()
                    if number:  # the first loads modules and caches
                        found[way]["cpu"].append((ended[0] - began[0] + inside) / 1e6)
                        found[way]["python"].append((ended[1] - began[1]) * 1000)
                        found[way]["wall"].append((ended[2] - began[2]) * 1000)
                    await runtime.remove(name)
    finally:
        bpf.annotation = compiled
        await runtime.destroy()
    return found


def main(rounds: int) -> harness.Report:
    shutil.rmtree(DIRECTORY, ignore_errors=True)
    DIRECTORY.mkdir()
    try:
        found = asyncio.run(measure(rounds))
    finally:
        shutil.rmtree(DIRECTORY, ignore_errors=True)
    report = harness.Report("one container's start, crun", WAYS[1])
    for key, what in (("cpu", "CPU of everything"), ("python", "of it our own process"), ("wall", "time")):
        report.rows.append(harness.Row(what, "ms", found[WAYS[0]][key], found[WAYS[1]][key]))
    report.remarks.append(
        f"load of the machine at the end: {os.getloadavg()[0]:.0f} on {os.cpu_count()} cores"
    )
    return report


if __name__ == "__main__":
    given = harness.parser(__doc__, rounds=25).parse_args()
    harness.run(lambda: main(given.rounds), given.format)
