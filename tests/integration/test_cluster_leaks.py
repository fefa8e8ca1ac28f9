"""Services made and removed a thousand times: what a node holds afterwards is what it held before.

Slow, and not part of `make test`: `pytest tests/integration/test_cluster_leaks.py -m slow -s` shows the figures;
SWARMPY_LEAK_CYCLES=100 is a short look.
"""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from swarmpy.node.config import Paths
from swarmpy.proto import control_pb2, control_pb2_grpc, objects_pb2, store_pb2, types_pb2

from tests.integration.cluster import IMAGE, Cluster, control_groups, missing, tags, wait_for

pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.skipif(bool(missing()), reason=missing() or "ready"),
    pytest.mark.timeout(3600),
]
CYCLES = int(os.environ.get("SWARMPY_LEAK_CYCLES", "1000"))
AT_ONCE = 20
WARM_ROUNDS = 3
ROLES = ("agent", "manager", "dns")
# Of a process, for a service made and removed. Caches with a bound (addresses, compiled filters) fill meanwhile, and
# a manager's log and history, of 32 MiB and more: a leak of a service's objects was 40 KiB.
SLOPE_MAX_BYTES = {"agent": 16 * 1024, "dns": 4 * 1024}


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[Cluster]:
    """One node, for itself."""
    made = Cluster(f"swarmpy-test-leaks-{os.getpid()}")
    try:
        made.up(nodes=1, managers=1)
        made.load_image(tmp_path, IMAGE)
        yield made
    finally:
        if made.root.exists() or made.run_root.exists():
            made.down()


def spec(name: str) -> objects_pb2.Service:
    """Everything that leaves traces: a port, two networks, a volume, a tmpfs, a health check."""
    service = objects_pb2.Service()
    service.meta.name = name
    service.spec.replicated.replicas = 1
    task = service.spec.task
    task.container.image = IMAGE
    task.container.stop_signal = "SIGKILL"
    task.container.drain_delay_ms = 0
    task.container.mounts.add(type=types_pb2.MOUNT_VOLUME, source=f"{name}-data", target="/data")
    task.container.mounts.add(type=types_pb2.MOUNT_TMPFS, target="/cache")
    task.container.health.test.extend(["CMD", "/bin/busybox", "true"])
    service.spec.endpoint.ports.add(target=80, protocol=types_pb2.PROTOCOL_TCP)
    return service


def one_round(cluster: Cluster, stub: control_pb2_grpc.ControlStub, number: int) -> None:
    names = [f"leak-{number}-{place}" for place in range(AT_ONCE)]
    for name in names:
        request = control_pb2.CreateRequest(request_id=uuid.uuid4().hex)
        request.object.service.CopyFrom(spec(name))
        stub.Create(request, timeout=20)

    def running() -> bool:
        tasks = cluster.listed(store_pb2.KIND_TASK)
        return sum(task.status.state == types_pb2.TASK_RUNNING for task in tasks) == AT_ONCE

    wait_for(running, 120, f"{AT_ONCE} tasks run")
    for kind, ends in ((store_pb2.KIND_SERVICE, ""), (store_pb2.KIND_VOLUME, "-data")):
        for name in names:
            request_id = uuid.uuid4().hex
            stub.Delete(
                control_pb2.DeleteRequest(kind=kind, ref=name + ends, request_id=request_id), timeout=20
            )
        if kind == store_pb2.KIND_SERVICE:
            wait_for(lambda: not cluster.listed(store_pb2.KIND_TASK), 120, "the tasks are gone")
    wait_for(lambda: not cluster.listed(store_pb2.KIND_VOLUME), 60, "the volumes are gone")
    wait_for(lambda: not held(cluster)["containers"], 60, "the containers are gone")


def lines(cluster: Cluster, *command: str) -> list[str]:
    text = cluster.inside("n1", *command, timeout_s=30).stdout
    # Counters and ages are no objects.
    return sorted(
        re.sub(r"packets \d+ bytes \d+|used \S+|expires \S+|\d+sec", "", line) for line in text.splitlines()
    )


