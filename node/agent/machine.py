"""The life of one task on its node, as pure functions.

`next_action(local)` says what to do next; the worker does exactly that one step and hands
the outcome to `after(local, outcome)`. Observed states only grow:

    ASSIGNED -> ACCEPTED -> PREPARING -> READY -> STARTING -> RUNNING -> COMPLETE | FAILED | SHUTDOWN
                     \\-> REJECTED: it can never run here

`wanted` is the task as the managers want it, None once they no longer know it: then its
container goes, and then the record. `cut_off` is this node's own decision to stop it: it had no manager for as
long as the task's service allows. A stop is: out of service, drain delay, signal, grace, kill.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum

from swarmpy.node.agent.pod import Progress, waits_for_main
from swarmpy.proto import objects_pb2, types_pb2

State = types_pb2.TaskState


class Action(Enum):
    """One step for the worker."""

    ACCEPT = "accept"
    PREPARE = "prepare"
    START = "start"
    CHECK = "check"  # wait for the first healthy answer
    WATCH = "watch"  # wait for the exit, watch health
    STOP = "stop"
    CLEAN = "clean"  # remove container and network, keep the record
    FORGET = "forget"  # remove the record


@dataclass(frozen=True)
class Local:
    """What the node knows of a task. `container` = there may be something to remove."""

    task_id: str
    wanted: objects_pb2.Task | None
    status: objects_pb2.TaskStatus = field(default_factory=objects_pb2.TaskStatus)
    container: bool = False
    cut_off: str = ""  # why this node stops it by itself

    @property
    def state(self) -> int:
        return self.status.state

    @property
    def finished(self) -> bool:
        return self.status.state > types_pb2.TASK_RUNNING

    @property
    def desired(self) -> int:
        wanted = types_pb2.TASK_REMOVE if self.wanted is None else self.wanted.desired_state
        return max(wanted, types_pb2.TASK_SHUTDOWN) if self.cut_off else wanted


@dataclass(frozen=True)
class Outcome:
    """What came of an action. `failure` is a sentence; `permanent` = it can never run here."""

    action: Action
    now_ms: int
    failure: str = ""
    reason: str = ""
    permanent: bool = False
    exit_code: int | None = None
    exited: bool = False
    addresses: tuple[objects_pb2.TaskAddress, ...] = ()
    progress: Progress | None = None  # what is new of its containers
    pending: bool = False  # nothing but that: the step goes on


def next_action(local: Local) -> Action | None:
    """The next step, or None: nothing to do until the wanted task changes."""
    if local.finished:
        if local.container:
            return Action.CLEAN
        return Action.FORGET if local.wanted is None else None
    if local.desired > types_pb2.TASK_RUNNING:
        return Action.STOP
    match local.state:
        case types_pb2.TASK_NEW | types_pb2.TASK_PENDING | types_pb2.TASK_ASSIGNED:
            return Action.ACCEPT
        case types_pb2.TASK_ACCEPTED | types_pb2.TASK_PREPARING:
            return Action.PREPARE
        case types_pb2.TASK_READY:
            return Action.START if local.desired == types_pb2.TASK_RUNNING else None
        case types_pb2.TASK_STARTING:
            return Action.CHECK
        case types_pb2.TASK_RUNNING:
            return Action.WATCH
    raise AssertionError(f"state {local.state} has no step")


def begun(local: Local, action: Action, now_ms: int) -> Local:
    """The record while `action` runs: what may exist from now on is noted before it does."""
    if action is Action.PREPARE:
        return replace(_moved(local, types_pb2.TASK_PREPARING, now_ms, "preparing"), container=True)
    if action is Action.STOP and local.status.ready:
        status = _copy(local.status)
        status.ready = False
        return replace(local, status=status)
    return local


def after(local: Local, outcome: Outcome) -> Local:
    """The record after a step. Never moves a state back."""
    now = outcome.now_ms
    if outcome.progress is not None:
        local = _progressed(local, outcome.progress, now)
    if outcome.pending:
        return local
    match outcome.action:
        case Action.CLEAN:
            return replace(local, container=False)
        case Action.FORGET:
            return local
        case Action.STOP:
            if outcome.failure:  # its processes may still run: nobody may be told that they do not
                return _unstopped(local, outcome)
            if local.cut_off:
                outcome = replace(outcome, reason="CUT_OFF")
            return _ended(local, types_pb2.TASK_SHUTDOWN, outcome, local.cut_off or "stopped")
    if outcome.failure:
        state = types_pb2.TASK_REJECTED if outcome.permanent else types_pb2.TASK_FAILED
        return _ended(local, state, outcome, "")
    match outcome.action:
        case Action.ACCEPT:
            return _moved(local, types_pb2.TASK_ACCEPTED, now, "accepted")
        case Action.PREPARE if local.wanted is not None and local.wanted.spec.pull_only:
            return _ended(local, types_pb2.TASK_COMPLETE, outcome, "the images are here")
        case Action.PREPARE:
            prepared = _moved(local, types_pb2.TASK_READY, now, "ready to start")
            del prepared.status.addresses[:]
            prepared.status.addresses.extend(outcome.addresses)
            return prepared
        case Action.START:
            return _moved(local, types_pb2.TASK_STARTING, now, "starting")
        case Action.CHECK:
            running = _moved(local, types_pb2.TASK_RUNNING, now, "running")
            running.status.started_ms = now
            return _progressed(running, outcome.progress or Progress(), now)
    assert outcome.exited
    state = types_pb2.TASK_COMPLETE if outcome.exit_code == 0 else types_pb2.TASK_FAILED
    return _ended(local, state, outcome, "finished" if outcome.exit_code == 0 else "")


def lost(local: Local, now_ms: int) -> Local:
    """The container that should be there is not: after a reboot, or removed by someone."""
    if local.state < types_pb2.TASK_STARTING or waits_for_main(local.status):
        if local.state > types_pb2.TASK_ACCEPTED:
            # Not started yet: prepare it again; the managers never see a step back. Its init containers run
            # again, too: what they left in volumes of the pod went with it.
            status = _copy(local.status)
            status.state = types_pb2.TASK_PREPARING
            del status.containers[:]
            return replace(local, status=status)
        return local
    outcome = Outcome(
        Action.WATCH, now_ms, failure="the container is gone: the node was restarted or it was removed by hand",
        reason="CONTAINER_LOST",
    )  # fmt: skip
    return _ended(local, types_pb2.TASK_FAILED, outcome, "")


def _unstopped(local: Local, outcome: Outcome) -> Local:
    """A stop that failed is tried again; the record says what is in its way."""
    status = _copy(local.status)
    status.message = f"cannot be stopped, tried again: {outcome.failure}"
    return replace(local, status=status)


def _copy(status: objects_pb2.TaskStatus) -> objects_pb2.TaskStatus:
    copied = objects_pb2.TaskStatus()
    copied.CopyFrom(status)
    return copied


def _progressed(local: Local, progress: Progress, now_ms: int) -> Local:
    """Ready is only a task that runs; when it first was is kept for the updates that wait for it."""
    ready = progress.ready and local.state == types_pb2.TASK_RUNNING
    status = _copy(local.status)
    del status.containers[:]
    status.containers.extend(progress.containers)
    status.ready = ready
    status.ready_ms = status.ready_ms or (now_ms if ready else 0)
    return local if status == local.status else replace(local, status=status)


def _moved(local: Local, state: types_pb2.TaskState, now_ms: int, message: str) -> Local:
    if state <= local.state:
        return local
    status = _copy(local.status)
    status.state = state
    status.since_ms = now_ms
    status.message = message
    _note(status)
    return replace(local, status=status)


def _note(status: objects_pb2.TaskStatus) -> None:
    """Add the state just entered to the history; a state entered again keeps its first time."""
    if all(transition.state < status.state for transition in status.history):
        status.history.add(state=status.state, at_ms=status.since_ms, reason=status.reason)


def _ended(local: Local, state: types_pb2.TaskState, outcome: Outcome, message: str) -> Local:
    status = _copy(local.status)
    status.state = max(state, local.status.state)
    status.since_ms = outcome.now_ms
    status.ready = False
    status.message = message or outcome.failure
    status.error = "" if message else outcome.failure
    status.reason = outcome.reason
    status.exited = outcome.exited
    if outcome.exited:
        status.exit_code = -1 if outcome.exit_code is None else outcome.exit_code
        if state == types_pb2.TASK_FAILED and not status.error:
            status.error = f"exit code {status.exit_code}"
            status.message = status.error
    _note(status)
    return replace(local, status=status)
