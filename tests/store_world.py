"""A store with a log of its own, and planners that are run on it until they come to rest."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

from swarmpy.node.manager.loop import LoopState
from swarmpy.node.plan.base import Planner
from swarmpy.proto import objects_pb2, store_pb2, types_pb2
from swarmpy.raft.store import Commit, Draft, Store, result_of, transaction
from swarmpy.raft.tables import Entity

START_MS = 1_700_000_000_000


class World:
    """Writes go through `apply`, like in a cluster; `settle` runs planners until nothing is left to do."""

    def __init__(self, *planners: Planner) -> None:
        self.store = Store()
        self.index = 0
        self.now_ms = START_MS
        self.plans = 0
        self.wakes: dict[str, int | None] = {}
        self._ids = itertools.count(1)
        self.loops = [(planner, LoopState(planner)) for planner in planners]
        self.store.listeners.append(self._on_commit)
        self.send((), epoch=1, new_epoch=True)

    def _on_commit(self, commit: Commit) -> None:
        for _, state in self.loops:
            state.feed(commit, self.store)

    def send(
        self,
        changes: Iterable[store_pb2.Change],
        *,
        epoch: int | None = None,
        request_id: str = "",
        actor: str = "test",
        new_epoch: bool = False,
    ) -> store_pb2.TransactionResult:
        self.index += 1
        command = transaction(
            changes,
            epoch=self.store.epoch if epoch is None else epoch,
            now_ms=self.now_ms,
            request_id=request_id,
            actor=actor,
            new_epoch=new_epoch,
        )
        return result_of(self.store.apply(self.index, command))

    def put(self, *entities: Entity) -> None:
        draft = Draft(self.store)
        for entity in entities:
            draft.put(entity)
        self.write(draft)

    def delete(self, kind: store_pb2.Kind, identity: str) -> None:
        draft = Draft(self.store)
        draft.delete(kind, identity)
        self.write(draft)

    def write(self, draft: Draft) -> None:
        result = self.send(draft.changes())
        assert not result.error_code, result.error

    def new_id(self) -> str:
        return f"id{next(self._ids):06d}"

    def restart(self) -> None:
        """A new leader: nothing is remembered but the store."""
        self.send((), epoch=self.store.epoch + 1, new_epoch=True)
        self.loops = [(planner, LoopState(planner)) for planner, _ in self.loops]
        for _, state in self.loops:
            state.restart(self.store)

    def settle(self) -> None:
        """Plan and apply until every loop is idle at this time."""
        for _ in range(2000):
            if sum(self._step(planner, state) for planner, state in self.loops) == 0:
                assert not self.store.mutated(), "a planner changed a stored message in place"
                return
        raise AssertionError("the planners never come to rest")

    def _step(self, planner: Planner, state: LoopState) -> bool:
        keys = state.take(self.now_ms)
        if not keys:
            return False
        plan = planner.plan(self.store, keys, self.now_ms, self.new_id)
        self.plans += 1
        state.look_again(keys, plan.wake_ms)
        state.mark(plan.unseen)
        self.wakes[planner.name] = plan.wake_ms
        assert len(plan.changes) <= 200
        if plan.changes:
            result = self.send(plan.changes, actor=planner.name)
            assert not result.error_code, result.error
        return True


def cluster(**spec: object) -> objects_pb2.Cluster:
    return objects_pb2.Cluster(
        meta=types_pb2.Meta(id="c0", name="cluster"),
        spec=objects_pb2.ClusterSpec(**spec),  # type: ignore[arg-type]
    )


def node(identity: str, state: types_pb2.NodeState = types_pb2.NODE_READY) -> objects_pb2.Node:
    return objects_pb2.Node(
        meta=types_pb2.Meta(id=identity, name=identity), status=objects_pb2.NodeStatus(state=state)
    )


def service(
    identity: str,
    *,
    replicas: int = 1,
    networks: Iterable[str] = (),
    ports: Iterable[types_pb2.Port] = (),
    mode: objects_pb2.EndpointMode = objects_pb2.ENDPOINT_VIP,
) -> objects_pb2.Service:
    return objects_pb2.Service(
        meta=types_pb2.Meta(id=identity, name=f"name-{identity}"),
        spec_version=1,
        spec=objects_pb2.ServiceSpec(
            replicated=objects_pb2.Replicated(replicas=replicas),
            endpoint=objects_pb2.EndpointSpec(mode=mode, ports=ports),
            task=types_pb2.TaskSpec(
                container=types_pb2.ContainerSpec(image="busybox"),
                networks=[types_pb2.NetworkReference(target=target) for target in networks],
            ),
        ),
    )


def task(
    identity: str,
    owner: objects_pb2.Service,
    *,
    slot: int = 1,
    node_id: str = "",
    state: types_pb2.TaskState = types_pb2.TASK_NEW,
    desired: types_pb2.TaskState = types_pb2.TASK_RUNNING,
) -> objects_pb2.Task:
    return objects_pb2.Task(
        meta=types_pb2.Meta(id=identity, name=f"{owner.meta.name}.{slot}.{identity}"),
        spec=owner.spec.task,
        service_id=owner.meta.id,
        service_name=owner.meta.name,
        slot=slot,
        node_id=node_id,
        desired_state=desired,
        status=objects_pb2.TaskStatus(state=state),
    )


def network(identity: str, subnet: str = "") -> objects_pb2.Network:
    return objects_pb2.Network(
        meta=types_pb2.Meta(id=identity, name=f"net-{identity}"), spec=objects_pb2.NetworkSpec(subnet=subnet)
    )


def port(target: int, published: int = 0, **more: object) -> types_pb2.Port:
    return types_pb2.Port(target=target, published=published, **more)  # type: ignore[arg-type]
