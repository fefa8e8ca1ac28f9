"""The connection to the managers: which one to ask, when to ask again, what an error means.

Every call tries the hosts in turn and, while none can answer (a leader is being elected, a manager
restarts), tries again until the time limit. A write carries one request id through all its tries, so
it happens at most once; when none of the tries got a certain answer, OutcomeUnknown says so. With
`stale`, reads take the copy of the manager that is asked, and wait there for this client's own writes.
Imported only by commands that run, because it loads grpc and protobuf.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import click

os.environ.setdefault("GRPC_VERBOSITY", "NONE")
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
import grpc
from swarmpy.cli import errors
from swarmpy.cli.plan import end
from swarmpy.proto import (
    control_pb2,
    control_pb2_grpc,
    diagnosis_pb2_grpc,
    networks_pb2_grpc,
    store_pb2,
    tasks_pb2_grpc,
)

ATTEMPT_S = 10.0
WRITE_ATTEMPT_S = 30.0  # a create may wait for an image's registry
STREAM_S = 3600.0
MISSING_SOCKET_S = 5.0
NOTICE_AFTER_S = 2.0
PAUSE_S, PAUSE_MAX_S = 0.1, 1.0
CHANNEL_OPTIONS = [
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 3000),  # for one attempt to connect, handshake included
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.enable_retries", 0),
    ("grpc.enable_http_proxy", 0),
    ("grpc.max_receive_message_length", 64 * 1024 * 1024),
    ("grpc.keepalive_time_ms", 5000),
    ("grpc.keepalive_timeout_ms", 5000),
    ("grpc.http2.ping_timeout_ms", 5000),
    ("grpc.http2.max_pings_without_data", 0),
]
RETRY_CODES = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED}
ERRORS: dict[grpc.StatusCode, type[errors.CliError]] = {
    grpc.StatusCode.NOT_FOUND: errors.NotFound,
    grpc.StatusCode.ALREADY_EXISTS: errors.Conflict,
    grpc.StatusCode.ABORTED: errors.Changed,
    grpc.StatusCode.PERMISSION_DENIED: errors.Forbidden,
    grpc.StatusCode.UNAUTHENTICATED: errors.Forbidden,
    grpc.StatusCode.UNAVAILABLE: errors.Disconnected,
    grpc.StatusCode.CANCELLED: errors.Disconnected,
    grpc.StatusCode.DEADLINE_EXCEEDED: errors.NoManager,
}
WRITES = {"Create", "Update", "Delete", "Rollout", "Rebalance", "RotateRoot"}
REFUSED_KEY = "swarmpy-refused"  # a manager said no; without it the network or a dying process ended the call
KINDS = {
    "cluster": store_pb2.KIND_CLUSTER,
    "node": store_pb2.KIND_NODE,
    "service": store_pb2.KIND_SERVICE,
    "task": store_pb2.KIND_TASK,
    "network": store_pb2.KIND_NETWORK,
    "image": store_pb2.KIND_IMAGE,
    "schedule": store_pb2.KIND_SCHEDULE,
    "autoscaler": store_pb2.KIND_AUTOSCALER,
    "volume": store_pb2.KIND_VOLUME,
    "policy": store_pb2.KIND_POLICY,
    "credential": store_pb2.KIND_CREDENTIAL,
    "secret": store_pb2.KIND_SECRET,
    "config": store_pb2.KIND_CONFIG,
    "token": store_pb2.KIND_TOKEN,
    "stack": store_pb2.KIND_STACK,
}


class Client:
    """Talks to one manager at a time; `timeout_s` limits how long a call looks for one."""

    def __init__(
        self,
        hosts: list[str],
        timeout_s: float,
        *,
        stale: bool = False,
        planning: bool = False,
        check_index: int = 0,
    ) -> None:
        self.hosts = hosts
        self.timeout_s = timeout_s
        self.stale = stale
        self.planning, self.check_index = planning, check_index  # --plan, --check-index
        self.missing_socket_s = MISSING_SOCKET_S  # a manager of this machine that restarts has none
        self.at = (0, 0)  # index or ms since 1970: reads show the cluster as it was
        self.index = 0  # the highest this client wrote, or was shown of a copy: later reads show it too
        self._position = 0
        self._channel: grpc.Channel | None = None
        self._noticed = self._told_age = False

    def close(self) -> None:
        """Ends the connection."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    def fork(self) -> Client:
        """A second connection, for a thread of its own, starting at the same manager."""
        other = Client(self.hosts, self.timeout_s, stale=self.stale)
        other._position, other.index = self._position, self.index
        return other

    def only_now(self, what: str) -> None:
        """Refuses what can only be done in the present."""
        if any(self.at):
            raise errors.UsageRefused(f"--at is for reading: leave it out to {what}.")

    def stub(self) -> Any:
        """The service at the current host."""
        if self._channel is None:
            self._channel = grpc.insecure_channel(self.hosts[self._position], options=CHANNEL_OPTIONS)
        return control_pb2_grpc.ControlStub(self._channel)

    def tasks_call(self, method: str, request: Any, timeout_s: float | None = None) -> Any:
        """A call to Tasks, at a manager that accepts connections; what it gives is for `answers`."""
        self.only_now("reach running tasks")
        self.reach()
        return getattr(tasks_pb2_grpc.TasksStub(self._channel), method)(request, timeout=timeout_s)

    def tasks_stream(self, method: str, request: Any, timeout_s: float | None = None) -> Iterator[Any]:
        """All answers of such a call."""
        return self.answers(self.tasks_call(method, request, timeout_s))

    def tasks_unary(self, method: str, request: Any, timeout_s: float | None = None) -> Any:
        """The one answer of such a call."""
        try:
            return self.tasks_call(method, request, timeout_s)
        except grpc.RpcError as error:
            raise meaning(error) from None

    def service_call(self, stub: Any, method: str, request: Any, timeout_s: float | None = None) -> Any:
        """A call to another service, at a manager that accepts connections; a stream is for `answers`."""
        self.reach()
        return getattr(stub(self._channel), method)(request, timeout=timeout_s)

    def service_unary(self, stub: Any, method: str, request: Any, timeout_s: float | None = None) -> Any:
        """The one answer of such a call."""
        try:
            return self.service_call(stub, method, request, timeout_s)
        except grpc.RpcError as error:
            raise meaning(error) from None

    def networks_stream(self, method: str, request: Any, timeout_s: float) -> Iterator[Any]:
        """All answers of a call to Networks."""
        self.reach()
        stub = networks_pb2_grpc.NetworksStub(self._channel)
        yield from self.answers(getattr(stub, method)(request, timeout=timeout_s))

    def networks_unary(self, method: str, request: Any, timeout_s: float) -> Any:
        """The one answer of such a call."""
        self.reach()
        try:
            return getattr(networks_pb2_grpc.NetworksStub(self._channel), method)(request, timeout=timeout_s)
        except grpc.RpcError as error:
            raise meaning(error) from None

    def diagnosis_call(self, method: str, request: Any, timeout_s: float | None = None) -> Any:
        """A call to Diagnosis, at a manager that accepts connections; a stream is for `answers`."""
        self.reach()
        return getattr(diagnosis_pb2_grpc.DiagnosisStub(self._channel), method)(request, timeout=timeout_s)

    def diagnosis_unary(self, method: str, request: Any, timeout_s: float | None = None) -> Any:
        """The one answer of such a call."""
        try:
            return self.diagnosis_call(method, request, timeout_s)
        except grpc.RpcError as error:
            raise meaning(error) from None

    @staticmethod
    def answers(call: Any) -> Iterator[Any]:
        """The answers of a call, with its error as one of ours."""
        try:
            yield from call
        except grpc.RpcError as error:
            raise meaning(error) from None
        finally:
            call.cancel()

    def reach(self) -> None:
        """Connect to the first manager that can be connected to."""
        started = time.monotonic()
        while True:
            states = [probe(host) for host in self.hosts[self._position :] + self.hosts[: self._position]]
            if 0 in states:
                for _ in range(states.index(0)):
                    self.next_host()
                self.stub()
                return
            self._before_next_round(time.monotonic() - started, "it does not accept connections")
            time.sleep(PAUSE_MAX_S / 4)

    def next_host(self) -> None:
        """Drops the connection; the next call goes to the next host."""
        self.close()
        self._position = (self._position + 1) % len(self.hosts)

    def call(self, method: str, request: Any) -> Any:
        """One answer, from whichever manager can give it."""
        started = time.monotonic()
        pause = PAUSE_S
        attempt_s = WRITE_ATTEMPT_S if method in WRITES or method == "Plan" else ATTEMPT_S
        uncertain = False
        while True:
            for _ in self.hosts:
                left = max(0.5, self.timeout_s - (time.monotonic() - started))
                try:
                    return getattr(self.stub(), method)(request, timeout=min(left, attempt_s))
                except grpc.RpcError as error:
                    if not may_repeat(method, error):
                        raise meaning(error) from None
                    last = error
                    uncertain = uncertain or (method in WRITES and is_uncertain(error))
                    self.next_host()
            try:
                self._before_next_round(time.monotonic() - started, last.details() or "no reason given")
            except errors.NoManager as gave_up:
                if not uncertain:
                    raise
                raise errors.OutcomeUnknown(
                    f"It is not known whether the change was made: {last.details()}. "
                    "Look before you repeat the command."
                ) from gave_up
            time.sleep(pause)
            pause = min(2 * pause, PAUSE_MAX_S)

    def _before_next_round(self, waited_s: float, said: str) -> None:
        """Raises when another round is pointless or too late."""
        states = [probe(host) for host in self.hosts]
        first = self.hosts[0].removeprefix("unix://")
        if all(state in {errno.EACCES, errno.EPERM} for state in states):
            raise errors.Forbidden(f"{first} is for root only: run the command with sudo.")
        if all(state == errno.ENOENT for state in states):
            said = "its socket is not there yet"
            expected = any(map(is_of_a_manager, self.hosts))
            if not expected or waited_s >= min(self.missing_socket_s, self.timeout_s):
                raise errors.NoManager(
                    f"No manager runs here: {first} does not exist. Make a cluster with `swarmpy init`, "
                    "or name a manager with --host or --context (a worker has none)."
                )
        if waited_s >= self.timeout_s:
            asked = ", ".join(self.hosts)
            raise errors.NoManager(
                f"No manager could answer within {self.timeout_s:g}s: {said} (asked: {asked}). "
                "Check that a majority of the managers runs."
            )
        if waited_s >= NOTICE_AFTER_S and not self._noticed:
            self._noticed = True
            click.echo(f"Waiting up to {self.timeout_s:g}s for a manager: {said}", err=True)

    def stream(self, method: str, request: Any, timeout_s: float | None = STREAM_S) -> Iterator[Any]:
        """One stream from the current manager; Disconnected when it breaks off."""
        self.only_now("follow what happens")
        try:
            yield from getattr(self.stub(), method)(request, timeout=timeout_s)
        except grpc.RpcError as error:
            raise meaning(error) from None

    def read(self, method: str, request: Any) -> Any:
        """One answer to Get, List or Status, as fresh as this client wants it."""
        if any(self.at):
            if method not in {"Get", "List"}:
                return self.call(method, request)
            request.at_index, request.at_ms = self.at
        if self.stale:
            request.stale, request.min_index = True, self.index
        answer = self.call(method, request)
        if answer.HasField("staleness"):
            self.index = max(self.index, answer.staleness.index)
            self._tell_age(answer.staleness)
        return answer

    def _tell_age(self, staleness: control_pb2.Staleness) -> None:
        if not self._told_age:
            self._told_age = True
            click.echo(age_of(staleness), err=True)

    def get(self, kind: str, ref: str) -> Any:
        """The object of that id, name or unique id prefix."""
        response = self.read("Get", control_pb2.GetRequest(kind=KINDS[kind], ref=ref))
        return inner(response.object)

    def find(self, kind: str, **filters: str) -> list[Any]:
        """All objects of a kind that pass the filters."""
        wanted = [
            control_pb2.Filter(key=key.replace("_", "-"), value=value) for key, value in filters.items()
        ]
        response = self.read("List", control_pb2.ListRequest(kind=KINDS[kind], filters=wanted))
        return [inner(item) for item in response.objects]

    def create(self, message: Any) -> control_pb2.WriteResponse:
        """Stores a new object."""
        request = control_pb2.CreateRequest(object=wrap(message), request_id=new_request_id())
        return self.write("Create", request)

    def update(self, message: Any, *, pinned: bool = False) -> control_pb2.WriteResponse:
        """Stores a changed object; Changed if someone else wrote it since it was read."""
        request = control_pb2.UpdateRequest(object=wrap(message), request_id=new_request_id(), pinned=pinned)
        return self.write("Update", request)

    def delete(self, kind: str, ref: str, *, force: bool = False) -> control_pb2.WriteResponse:
        """Removes an object."""
        request = control_pb2.DeleteRequest(
            kind=KINDS[kind], ref=ref, force=force, request_id=new_request_id()
        )
        return self.write("Delete", request)

    def rollout(self, request: control_pb2.RolloutRequest) -> control_pb2.WriteResponse:
        """Rolls back, promotes, aborts, pauses, resumes or restarts a service."""
        request.request_id = new_request_id()
        return self.write("Rollout", request)

    def change(
        self, kind: str, ref: str, edit: Callable[[Any], None], tries: int = 8, *, pinned: bool = False
    ) -> tuple[Any, Any]:
        """Reads, edits and writes, again when someone else wrote in between; (before, answer)."""
        self.only_now("change anything")
        for attempt in range(tries):
            # Never from a copy: the change would be made from what is long gone.
            before = inner(self.call("Get", control_pb2.GetRequest(kind=KINDS[kind], ref=ref)).object)
            after = type(before)()
            after.CopyFrom(before)
            edit(after)
            try:
                return before, self.update(after, pinned=pinned)
            except errors.Changed:
                if attempt == tries - 1 or self.check_index:
                    raise
                time.sleep(0.05 * (attempt + 1))
        raise AssertionError("unreachable")

    def status(self) -> control_pb2.StatusResponse:
        """The state of the cluster and its managers."""
        answer = self.read("Status", control_pb2.StatusRequest())
        assert isinstance(answer, control_pb2.StatusResponse)
        return answer

    def transfer_lead(self, to: str) -> str:
        """Hands the lead to a manager, "" = the most up-to-date one; says to whom it went."""
        answer = self.call("TransferLead", control_pb2.TransferRequest(to=to))
        assert isinstance(answer, control_pb2.TransferResponse)
        return answer.leader_id

    def token(self, request: control_pb2.TokenRequest) -> control_pb2.TokenResponse:
        """The join token of a role, or a temporary one."""
        answer = self.call("Token", request)
        assert isinstance(answer, control_pb2.TokenResponse)
        return answer

    def load_image(self, chunks: Iterable[control_pb2.ImageChunk]) -> Iterator[control_pb2.ImageProgress]:
        """Sends an archive; not repeated when it breaks off."""
        self.status()
        yield from self.stream("LoadImage", iter(chunks))

    def pull_image(self, reference: str) -> Iterator[control_pb2.ImageProgress]:
        """Lets the cluster fetch an image from its registry."""
        self.status()
        yield from self.stream("PullImage", control_pb2.PullRequest(reference=reference))

    def write(self, method: str, request: Any) -> control_pb2.WriteResponse:
        """One write, at whichever manager can make it; `request` has its id."""
        self.only_now("change anything")
        if self.planning:
            write = control_pb2.PlannedWrite(**{method.lower(): request})
            raise end(self.call("Plan", control_pb2.PlanRequest(writes=[write])))
        request.check_index = self.check_index
        return self.accept(self.call(method, request))

    def accept(self, answer: Any) -> control_pb2.WriteResponse:
        """Note the answer to a write."""
        assert isinstance(answer, control_pb2.WriteResponse)
        self.index = max(self.index, answer.index)
        for warning in answer.warnings:
            click.echo(f"Warning: {warning}", err=True)
        return answer


