"""A Control server for the command line's tests: dictionaries behind the real gRPC service.

It stores objects, numbers writes, watches, and plays the rest of the cluster in one function that
gives every service the tasks its image asks for:
    ok…      running at once            bad…     fails again and again
    nofit…   waits for a node           rollback… is rolled back when it comes by an update
    once…    completes                  slow…    stays in preparing
"""

from __future__ import annotations

import itertools
import queue
import threading
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
from swarmpy.proto import control_pb2, control_pb2_grpc, objects_pb2, store_pb2, types_pb2
from swarmpy.raft.tables import KINDS

KIND_NAMES = {kind: info.field for kind, info in KINDS.items()}


class Refusal(Exception):
    def __init__(self, code: grpc.StatusCode, text: str) -> None:
        super().__init__(text)
        self.code, self.text = code, text


class _OneCall:
    """The context of a call that came on a stream: what would end it, ends only it."""

    def abort(self, code: grpc.StatusCode, text: str) -> None:
        raise Refusal(code, text)


class Double(control_pb2_grpc.ControlServicer):  # type: ignore[misc]
    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.objects: dict[str, dict[str, Any]] = {name: {} for name in KIND_NAMES.values()}
        self.index = 0
        self.now_ms = 1_700_000_000_000
        self.ids = (f"{number:025d}" for number in itertools.count(1))
        self.watchers: list[tuple[set[str], queue.Queue[Any]]] = []
        self.past: list[tuple[str, Any]] = []
        self.past_from = 0  # watches resumed before this index are refused
        self.requests: list[Any] = []
        self.answers: dict[str, Any] = {}
        self.refuse: list[tuple[str, Refusal]] = []
        self.lose_answers: list[str] = []
        self.calls: list[str] = []
        self.log_lines: list[control_pb2.LogLine] = []
        self.loaded = b""
        self.chunks: list[control_pb2.ImageChunk] = []
        self.rotated = 0
        self.accepts_anything = False
        self.lost_code = grpc.StatusCode.UNAVAILABLE

    # -- storing ---------------------------------------------------------------------------------
    def put(self, message: Any) -> Any:
        with self.lock:
            kind = message.DESCRIPTOR.name.lower()
            stored = type(message)()
            stored.CopyFrom(message)
            known = stored.meta.id in self.objects[kind]
            self.index += 1
            stored.meta.id = stored.meta.id or next(self.ids)
            stored.meta.version, stored.meta.updated_ms = self.index, self.now_ms
            stored.meta.created_ms = stored.meta.created_ms or self.now_ms
            self.objects[kind][stored.meta.id] = stored
            self._tell(control_pb2.EVENT_UPDATE if known else control_pb2.EVENT_CREATE, stored)
            return stored

    def drop(self, message: Any) -> None:
        with self.lock:
            self.index += 1
            del self.objects[message.DESCRIPTOR.name.lower()][message.meta.id]
            self._tell(control_pb2.EVENT_DELETE, message)

    def _tell(self, action: Any, message: Any) -> None:
        kind = message.DESCRIPTOR.name.lower()
        event = control_pb2.Event(action=action, index=self.index, time_ms=self.now_ms, last_of_index=True)
        getattr(event.object, kind).CopyFrom(message)
        self.past.append((kind, event))
        for kinds, events in self.watchers:
            if not kinds or kind in kinds:
                events.put(event)

    def find(self, kind: str, ref: str) -> Any:
        objects = self.objects[kind].values()
        exact = [o for o in objects if ref in {o.meta.id, o.meta.name}]
        found = exact or [o for o in objects if ref and o.meta.id.startswith(ref)]
        if not found:
            raise Refusal(grpc.StatusCode.NOT_FOUND, f"no {kind} is named {ref!r}")
        return found[0]

    # -- the cluster -----------------------------------------------------------------------------
    def play(self, service: Any) -> None:
        """The tasks that the service's image asks for."""
        image = service.spec.task.container.image
        known = [t for t in self.objects["task"].values() if t.service_id == service.meta.id]
        is_global = service.spec.WhichOneof("mode") == "global"
        nodes = list(self.objects["node"].values())
        count = len(nodes) if is_global else service.spec.replicated.replicas
        for task in known:
            if task.spec_version != service.spec_version or task.slot > count:
                task.desired_state, task.status.state = types_pb2.TASK_SHUTDOWN, types_pb2.TASK_SHUTDOWN
                self.put(task)
        if image.startswith("rollback") and service.spec_version > 1:
            service.spec.CopyFrom(service.previous_specs[0])
            service.spec_version += 1
            service.update_status.state = objects_pb2.UPDATE_ROLLBACK_COMPLETED
            service.update_status.message = "task web.1 failed"
            service = self.put(service)
        fresh = {
            t.slot
            for t in self.objects["task"].values()
            if t.service_id == service.meta.id
            and t.spec_version == service.spec_version
            and t.status.state <= types_pb2.TASK_RUNNING
        }
        for slot in range(1, count + 1):
            if slot not in fresh:
                self.start(service, slot, nodes, is_global)

    def start(self, service: Any, slot: int, nodes: list[Any], is_global: bool) -> None:
        image = service.spec.task.container.image
        tries = 3 if image.startswith("bad") else 1
        for number in range(tries):
            task = objects_pb2.Task(
                service_id=service.meta.id,
                service_name=service.meta.name,
                slot=0 if is_global else slot,
                spec=service.spec.task,
                spec_version=service.spec_version,
                desired_state=types_pb2.TASK_RUNNING,
            )
            task.meta.created_ms = self.now_ms + number
            if nodes and not image.startswith("nofit"):
                task.node_id = nodes[(slot - 1) % len(nodes)].meta.id
            status = task.status
            status.since_ms = self.now_ms
            status.state = types_pb2.TASK_RUNNING
            if image.startswith("bad"):
                status.state, status.exited, status.exit_code = types_pb2.TASK_FAILED, True, 3
                status.error = "the command /nope does not exist in the image"
                task.desired_state = types_pb2.TASK_SHUTDOWN
            elif image.startswith("nofit"):
                status.state = types_pb2.TASK_PENDING
                status.message = "no suitable node: 2 of 2 do not meet constraint node.labels.zone==x"
            elif image.startswith("once"):
                status.state, task.desired_state = types_pb2.TASK_COMPLETE, types_pb2.TASK_SHUTDOWN
            elif image.startswith("slow"):
                status.state = types_pb2.TASK_PREPARING
            self.put(task)

    # -- the service -----------------------------------------------------------------------------
    def _guard(self, method: str, context: Any, action: Any) -> Any:
        with self.lock:
            self.calls.append(method)
            try:
                for position, (name, refusal) in enumerate(self.refuse):
                    if name == method:
                        del self.refuse[position]
                        raise refusal
                answer = action()
            except Refusal as refusal:
                context.abort(refusal.code, refusal.text)
            if method in self.lose_answers:
                self.lose_answers.remove(method)
                context.abort(self.lost_code, "the answer was lost")
            return answer

    def Get(self, request: Any, context: Any) -> Any:
        return self._guard(
            "Get",
            context,
            lambda: control_pb2.GetResponse(
                object=wrapped(self.find(KIND_NAMES[request.kind], request.ref)), index=self.index
            ),
        )

    def List(self, request: Any, context: Any) -> Any:
        return self._guard(
            "List",
            context,
            lambda: control_pb2.ListResponse(
                objects=[wrapped(o) for o in self.objects[KIND_NAMES[request.kind]].values()],
                index=self.index,
            ),
        )

    def Write(self, messages: Any, context: Any) -> Iterator[Any]:
        """Each call of the stream as its unary call."""
        self.calls.append("Write")
        for message in messages:
            for call in message.calls:
                field = call.WhichOneof("write")
                answer = control_pb2.WriteAnswer(number=call.number)
                try:
                    written = getattr(self, field.title())(getattr(call, field), _OneCall())
                except Refusal as refusal:
                    answer.code, answer.details = refusal.code.value[0], refusal.text
                else:
                    answer.response.CopyFrom(written)
                yield control_pb2.WriteAnswers(answers=[answer])

    def _once(self, request: Any, action: Any) -> Any:
        if request.request_id not in self.answers:
            self.answers[request.request_id] = action()
        return self.answers[request.request_id]

    def Create(self, request: Any, context: Any) -> Any:
        def create() -> Any:
            kind = request.object.WhichOneof("kind")
            message = getattr(request.object, kind)
            if kind in {"secret", "config"}:
                message.size_bytes = len(message.data)
            if kind == "stack":
                message.revision = 1 + sum(one.stack == message.stack for one in self.objects[kind].values())
                message.meta.name = f"{message.stack}.{message.revision}"
                message.meta.labels["com.docker.stack.namespace"] = message.stack
            if any(o.meta.name == message.meta.name for o in self.objects[kind].values()):
                raise Refusal(grpc.StatusCode.ALREADY_EXISTS, f"{kind} {message.meta.name} exists already")
            if kind == "service":
                message.spec_version = 1
            stored = self.put(message)
            answer = control_pb2.WriteResponse(object=wrapped(stored), index=self.index)
            if kind == "service":
                self.play(stored)
            return answer

        return self._guard("Create", context, lambda: self._once(request, create))

    def Update(self, request: Any, context: Any) -> Any:
        def update() -> Any:
            kind = request.object.WhichOneof("kind")
            message = getattr(request.object, kind)
            before = self.find(kind, message.meta.id)
            if before.meta.version != message.meta.version:
                raise Refusal(grpc.StatusCode.ABORTED, f"{kind} {message.meta.name} changed meanwhile")
            if kind in {"secret", "config"} and message.data not in (b"", before.data):
                raise Refusal(grpc.StatusCode.ALREADY_EXISTS, f"the content of {kind} never changes")
            if kind == "service" and before.spec.task != message.spec.task:
                message.spec_version = before.spec_version + 1
                message.previous_specs.insert(0, before.spec)
            if kind == "node":
                message.role = message.spec.role
            stored = self.put(message)
            answer = control_pb2.WriteResponse(object=wrapped(stored), index=self.index)
            if kind == "service":
                self.play(stored)
            if kind == "node" and stored.spec.availability == types_pb2.AVAILABILITY_DRAIN:
                for task in [t for t in self.objects["task"].values() if t.node_id == stored.meta.id]:
                    task.desired_state = task.status.state = types_pb2.TASK_SHUTDOWN
                    self.put(task)
            return answer

        return self._guard("Update", context, lambda: self._once(request, update))

    def Plan(self, request: Any, context: Any) -> Any:
        """Which objects differ; nothing of tasks."""

        def plan() -> Any:
            answer = control_pb2.PlanResponse(index=self.index)
            for write in request.writes:
                if write.HasField("create"):
                    made = getattr(write.create.object, write.create.object.WhichOneof("kind"))
                    answer.objects.add(name=made.meta.name, action=control_pb2.EVENT_CREATE)
                elif write.HasField("update"):
                    kind = write.update.object.WhichOneof("kind")
                    new = getattr(write.update.object, kind)
                    entry = answer.objects.add(name=new.meta.name, action=control_pb2.EVENT_UPDATE)
                    if new.spec != self.find(kind, new.meta.id).spec:
                        entry.fields.add(path="spec")
                else:
                    answer.objects.add(name=write.delete.ref, action=control_pb2.EVENT_DELETE)
            return answer

        return self._guard("Plan", context, plan)

    def Rollout(self, request: Any, context: Any) -> Any:
        def act() -> Any:
            service = self.find("service", request.service)
            changed = type(service)()
            changed.CopyFrom(service)
            if request.action == control_pb2.ROLLOUT_ROLLBACK:
                if not service.previous_specs:
                    raise Refusal(
                        grpc.StatusCode.FAILED_PRECONDITION,
                        f"service {service.meta.name} has no earlier specification to go back to",
                    )
                changed.spec.CopyFrom(service.previous_specs[0])
                changed.previous_specs.insert(0, service.spec)
            elif request.action == control_pb2.ROLLOUT_RESTART:
                changed.spec.task.force_update += 1
            changed.spec_version += 1
            stored = self.put(changed)
            answer = control_pb2.WriteResponse(object=wrapped(stored), index=self.index)
            self.play(stored)
            return answer

        return self._guard("Rollout", context, lambda: self._once(request, act))

    def Delete(self, request: Any, context: Any) -> Any:
        def delete() -> Any:
            kind = KIND_NAMES[request.kind]
            found = self.find(kind, request.ref)
            if kind == "node" and not request.force and found.status.state != types_pb2.NODE_DOWN:
                raise Refusal(
                    grpc.StatusCode.FAILED_PRECONDITION, f"node {found.meta.name} is not down: use --force"
                )
            down = {n.meta.id for n in self.objects["node"].values() if n.status.state == types_pb2.NODE_DOWN}
            tasks = [
                t
                for t in self.objects["task"].values()
                if kind == "service" and t.service_id == found.meta.id
            ]
            for task in tasks:
                if task.node_id not in down:
                    self.drop(task)
            if any(task.node_id in down for task in tasks):
                found.pending_delete = True
                self.put(found)
            else:
                self.drop(found)
            return control_pb2.WriteResponse(object=wrapped(found), index=self.index)

        return self._guard("Delete", context, lambda: self._once(request, delete))

    def Watch(self, request: Any, context: Any) -> Iterator[Any]:
        kinds = {KIND_NAMES[kind] for kind in request.kinds}
        events: queue.Queue[Any] = queue.Queue()
        with self.lock:
            first = [
                o for name in self.objects if not kinds or name in kinds for o in self.objects[name].values()
            ]
            index = self.index
            copies = [wrapped(o) for o in first]
            missed = [
                e
                for kind, e in self.past
                if e.index > request.after_index > 0 and (not kinds or kind in kinds)
            ]
            self.requests.append(request)
            if 0 < request.after_index < self.past_from:
                context.abort(grpc.StatusCode.OUT_OF_RANGE, "no longer known: list again")
            self.watchers.append((kinds, events))
        context.add_callback(lambda: events.put(None))
        if request.initial_list:
            for item in copies:
                yield control_pb2.Event(action=control_pb2.EVENT_CREATE, object=item, index=index)
        yield from missed
        yield control_pb2.Event(action=control_pb2.EVENT_SYNC, index=index)
        while (event := events.get()) is not None:
            if isinstance(event, Refusal):
                context.abort(event.code, event.text)
            yield event

    def break_watches(self, code: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE) -> None:
        with self.lock:
            for _, events in self.watchers:
                events.put(Refusal(code, "the watch ended"))
            self.watchers.clear()

    def Status(self, request: Any, context: Any) -> Any:
        def status() -> Any:
            nodes = sorted(self.objects["node"].values(), key=lambda n: n.meta.name)
            managers = [n for n in nodes if n.role == types_pb2.ROLE_MANAGER]
            members = [
                control_pb2.MemberStatus(
                    node_id=n.meta.id,
                    hostname=n.meta.name,
                    address=f"{n.description.address}:7379",
                    leader=i == 0,
                    reachable=i < 2,
                    match_index=40 - i,
                )
                for i, n in enumerate(managers)
            ]
            first = managers[0].meta.id if managers else ""
            return control_pb2.StatusResponse(
                cluster_id="c" * 25,
                node_id=first,
                leader_id=first,
                term=3,
                commit_index=40,
                applied_index=40,
                epoch=2,
                members=members,
                version="0.1.0",
                has_quorum=True,
                nodes=len(nodes),
                nodes_ready=len(nodes),
                nodes_connected=len(nodes),
                services=len(self.objects["service"]),
                tasks_running=0,
                raft_profile="lan",
                heartbeat_ms=100,
                election_min_ms=500,
                election_max_ms=1000,
            )

        return self._guard("Status", context, status)

    def Token(self, request: Any, context: Any) -> Any:
        def token() -> Any:
            self.rotated += request.rotate
            role = "manager" if request.role == types_pb2.ROLE_MANAGER else "worker"
            answer = control_pb2.TokenResponse(
                token=f"SWMPY-1-{role}-{self.rotated}", join_addresses=["10.0.0.1:7376"]
            )
            if request.ttl_ms:
                made = objects_pb2.Token(
                    role=request.role, uses_max=request.uses, labels=request.labels,
                    expires_ms=self.now_ms + request.ttl_ms,
                )  # fmt: skip
                answer.made.CopyFrom(self.put(made))
            return answer

        return self._guard("Token", context, token)

    def Logs(self, request: Any, context: Any) -> Iterator[Any]:
        self.calls.append(f"Logs targets={','.join(request.targets)} tail={request.tail}")
        for target in request.targets:
            known = [o.meta for kind in ("service", "task") for o in self.objects[kind].values()]
            if not any(target in {meta.id, meta.name} for meta in known):
                context.abort(grpc.StatusCode.NOT_FOUND, f"there is no service or task {target!r}")
        yield from self.log_lines

    def LoadImage(self, request_iterator: Any, context: Any) -> Iterator[Any]:
        self.chunks = list(request_iterator)
        self.loaded = b"".join(chunk.data for chunk in self.chunks)
        if not (self.accepts_anything or self.loaded.startswith(b"good")):
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the archive is damaged: no manifest.json in it")
        yield control_pb2.ImageProgress(
            status="unpacking", blob="sha256:" + "a" * 64, done_bytes=1, total_bytes=4
        )
        image = objects_pb2.Image(digest="sha256:" + "b" * 64, size_bytes=4_200_000)
        image.meta.name = self.chunks[0].reference or "docker.io/library/web:1"
        yield control_pb2.ImageProgress(status="done", images=[self.put(image)])

    def PullImage(self, request: Any, context: Any) -> Iterator[Any]:
        if "nowhere" in request.reference:
            context.abort(grpc.StatusCode.NOT_FOUND, f"the registry has no image {request.reference}")
        image = objects_pb2.Image(digest="sha256:" + "d" * 64, size_bytes=1000)
        image.meta.name = f"docker.io/library/{request.reference}"
        yield control_pb2.ImageProgress(status="done", images=[self.put(image)])


def wrapped(message: Any) -> store_pb2.Object:
    result = store_pb2.Object()
    getattr(result, message.DESCRIPTOR.name.lower()).CopyFrom(message)
    return result


class Server:
    """The double on a unix socket; stop and start keep its contents."""

    def __init__(self, path: Path, double: Double) -> None:
        self.path, self.double = path, double
        self.server: grpc.Server | None = None

    def start(self) -> None:
        self.server = grpc.server(futures.ThreadPoolExecutor(16))
        control_pb2_grpc.add_ControlServicer_to_server(self.double, self.server)
        assert self.server.add_insecure_port(f"unix://{self.path}")
        self.server.start()

    def stop(self) -> None:
        if self.server is not None:
            self.double.break_watches()
            self.server.stop(0).wait(5)
            self.server = None


def add_node(double: Double, name: str, *, manager: bool = False, address: str = "10.0.0.9") -> Any:
    node = objects_pb2.Node()
    node.meta.name = name
    node.role = node.spec.role = types_pb2.ROLE_MANAGER if manager else types_pb2.ROLE_WORKER
    node.description.hostname, node.description.version, node.description.address = name, "0.1.0", address
    node.status.state = types_pb2.NODE_READY
    return double.put(node)
