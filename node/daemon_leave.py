"""Leaving: a manager hands its membership back first, then everything of the node goes.

Also the way to clear a node by hand after its daemon died: every step works on what is left.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import grpc
from swarmpy.node import config as node_config
from swarmpy.node import daemon_setup
from swarmpy.node.config import ConfigError, Paths
from swarmpy.node.runtime.runtime import Runtime
from swarmpy.node.volume import memory
from swarmpy.node.volume.local import unmount_below, volumes_in
from swarmpy.overlay import namespaces, plane
from swarmpy.proto import control_pb2, control_pb2_grpc, store_pb2, types_pb2

LEADER_TIMEOUT_S = 20.0
DEMOTE_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 30.0

T = TypeVar("T")


class LeaveRefused(Exception):
    """The node stays; the message says why and what to do."""


def leave(state_dir: Path, *, force: bool, say: Callable[[str], None]) -> None:
    """Take the node of `state_dir` out of its cluster. Raises LeaveRefused."""
    if os.geteuid() != 0:
        raise LeaveRefused("a node needs root: run this with sudo")
    paths = Paths(state_dir)
    try:
        config = node_config.load(paths)
    except ConfigError as error:
        raise LeaveRefused(str(error)) from error
    if (held := volumes_in(paths.volumes)) and not force:
        raise LeaveRefused(
            f"this node holds {len(held)} volumes ({', '.join(held[:5])}): move them or back them up "
            "first; --force deletes them with the node"
        )
    if config.role == node_config.MANAGER:
        _leave_as_manager(paths, config, force=force, say=say)
    paths.leaving.touch(mode=0o600)
    if daemon_setup.under_systemd() and daemon_setup.UNIT_PATH.exists():
        daemon_setup.stop_unit()
    pid = daemon_setup.daemon_pid(state_dir)
    if pid is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
        if not _wait(lambda: daemon_setup.daemon_pid(state_dir) is None, STOP_TIMEOUT_S):
            raise LeaveRefused(
                f"the daemon (pid {pid}) did not end within {STOP_TIMEOUT_S:g} s: end it, then leave again"
            )
    clear_stopped(paths, config.runtime)
    shutil.rmtree(paths.state, ignore_errors=True)


async def clear_containers(paths: Paths, runtime: str) -> None:
    """Remove every container of a node whose daemon does not run, and its pods' namespaces."""
    containers = Runtime(
        state_dir=paths.state, run_dir=paths.run, log_dir=paths.logs, owner=paths.tag, runtime=runtime
    )
    await containers.open()
    await containers.destroy()
    unmount_below(paths.volumes)
    memory.close(paths.payloads)
    if paths.netns.is_dir():
        for path in paths.netns.iterdir():
            namespaces.unpin(path)
        namespaces.remove_directory(paths.netns)
    shutil.rmtree(paths.run, ignore_errors=True)


async def clear(paths: Paths, runtime: str) -> None:
    """Remove every container and the network of a node whose daemon does not run."""
    await clear_containers(paths, runtime)
    overlay = plane.Overlay(netns_dir=paths.netns, tag=paths.tag)
    await overlay.start()
    await overlay.stop(teardown=True)
    shutil.rmtree(paths.run, ignore_errors=True)


def clear_stopped(paths: Paths, runtime: str) -> None:
    """`clear`, for those who have no loop."""
    asyncio.run(clear(paths, runtime))


def _leave_as_manager(
    paths: Paths, config: node_config.NodeConfig, *, force: bool, say: Callable[[str], None]
) -> None:
    try:
        with grpc.insecure_channel(f"unix:{paths.control_socket}") as channel:
            stub = control_pb2_grpc.ControlStub(channel)
            patience_s = 0.0 if force or daemon_setup.daemon_pid(paths.state) is None else LEADER_TIMEOUT_S
            managers = _patiently(lambda: _managers(stub), patience_s)
            if managers == [config.node_id]:
                if not force:
                    raise LeaveRefused(
                        "this is the last manager: leaving ends the cluster and its state; "
                        "use --force if that is meant"
                    )
                return
            say("Handing this manager's membership back …")
            _patiently(lambda: _demote(stub, config.node_id), patience_s)
    except grpc.RpcError as error:
        if force:
            say("The cluster did not answer; leaving by force.")
            return
        details = error.details() if isinstance(error, grpc.Call) else str(error)
        raise LeaveRefused(
            f"this manager could not be demoted ({details}): use --force to leave all the same"
        ) from error


def _patiently(call: Callable[[], T], patience_s: float) -> T:
    """Repeat a call that the managers cannot answer yet: a leader is being elected, a member catches up."""
    deadline = time.monotonic() + patience_s
    while True:
        try:
            return call()
        except grpc.RpcError as error:
            code = error.code() if isinstance(error, grpc.Call) else None
            again = code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.ABORTED)
            if not again or time.monotonic() >= deadline:
                raise
            time.sleep(0.2)


def _managers(stub: control_pb2_grpc.ControlStub) -> list[str]:
    request = control_pb2.ListRequest(
        kind=store_pb2.KIND_NODE, filters=[control_pb2.Filter(key="role", value="manager")]
    )
    answer = stub.List(request, timeout=DEMOTE_TIMEOUT_S)
    return [wrapped.node.meta.id for wrapped in answer.objects]


def _demote(stub: control_pb2_grpc.ControlStub, node_id: str) -> None:
    get = control_pb2.GetRequest(kind=store_pb2.KIND_NODE, ref=node_id)
    wrapped = stub.Get(get, timeout=DEMOTE_TIMEOUT_S).object
    wrapped.node.spec.role = types_pb2.ROLE_WORKER
    stub.Update(control_pb2.UpdateRequest(object=wrapped), timeout=DEMOTE_TIMEOUT_S)

    def demoted() -> bool:
        try:
            node = stub.Get(get, timeout=5).object.node
        except grpc.RpcError:
            # Not a manager any more: its own socket is gone.
            return True
        return bool(node.role == types_pb2.ROLE_WORKER)

    if not _wait(demoted, DEMOTE_TIMEOUT_S):
        raise LeaveRefused(
            f"the demotion did not finish within {DEMOTE_TIMEOUT_S:g} s: see `swarmpy node ls`"
        )


def _wait(condition: Callable[[], bool], timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.1)
    return condition()