def inner(item: store_pb2.Object) -> Any:
    """The message inside an Object."""
    kind = item.WhichOneof("kind")
    return getattr(item, kind) if kind else None


def wrap(message: Any) -> store_pb2.Object:
    """The Object around a message."""
    return store_pb2.Object(**{message.DESCRIPTOR.name.lower(): message})


def new_request_id() -> str:
    """Makes a write recognisable when it is sent again."""
    return uuid.uuid4().hex


def meaning(error: grpc.RpcError) -> errors.CliError:
    """What an error of the server means to the user."""
    return meaning_of(error.code(), error.details() or "no reason given")


def meaning_of(code: grpc.StatusCode, text: str) -> errors.CliError:
    """The same, by its parts."""
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return errors.CliError(f"The manager does not know this call ({text}): it runs another version.")
    if code in {grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL, grpc.StatusCode.DATA_LOSS}:
        return errors.CliError(f"The manager failed while answering: {text}. Its log says more.")
    return ERRORS.get(code, errors.CliError)(text[:1].upper() + text[1:])


def may_repeat(method: str, error: grpc.RpcError) -> bool:
    """Whether asking again can help; a write of unknown outcome is safe to send again."""
    crashed = (error.details() or "").startswith("Unexpected ")
    unknown = error.code() is grpc.StatusCode.UNKNOWN and method in WRITES and not crashed
    return unknown or error.code() in RETRY_CODES


def is_uncertain(error: grpc.RpcError) -> bool:
    """Whether the call may have had its effect although it failed."""
    trailing: Any = error.trailing_metadata()
    refused = any(key == REFUSED_KEY for key, _ in trailing or ())
    sent = not (error.details() or "").startswith("failed to connect")
    return error.code() is grpc.StatusCode.UNKNOWN or (sent and not refused)


def age_of(staleness: control_pb2.Staleness) -> str:
    """The sentence that goes with an answer from one manager's copy."""
    return (
        f"Stale: this is the copy of manager {staleness.node_id} (index {staleness.index}), which last heard "
        f"from the others {staleness.age_ms / 1000:.1f}s ago."
    )


def is_of_a_manager(host: str) -> bool:
    """Whether the socket's node is a manager, running or not; a worker never makes the socket."""
    try:
        text = (Path(host.removeprefix("unix://")).parent.parent / "node.json").read_text()
        return bool(json.loads(text).get("role") == "manager")
    except (OSError, ValueError):
        return False


def probe(host: str) -> int:
    """What connecting to the host's socket gives: 0 or an errno."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(1)
        try:
            return connection.connect_ex(host.removeprefix("unix://"))
        except TimeoutError:
            return errno.ETIMEDOUT