def held(cluster: Cluster) -> dict[str, object]:
    """What the node has of the kernel and of the disk, by kind."""
    state, tag = cluster.state("n1"), next(iter(tags(cluster.root, 1)))
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    groups = [path for path in Path("/sys/fs/cgroup").glob(f"**/swarmpy-{tag}/*") if path.is_dir()]
    return {
        "containers": sum(f"/swarmpy-{tag}/" in group for _, group in control_groups()),
        "control groups": len(groups),
        "mounts": sum(str(cluster.root) in line or f"/run/swarmpy/{tag}" in line for line in mounts),
        "links": len(lines(cluster, "ip", "-o", "link")),
        "routes": lines(cluster, "ip", "route", "show", "table", "all"),
        "rules": lines(cluster, "ip", "rule"),
        "neighbours": len(lines(cluster, "ip", "neighbour", "show", "nud", "permanent")),
        "nft": lines(cluster, "nft", "-s", "list", "ruleset"),
        "run files": files(Paths(state).run),
        "state files": files(state),
    }


def files(directory: Path) -> int:
    found = subprocess.run(
        ["find", str(directory), "-xdev", "(", "-path", "*/raft/*", "-o", "-path", "*/log*", ")", "-prune", "-o",
         "-print"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return len(found.stdout.splitlines())


def of_processes(cluster: Cluster) -> dict[str, tuple[int, int, int]]:
    """Role -> (open files, threads, resident bytes)."""
    found = {}
    for role in ROLES:
        pid = cluster.pid("n1", role)
        if not pid:
            continue
        status = Path(f"/proc/{pid}/status").read_text()
        numbers = {
            key: int(value.split()[0]) for key, value in re.findall(r"(Threads|VmRSS):\s*(\S+)", status)
        }
        found[role] = len(os.listdir(f"/proc/{pid}/fd")), numbers["Threads"], numbers["VmRSS"] * 1024
    return found


def slope(values: list[int]) -> float:
    """Bytes a service, by least squares over the second half, after whatever is bounded has filled up."""
    late = values[len(values) // 2 :]
    if len(late) < 3:
        return 0.0
    return statistics.linear_regression(range(len(late)), late).slope / AT_ONCE


def test_a_thousand_services_leave_nothing(alone: Cluster) -> None:
    rounds = max(WARM_ROUNDS + 3, CYCLES // AT_ONCE)
    memory: dict[str, list[int]] = {}
    with alone.control("n1") as stub:
        for number in range(rounds):
            one_round(alone, stub, number)
            for role, (_, _, resident) in of_processes(alone).items():
                memory.setdefault(role, []).append(resident)
            if number == WARM_ROUNDS:
                before, before_processes = held(alone), of_processes(alone)
            if number % 10 == 0:
                print(number * AT_ONCE, of_processes(alone), flush=True)
    wait_for(lambda: held(alone) == before, 60, lambda: difference(before, held(alone)))
    after = of_processes(alone)
    print("bytes a service:", {role: round(slope(values)) for role, values in memory.items()})
    for role, (open_files, threads, _) in after.items():
        assert open_files <= before_processes[role][0] + 3, (role, open_files, before_processes[role])
        assert threads <= before_processes[role][1] + 2, (role, threads, before_processes[role])
        assert slope(memory[role]) < SLOPE_MAX_BYTES.get(role, float("inf")), (role, memory[role])


def difference(before: dict[str, object], after: dict[str, object]) -> str:
    found = []
    for key, value in before.items():
        now = after[key]
        if isinstance(value, list) and isinstance(now, list):
            found += [f"{key}: + {line}" for line in now if line not in value][:10]
            found += [f"{key}: - {line}" for line in value if line not in now][:10]
        elif value != now:
            found.append(f"{key}: {value} -> {now}")
    return "; ".join(found)
