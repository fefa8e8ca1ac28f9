"""Pods that use the node's processes or IPC, have no network, or ids of their own: the same for all containers."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from swarmpy.node.agent import pod
from swarmpy.node.agent.health import Prober
from swarmpy.node.runtime import RuntimeFailure, cgroups, system
from swarmpy.node.runtime.pods import Pods
from swarmpy.proto import types_pb2

from tests.integration.test_pod_supervisor import ID, Node, entry, play, pytestmark, task, volume
from tests.integration.test_runtime_containers import Box, opened

__all__ = ["pytestmark"]
NS_GET_USERNS = 0xB701
WAIT = ("sh", "-c", "trap 'exit 0' TERM; while :; do sleep 0.2; done")


@pytest.fixture
def box() -> Iterator[Box]:
    """Where others may go through, as below /run: pytest's own directories are root's alone."""
    with tempfile.TemporaryDirectory(prefix="swarmpy-test-") as name:
        base = Path(name)
        base.chmod(0o711)
        yield from opened(base, "auto")
        assert not (base / "ids").exists()


def namespace(pid: int | str, kind: str) -> str:
    return os.readlink(f"/proc/{pid}/ns/{kind}")


def both(node: Node) -> tuple[int, int]:
    pids = node.runtime.pids()
    return pids[ID], pids[f"{ID}.beside"]


def pod_of(change: Callable[[types_pb2.TaskSpec], Any], **more: Any) -> types_pb2.TaskSpec:
    spec = task(*WAIT, sidecars=[entry("beside", *WAIT)], **more)
    change(spec)
    return spec


async def said(node: Node, name: str, script: str) -> str:
    result = await node.runtime.exec(pod.container_id(ID, name), ["sh", "-c", script], timeout_s=20)
    assert result.code == 0, result.output
    return result.output.decode().strip()


async def started(node: Node) -> None:
    await node.prepare()
    await node.until(lambda supervisor: supervisor.started)


def test_all_containers_see_the_nodes_processes(box: Box) -> None:
    async def story(node: Node) -> None:
        await started(node)
        for pid, name in zip(both(node), ("main", "beside"), strict=True):
            assert namespace(pid, "pid") == namespace("self", "pid")
            assert namespace(pid, "ipc") != namespace("self", "ipc")
            assert await said(node, name, f"test -d /proc/{os.getpid()} && echo seen") == "seen"

    play(box, pod_of(lambda spec: setattr(spec.container, "pid_mode", "host")), story)


def test_all_containers_use_the_nodes_ipc_and_shared_memory(box: Box) -> None:
    note = Path("/dev/shm") / f"swarmpy-test-{box.owner}"

    async def story(node: Node) -> None:
        await started(node)
        assert {namespace(pid, "ipc") for pid in both(node)} == {namespace("self", "ipc")}
        for name in ("main", "beside"):
            assert await said(node, name, f"cat {note}") == "from the node"
        assert not (node.runtime.pods.place(ID) / "shm").exists()

    note.write_text("from the node")
    try:
        play(box, pod_of(lambda spec: setattr(spec.container, "ipc_mode", "host")), story)
        assert note.exists()  # the node's shared memory is not the pod's to clear
    finally:
        note.unlink()


def test_containers_without_a_network_reach_each_other_and_nothing_else(box: Box) -> None:
    async def story(node: Node) -> None:
        await started(node)
        main, beside = both(node)
        assert namespace(main, "net") == namespace(beside, "net") != namespace("self", "net")
        assert Path(f"/proc/{main}/net/dev").read_text().count(":") == 1  # the loopback
        await said(node, "beside", "mkdir -p /tmp/w; echo hello > /tmp/w/a; httpd -h /tmp/w -p 127.0.0.1:80")
        assert await said(node, "main", "wget -q -O - http://127.0.0.1/a") == "hello"

    play(box, pod_of(lambda spec: setattr(spec, "network_mode", "none")), story)


def own_ids(spec: types_pb2.TaskSpec) -> None:
    spec.container.userns, spec.network_mode = "auto", "none"


def owner_of(path: str) -> int:
    """The inode of the user namespace that a namespace belongs to."""
    fd = os.open(path, os.O_RDONLY)
    try:
        owner = fcntl.ioctl(fd, NS_GET_USERNS)
        try:
            return os.fstat(owner).st_ino
        finally:
            os.close(owner)
    finally:
        os.close(fd)


def test_all_containers_have_the_same_ids_of_their_own(box: Box) -> None:
    async def story(node: Node) -> None:
        await started(node)
        pids = both(node)
        assert len({namespace(pid, "user") for pid in (*pids, "self")}) == 2
        assert namespace(pids[0], "pid") == namespace(pids[1], "pid")
        user = os.stat(f"/proc/{pids[0]}/ns/user").st_ino
        for kind in ("net", "ipc", "uts", "mnt"):
            assert {owner_of(f"/proc/{pid}/ns/{kind}") for pid in pids} == {user}, kind
        first = int(Path(f"/proc/{pids[0]}/uid_map").read_text().split()[1])
        assert first > 0
        assert {os.stat(f"/proc/{pid}").st_uid for pid in pids} == {first}
        assert await said(node, "beside", "cat /data/note; stat -c %u /data/note /dev/shm") == "before\n0\n0"
        await said(node, "main", "echo shared > /dev/shm/note; echo more >> /data/note")
        assert await said(node, "beside", "cat /dev/shm/note /data/note") == "shared\nbefore\nmore"
        kept = node.runtime.pods.volume(ID, "data") / "note"
        assert kept.stat().st_uid == 0  # the ids on disk are the image's
        assert await said(node, "beside", "cat /proc/sys/kernel/shmmni") == "77"

    spec = pod_of(own_ids, share_pid=True)
    spec.container.sysctls["kernel.shmmni"] = "77"  # the IPC namespace is theirs to change
    spec.init_containers.append(
        entry("before", "sh", "-c", "echo before > /data/note", mounts=[volume("/data")])
    )
    spec.container.mounts.append(volume("/data"))
    spec.sidecars[0].container.mounts.append(volume("/data"))
    play(box, spec, story)


def test_ids_outlive_an_agent_that_dies_before_the_main_container_started(box: Box) -> None:
    """The main container is made anew: into the user namespace in which the init container still runs."""
    waits = "while ! test -e /data/go; do sleep 0.05; done"

    async def story(node: Node) -> None:
        await node.prepare()
        await node.until(lambda _: bool(node.status.containers) and node.of("before").state == pod.RUNNING)
        assert node.supervisor is not None
        await node.supervisor.close()
        node.supervisor = None
        waiting = node.runtime.pids()[f"{ID}.before"]
        user = namespace(waiting, "user")
        await node.runtime.close()
        node.runtime = box.make()
        await node.runtime.open()
        node.prober = Prober(node.runtime)
        try:
            assert list(node.runtime.pids()) == [f"{ID}.before"]
            assert system.start_time(waiting) is not None
            await node.prepare()
            (node.runtime.pods.volume(ID, "data") / "go").touch()
            await node.until(lambda supervisor: supervisor.started)
            assert {namespace(pid, "user") for pid in both(node)} == {user}
        finally:
            await node.clean()
            node.prober.close()
            await node.runtime.close()

    spec = pod_of(own_ids)
    spec.init_containers.append(entry("before", "sh", "-c", waits, mounts=[volume("/data")]))
    play(box, spec, story)


def test_all_containers_are_limited_together_and_that_changes_in_place(box: Box) -> None:
    def limited(spec: types_pb2.TaskSpec) -> None:
        spec.pod_resources.pids_limit = 30
        spec.pod_resources.limits.memory_bytes = 64 << 20

    async def story(node: Node) -> None:
        await started(node)
        group = node.runtime.inside(ID).group
        whole = cgroups.Cgroup(group.layout, group.path.rpartition("/")[0])
        memory = "memory.max" if group.layout.pure_v2 else "memory.limit_in_bytes"

        def held(name: str) -> str:
            return next(
                file.read_text().strip() for top in whole.directories() if (file := top / name).exists()
            )

        forks = "i=0; while [ $i -lt 40 ]; do sleep 60 & i=$((i+1)); done; kill $(jobs -p); echo made"
        for name in ("main", "beside"):
            result = await node.runtime.exec(pod.container_id(ID, name), ["sh", "-c", forks], timeout_s=20)
            assert b"made" not in result.output, "one container alone may not take what is for both"
        assert (held("pids.max"), held(memory)) == ("30", str(64 << 20))
        pods, wanted = node.runtime.pods, node.spec.pod_resources
        pods.limit(ID, types_pb2.ResourceRequirements(pids_limit=100))
        assert (held("pids.max"), held(memory) != str(64 << 20)) == ("100", True)
        assert await said(node, "beside", forks) == "made"
        later = Pods(pods.run, pods.state, pods.owner)  # the next agent's
        assert not later.has_limits(ID, wanted)
        later.limit(ID, wanted)
        assert later.has_limits(ID, wanted)
        assert held("pids.max") == "30"
        low = types_pb2.ResourceRequirements(limits=types_pb2.Resources(memory_bytes=4096))
        with pytest.raises(RuntimeFailure, match="is below the"):
            later.limit(ID, low)
        assert (held("pids.max"), held(memory)) == ("30", str(64 << 20))
        later.limit("nobody", wanted)
        assert not later.has_limits("nobody", wanted)

    play(box, pod_of(limited), story)
