"""What goes on while processes are killed and links are cut: real SIGKILL, real drops."""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator

import grpc
import pytest
from swarmpy.overlay import nametable
from swarmpy.proto import control_pb2, control_pb2_grpc, store_pb2, types_pb2

from tests.integration.cluster import IMAGE, Cluster, Load, wait_for

pytestmark = [pytest.mark.root, pytest.mark.timeout(180)]
QUICK = ("--stop-grace-period", "0s", "--drain-delay", "0s")
SLEEP = ("sleep", "100000")
COUNT = "i=0; while true; do echo line-$i; i=$((i+1)); sleep 0.05; done"


class Writer(threading.Thread):
    """Adds label after label to a service, each based on a fresh read; knows which were acknowledged."""

    def __init__(self, cluster: Cluster, service: str) -> None:
        super().__init__(daemon=True)
        self.acknowledged: list[str] = []
        self._cluster = cluster
        self._service = service
        self._over = threading.Event()

    def run(self) -> None:
        channels = [
            grpc.insecure_channel(f"unix:{self._cluster.socket(node)}") for node in self._cluster.managers()
        ]
        stubs = [control_pb2_grpc.ControlStub(channel) for channel in channels]
        number = 0
        while not self._over.is_set():
            number += 1
            label = f"write-{number}"
            try:
                self._write(stubs[0], label)
            except grpc.RpcError:
                stubs.append(stubs.pop(0))
            else:
                self.acknowledged.append(label)
            time.sleep(0.03)
        for channel in channels:
            channel.close()

    def _write(self, stub: control_pb2_grpc.ControlStub, label: str) -> None:
        request = control_pb2.GetRequest(kind=store_pb2.KIND_SERVICE, ref=self._service)
        found = stub.Get(request, timeout=2).object
        found.service.meta.labels[label] = "1"
        stub.Update(control_pb2.UpdateRequest(object=found), timeout=2)

    def end(self) -> list[str]:
        self._over.set()
        self.join(10)
        return self.acknowledged


class SlotWatch(threading.Thread):
    """Reads the DNS tables of nodes again and again: one slot must never have two tasks."""

    def __init__(self, cluster: Cluster, service: str, nodes: list[str]) -> None:
        super().__init__(daemon=True)
        self.doubled: list[str] = []
        self.samples = 0
        self._paths = [cluster.state(node) / "dns" / "table.json" for node in nodes]
        self._service = service
        self._over = threading.Event()

    def run(self) -> None:
        while not self._over.is_set():
            for path in self._paths:
                for entry in nametable.Follower().read(path.read_bytes(), anew=True).put:
                    if entry.name == self._service:
                        self.samples += 1
                        slots = Counter(task.slot for task in entry.tasks)
                        self.doubled += [f"{path}: slot {slot}" for slot, count in slots.items() if count > 1]
            time.sleep(0.03)

    def end(self) -> None:
        self._over.set()
        self.join(10)


@contextlib.contextmanager
def partition(cluster: Cluster, groups: str) -> Iterator[None]:
    cluster.demo("partition", groups)
    try:
        yield
    finally:
        cluster.demo("heal")
        cluster.settle()


def containers(cluster: Cluster, service: str) -> dict[str, list[int]]:
    return {task.meta.id: cluster.pids(task.meta.id)[:1] for task in cluster.running(service)}


def test_leader_killed_no_acknowledged_write_and_no_request_is_lost(cluster: Cluster, service: str) -> None:
    cluster.cli(
        "service", "create", "-q", "--name", service, "--replicas", "3", "-p", "8201:80", *QUICK, IMAGE
    )
    leader = cluster.leader()
    asked = next(node for node in ("n5", "n4") if node != leader)
    load = Load(cluster, asked, f"http://{cluster.address(asked)}:8201/cgi-bin/hostname")
    writer = Writer(cluster, service)
    writer.start()
    try:
        wait_for(lambda: len(writer.acknowledged) > 20, 20, "writes before the kill")
        cluster.kill(leader, "manager")
        before = len(writer.acknowledged)
        wait_for(lambda: len(writer.acknowledged) > before + 20, 20, "writes after the kill")
        acknowledged = writer.end()
        report = load.end()
    finally:
        writer.end()
        load.close()
        cluster.settle()
    labels = cluster.service(service).meta.labels
    lost = [label for label in acknowledged if label not in labels]
    assert not lost, f"{len(lost)} of {len(acknowledged)} acknowledged writes are gone"
    assert report["requests"] > 20
    assert report["failures"] == 0, report
    assert cluster.leader() != leader or len(cluster.status().members) == 3


def test_agent_killed_its_containers_run_on_and_are_adopted(cluster: Cluster, service: str) -> None:
    cluster.cli(
        "service", "create", "-q", "--name", service, "--replicas", "2", "--constraint", "node.hostname==n4", *QUICK,
        IMAGE, "sh", "-c", COUNT,
    )  # fmt: skip
    before = containers(cluster, service)
    assert len(before) == 2
    killed = cluster.kill("n4", "agent")
    wait_for(lambda: cluster.pid("n4", "agent") not in (0, killed), 10, "another agent")
    adopted = re.compile(r"agent started node=\S+ adopted=(\d+)")
    wait_for(lambda: len(adopted.findall(cluster.daemon_log("n4"))) >= 2, 10, "the agent started again")
    assert int(adopted.findall(cluster.daemon_log("n4"))[-1]) >= 2
    cluster.settle()
    time.sleep(1)
    assert containers(cluster, service) == before
    by_task: dict[str, list[int]] = {}
    for line in cluster.cli("service", "logs", service).stdout.splitlines():
        name, _, text = line.rpartition("line-")
        by_task.setdefault(name, []).append(int(text))
    assert len(by_task) == 2
    for name, numbers in by_task.items():
        assert len(numbers) > 20
        assert numbers == list(range(len(numbers))), f"a gap or a repetition in the log of {name}"
    cluster.cli("service", "rm", service)
    wait_for(
        lambda: not any(cluster.pids(task_id) for task_id in before), 10, "adopted containers can be stopped"
    )


def test_all_managers_killed_containers_serve_and_nothing_restarts(cluster: Cluster, service: str) -> None:
    cluster.cli(
        "service", "create", "-q", "--name", service, "--replicas", "4", "-p", "8202:80", *QUICK, IMAGE
    )
    before = containers(cluster, service)
    load = Load(cluster, "n5", f"http://{cluster.address('n5')}:8202/cgi-bin/hostname")
    try:
        time.sleep(0.5)
        killed = {node: cluster.kill(node, "manager") for node in ("n1", "n2", "n3")}
        wait_for(
            lambda: all(cluster.pid(n, "manager") not in (0, p) for n, p in killed.items()),
            10,
            "new managers",
        )
        cluster.cli("network", "create", "after-the-blackout", timeout_s=40)
        cluster.settle()
        report = load.end()
    finally:
        load.close()
        cluster.settle()
    assert report["requests"] > 20
    assert report["failures"] == 0, report
    time.sleep(1)
    assert containers(cluster, service) == before, "the same containers as before"
    assert len(cluster.tasks(service)) == 4, "and no other tasks"
    cluster.cli("network", "rm", "after-the-blackout")


def test_leader_in_a_minority_the_others_write_and_it_refuses(cluster: Cluster, service: str) -> None:
    cluster.cli("service", "create", "-q", "--name", service, "--replicas", "1", *QUICK, IMAGE, *SLEEP)
    leader = cluster.leader()
    majority = [node for node in ("n1", "n2", "n3") if node != leader]
    with partition(cluster, f"{leader},n4|{','.join(majority)},n5"):
        write = ("service", "update", "-d", "-q", "--label-add", "side=majority", service)
        cluster.at(majority[0], "--timeout", "20s", *write)
        with cluster.control(leader) as stub, contextlib.suppress(grpc.RpcError):
            # At this moment the old leader may not know yet that it leads no more.
            request = control_pb2.GetRequest(kind=store_pb2.KIND_SERVICE, ref=service)
            read_there = stub.Get(request, timeout=2).object.service
            assert read_there.meta.labels.get("side") == "majority", "the old leader served a stale object"
        refused = cluster.at(leader, "--timeout", "3s", "network", "create", "minority-write", check=False)
        assert refused.returncode == 3, refused.stderr
        assert "majority of the managers" in refused.stderr, refused.stderr
        read = cluster.at(leader, "--timeout", "1s", "service", "ls", check=False)
        assert read.returncode == 3, read.stdout + read.stderr
    assert cluster.service(service).meta.labels["side"] == "majority"
    assert not [n for n in cluster.listed(store_pb2.KIND_NETWORK) if n.meta.name == "minority-write"]

    def agree() -> bool:
        with contextlib.ExitStack() as stack:
            stubs = [stack.enter_context(cluster.control(node)) for node in ("n1", "n2", "n3")]
            answers = [stub.Status(control_pb2.StatusRequest(), timeout=3) for stub in stubs]
        return len({answer.leader_id for answer in answers}) == 1

    wait_for(agree, 15, "all managers name one leader")


def test_worker_cut_off_replicas_move_and_its_old_tasks_stop(cluster: Cluster, service: str) -> None:
    cluster.cli(
        "service", "create", "-q", "--name", service, "--replicas", "4", "--constraint", "node.role==worker", *QUICK,
        IMAGE,
    )  # fmt: skip
    ids = {name: node.meta.id for name, node in cluster.nodes().items()}
    old = [task.meta.id for task in cluster.running(service) if task.node_id == ids["n5"]]
    assert len(old) == 2
    watch = SlotWatch(cluster, service, ["n1", "n4", "n5"])
    watch.start()
    try:
        with partition(cluster, "n5|n1,n2,n3,n4"):
            wait_for(
                lambda: cluster.where(service) == ["n4"] * 4,
                20,
                lambda: f"all on n4: {cluster.where(service)}",
            )
            assert all(cluster.pids(task_id) for task_id in old), "cut off, its containers run on"
        wait_for(
            lambda: not any(cluster.pids(task_id) for task_id in old),
            10,
            "old tasks stopped after the return",
        )
        assert cluster.where(service) == ["n4"] * 4
    finally:
        watch.end()
    assert watch.samples > 20
    assert not watch.doubled, watch.doubled[:3]


@pytest.mark.slow
def test_a_node_that_is_cut_off_stops_what_is_fenced_before_it_runs_elsewhere(
    cluster: Cluster, service: str
) -> None:
    """Its agent is killed meanwhile. A service with stop-after runs elsewhere first, and ends there later."""
    for policy in ("fence=10s", "stop-after=10s"):
        cluster.cli(
            "service", "create", "-q", "--name", f"{service}-{policy[:4]}", "--replicas", "2", "--constraint",
            "node.role==worker", "--on-partition", policy, *QUICK, IMAGE, *SLEEP,
        )  # fmt: skip
    fenced, loose = f"{service}-fenc", f"{service}-stop"
    n5 = cluster.nodes()["n5"].meta.id
    ((old,), (other,)) = (
        [task.meta.id for task in cluster.running(name) if task.node_id == n5] for name in (fenced, loose)
    )
    try:
        with partition(cluster, "n5|n1,n2,n3,n4"):
            wait_for(lambda: cluster.where(loose) == ["n4"] * 2, 20, "replaced at once")
            assert cluster.pids(other), "and still there"
            cluster.kill("n5", "agent")
            wait_for(lambda: not cluster.pids(other), 40, "ended by its node")
            beside = []
            while cluster.where(fenced) != ["n4"] * 2:
                if not cluster.pids(old):
                    break
                beside.append(cluster.where(fenced))
                time.sleep(0.1)
            assert ["n4"] * 2 not in beside, "the fenced task ran beside its successor"
            wait_for(lambda: not cluster.pids(old), 1, "the fenced one has ended")
            wait_for(lambda: cluster.where(fenced) == ["n4"] * 2, 60, "and runs elsewhere then")
        wait_for(
            lambda: {t.status.reason for t in cluster.tasks(fenced) if t.meta.id == old} == {"CUT_OFF"},
            20,
            "why",
        )
    finally:
        cluster.cli("service", "rm", fenced, loose)


def test_killed_worker_returns_and_takes_tasks(cluster: Cluster, service: str) -> None:
    """A power cut: every process of the node, then a start with what is on its disk: not the last assignments."""
    cluster.cli(
        "service", "create", "-q", "--name", service, "--replicas", "2", "--constraint", "node.role==worker", *QUICK,
        IMAGE, *SLEEP,
    )  # fmt: skip
    cluster.demo("kill", "n5")
    try:
        wait_for(lambda: cluster.where(service) == ["n4", "n4"], 20, "both on n4")
        assert cluster.nodes()["n5"].status.state == types_pb2.NODE_DOWN
        (cluster.state("n5") / "agent" / "assignments.pb").unlink()
    finally:
        cluster.demo("start", "n5")
        cluster.settle()
    cluster.cli("service", "scale", "-q", f"{service}=4")
    assert cluster.where(service) == ["n4", "n4", "n5", "n5"]

    def unheard() -> list[str]:
        return [
            task.meta.name for task in cluster.tasks(service)
            if task.desired_state > types_pb2.TASK_RUNNING and task.status.state <= types_pb2.TASK_RUNNING
        ]  # fmt: skip

    wait_for(lambda: not unheard(), 10, lambda: f"n5 says what became of its old tasks: {unheard()}")
