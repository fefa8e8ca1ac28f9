"""Create, update and delete of objects on behalf of users: checked against the store, then
one transaction each. Runs on the leader only.

Users write specs, names and labels. Everything the system observes is taken from the stored
object, whatever the request holds.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Sequence
from typing import cast

from swarmpy.node.manager import (
    attachments,
    autoscalers,
    contention,
    credentials,
    levels,
    payloads,
    policies,
    queries,
    schedules,
    stacks,
    volume_writes,
)
from swarmpy.node.manager.errors import Forbidden, Invalid, NotFound, Refused, Taken
from swarmpy.node.manager.image_keep import digests_of_service
from swarmpy.node.manager.images import Images
from swarmpy.node.manager.keys import new_unlock_key
from swarmpy.node.manager.leader import Leader
from swarmpy.node.plan import pods, revisions, sealing, validate
from swarmpy.proto import control_pb2, objects_pb2, store_pb2, types_pb2
from swarmpy.raft.levels import BUILDS, PARTITIONS, PULLS, ROOM, STACKS
from swarmpy.raft.store import Store, View
from swarmpy.raft.tables import KINDS, Entity, kind_of, wrap

log = logging.getLogger(__name__)
SYSTEM_NETWORK = "swarmpy"


class Writer:
    """Users' writes."""

    def __init__(self, leader: Leader, images: Images, new_id: Callable[[], str]) -> None:
        self._leader = leader
        self._store = leader.store
        self._images = images
        self.new_id = new_id

    def over(self, view: View) -> Writer:
        """The checks of this one, of what the view shows: of several writes the later see the earlier."""
        other = copy.copy(self)
        other._store = cast(Store, view)  # what the checks read of it is a View's
        return other

    async def create(
        self, obj: Entity, actor: str, request_id: str, *, by_manager: bool, check_index: int = 0
    ) -> tuple[Entity, int]:
        """The stored object and its index."""
        if (first := self._store.answer_of(request_id)) is not None:
            return self._again(request_id, first, obj, kind_of(obj))

        async def write() -> tuple[Entity, int]:
            new = await self.created(obj, by_manager=by_manager)
            self.check_index(check_index)
            if new.meta.version and kind_of(new) == store_pb2.KIND_VOLUME:
                return new, self._store.index  # the same is there already
            moved = new.meta.version if isinstance(new, objects_pb2.Image) else 0  # a tag that exists already
            also = stacks.surplus(self._store, new) if isinstance(new, objects_pb2.Stack) else []
            return await self._put(new, moved, actor, request_id, also)

        stored = await contention.settled(write, check_index)
        await self._images.remember(stored[0])
        return stored

    async def created(self, obj: Entity, *, by_manager: bool = False) -> Entity:
        """The checked object that a create would store."""
        match obj:
            case objects_pb2.Service():
                return await self._new_service(obj)
            case objects_pb2.Network():
                return self._new_network(obj)
            case objects_pb2.Volume():
                return volume_writes.created(self._store, obj, self.new_id)
            case objects_pb2.Policy():
                return policies.new_policy(self._store, obj, self.new_id())
            case objects_pb2.Schedule():
                schedule = schedules.created(self._store, obj, self.new_id, self._leader.now_ms())
                return await self._pinned_schedule(schedule)
            case objects_pb2.Image():
                return self._images.tagged(obj)
            case objects_pb2.Credential():
                return credentials.created(self._store, obj, self.new_id())
            case objects_pb2.Secret() | objects_pb2.Config():
                return payloads.created(self._store, obj, self.new_id())
            case objects_pb2.Stack():
                return stacks.created(self._store, obj, self.new_id())
            case objects_pb2.Autoscaler():
                return autoscalers.checked(self._store, obj, None, self.new_id)
            case objects_pb2.Node() if by_manager:
                return obj
            case _:
                raise Forbidden(f"a {type(obj).__name__.lower()} cannot be created by users")

    async def update(
        self, obj: Entity, actor: str, request_id: str, check_index: int = 0, *, pinned: bool = False
    ) -> tuple[Entity, int]:
        if (first := self._store.answer_of(request_id)) is not None:
            return self._again(request_id, first, obj, kind_of(obj), obj.meta.id)
        new = await self.updated(obj, pinned=pinned)
        self.check_index(check_index, obj)
        old = self._store.get(kind_of(new), new.meta.id)
        if isinstance(new, payloads.KINDS_OF_MESSAGE) and new == old:
            return new, self._store.index  # asked whether the content is the same: nothing is written
        stored = await self._put(new, obj.meta.version, actor, request_id)
        if getattr(old, "spec", None) != getattr(stored[0], "spec", None):
            await self._images.remember(stored[0])
        return stored

    async def updated(self, obj: Entity, *, pinned: bool = False) -> Entity:
        """The checked object that an update would store; `pinned` as in UpdateRequest."""
        match obj:
            case objects_pb2.Service():
                new: Entity = await self._changed_service(obj, pinned=pinned)
            case objects_pb2.Stack():
                new = stacks.changed(self._store, obj)
            case objects_pb2.Node():
                new = self._changed_node(obj)
            case objects_pb2.Volume():
                new = volume_writes.changed(self._store, obj)
            case objects_pb2.Credential():
                new = credentials.changed(self._store, obj)
            case objects_pb2.Secret() | objects_pb2.Config():
                new = payloads.changed(self._store, obj)
            case objects_pb2.Network():
                new = policies.changed_network(self._store, obj)
            case objects_pb2.Autoscaler():
                stored = self._store.autoscaler(obj.meta.id)
                new = autoscalers.checked(self._store, obj, stored, self.new_id)
            case objects_pb2.Cluster():
                new = self._changed_cluster(obj)
            case objects_pb2.Schedule():
                changed = schedules.changed(self._store, obj, self._leader.now_ms())
                new = await self._pinned_schedule(changed)
            case _:
                raise Forbidden(f"a {type(obj).__name__.lower()} cannot be updated by users")
        if not obj.meta.version:
            raise Invalid("meta.version: say which version of the object this update was made from")
        return new

    async def delete(
        self,
        kind: store_pb2.Kind,
        ref: str,
        force: bool,
        actor: str,
        request_id: str,
        check_index: int = 0,
    ) -> tuple[Entity, int]:
        """Begin or make the removal; returns the object as it was and the index."""
        if (first := self._store.answer_of(request_id)) is not None:
            return self._again(request_id, first, None, kind)

        async def write() -> tuple[Entity, int]:
            obj, change = self.deleted(kind, ref, force)
            self.check_index(check_index, obj)
            return obj, (await self._leader.commit([change], actor, request_id)).index

        obj, index = await contention.settled(write, check_index)
        if isinstance(obj, objects_pb2.Image):
            await self._images.prune()
        return obj, index

    def deleted(self, kind: store_pb2.Kind, ref: str, force: bool) -> tuple[Entity, store_pb2.Change]:
        """The object as it is, and the checked change that begins or makes its removal."""
        obj = self.find(kind, ref)
        match obj:
            case objects_pb2.Service():
                service = objects_pb2.Service(pending_delete=True)
                service.MergeFrom(obj)
                marked: Entity = service
            case objects_pb2.Network():
                self._check_network_unused(obj)
                network = objects_pb2.Network(pending_delete=True)
                network.MergeFrom(obj)
                marked = network
            case objects_pb2.Volume():
                marked = volume_writes.removable(self._store, obj)
            case (
                objects_pb2.Policy()
                | objects_pb2.Credential()
                | objects_pb2.Autoscaler()
                | objects_pb2.Schedule()
                | objects_pb2.Token()
                | objects_pb2.Stack()
            ):
                key = store_pb2.ObjectKey(kind=kind_of(obj), id=obj.meta.id)
                return obj, store_pb2.Change(delete=key, expected_version=obj.meta.version)
            case objects_pb2.Secret() | objects_pb2.Config():
                return obj, payloads.removal(self._store, obj)
            case objects_pb2.Task():
                marked = schedules.stopped_task(obj, force, self._leader.now_ms())
            case objects_pb2.Node():
                marked = self._removed_node(obj, force)
            case objects_pb2.Image():
                return obj, self._image_removal(obj, force)
            case _:
                raise Forbidden(f"a {type(obj).__name__.lower()} cannot be removed by users")
        return obj, store_pb2.Change(put=wrap(marked), expected_version=obj.meta.version)

    async def rollout(self, request: control_pb2.RolloutRequest, actor: str) -> tuple[Entity, int]:
        """Roll back, promote, abort, pause, resume or restart; the stored service and its index."""
        if (first := self._store.answer_of(request.request_id)) is not None:
            return self._again(request.request_id, first, None, store_pb2.KIND_SERVICE)

        async def write() -> tuple[Entity, int]:
            new = self.rolled_out(request, actor)
            self.check_index(request.check_index, new)
            return await self._put(new, new.meta.version, actor, request.request_id)

        return await contention.settled(write, request.check_index)

    def rolled_out(self, request: control_pb2.RolloutRequest, actor: str) -> objects_pb2.Service:
        """The checked service that a rollout action would store."""
        service = self.find(store_pb2.KIND_SERVICE, request.service)
        assert isinstance(service, objects_pb2.Service)
        if service.pending_delete:
            raise NotFound(f"there is no service {request.service!r}")
        try:
            acted = revisions.acted(self._store, service, request, self._leader.now_ms(), actor)
        except revisions.NotNow as error:
            raise Refused(str(error)) from error
        payloads.check_present(self._store, acted)
        return acted

    def check_index(self, check_index: int, obj: Entity | None = None) -> None:
        """As `contention.check_index`."""
        contention.check_index(self._store, check_index, obj)

    def find(self, kind: store_pb2.Kind, ref: str) -> Entity:
        return queries.find(self._store, kind, ref)

    def _again(
        self,
        request_id: str,
        first: store_pb2.TransactionResult,
        asked: Entity | None,
        kind: store_pb2.Kind,
        identity: str = "",
    ) -> tuple[Entity, int]:
        """The first answer to a request that was carried out before: a retry is no second change.

        Looked up before anything is checked, because the checks would meet the request's own effect.
        """
        key = next(iter(first.touched), store_pb2.ObjectKey())
        if key.kind != kind or (identity and identity != key.id):
            raise Invalid(f"request_id: {request_id!r} belongs to another write: give each its own")
        log.info("write repeated request=%s index=%d", request_id, first.index)
        stored = self._store.get(key.kind, key.id)
        if stored is None:
            stored = KINDS[kind].message()
            if asked is not None:
                stored.CopyFrom(asked)  # type: ignore[arg-type]
            stored.meta.id = key.id
        return stored, first.index

    async def _put(
        self, new: Entity, expected: int, actor: str, request_id: str, also: Sequence[store_pb2.Change] = ()
    ) -> tuple[Entity, int]:
        change = store_pb2.Change(put=wrap(new), expected_version=expected)
        result = await self._leader.commit([change, *also], actor, request_id)
        if result.duplicate:
            log.info("write repeated request=%s index=%d", request_id, result.index)
        key = result.touched[0]
        stored = self._store.get(key.kind, key.id)
        return (stored if stored is not None else new), result.index

    async def _new_service(self, obj: objects_pb2.Service) -> objects_pb2.Service:
        self._check(validate.validate_service(obj))
        taken = self._store.by_name(store_pb2.KIND_SERVICE, obj.meta.name, obj.meta.namespace)
        if taken is not None:
            raise Taken(f"a service named {obj.meta.name!r} exists already: choose another name or update it")
        service = objects_pb2.Service(spec=obj.spec, spec_version=1)
        service.meta.id = self.new_id()
        service.meta.name = obj.meta.name
        service.meta.namespace = obj.meta.namespace
        service.meta.labels.update(obj.meta.labels)
        self._resolve(service)
        self._check_ports(service)
        await self._pin_images(service.spec)
        return service

    async def _pinned_schedule(self, schedule: objects_pb2.Schedule) -> objects_pb2.Schedule:
        """Every run has the networks and the image of the time at which the schedule was written."""
        service = schedules.service_of(schedule)
        self._resolve(service)
        await self._pin_images(service.spec)
        schedule.spec.service.CopyFrom(service.spec)
        return schedule

    async def _pin_images(self, spec: objects_pb2.ServiceSpec) -> None:
        for container in pods.containers(spec.task):
            await self._pin_image(container)
        step = spec.pre_deploy
        if spec.HasField("pre_deploy") and step.image and not step.image_digest:
            step.image_digest = await self._images.resolve(step.image)

    async def _changed_service(self, obj: objects_pb2.Service, *, pinned: bool) -> objects_pb2.Service:
        self._check(validate.validate_service(obj))
        stored = self._store.service(obj.meta.id)
        if stored is None or stored.pending_delete:
            raise NotFound(f"there is no service {obj.meta.name or obj.meta.id!r}")
        if stored.spec.WhichOneof("mode") != obj.spec.WhichOneof("mode"):
            raise Invalid("spec.mode: the mode of a service cannot be changed: remove and create it")
        if stored.meta.name != obj.meta.name:
            raise Invalid("meta.name: a service cannot be renamed")
        service = objects_pb2.Service()
        service.CopyFrom(stored)
        service.spec.CopyFrom(obj.spec)
        service.meta.labels.clear()
        service.meta.labels.update(obj.meta.labels)
        self._resolve(service)
        self._check_ports(service)
        if not pinned:
            pods.forget_digests(service.spec.task, stored.spec.task)
        step = service.spec.pre_deploy if service.spec.HasField("pre_deploy") else None
        if step is not None and not pinned and step.image != stored.spec.pre_deploy.image:
            step.image_digest = ""
        await self._pin_images(service.spec)
        changed = revisions.with_new_spec(stored, service.spec, self._leader.now_ms())
        changed.meta.CopyFrom(service.meta)
        return changed

    def _changed_node(self, obj: objects_pb2.Node) -> objects_pb2.Node:
        self._check(validate.validate_node(obj))
        stored = self._store.node(obj.meta.id)
        if stored is None or stored.removed:
            raise NotFound(f"there is no node {obj.meta.name or obj.meta.id!r}")
        if obj.spec.role == types_pb2.ROLE_WORKER and stored.role == types_pb2.ROLE_MANAGER:
            self._check_demotion(stored)
        if obj.spec.role == types_pb2.ROLE_MANAGER and stored.spec.role != types_pb2.ROLE_MANAGER:
            levels.check_promotion(self._store, stored)
        if obj.spec.room_percent:
            levels.require(self._store, ROOM, "--overcommit")
        if obj.spec.build != stored.spec.build:
            levels.require(self._store, BUILDS, "an upgrade by the cluster")
        node = objects_pb2.Node()
        node.CopyFrom(stored)
        node.spec.CopyFrom(obj.spec)
        node.meta.labels.clear()
        node.meta.labels.update(obj.meta.labels)
        if node.spec.availability != types_pb2.AVAILABILITY_DRAIN:
            node.drain_ms = 0
        elif node.drain_ms == 0 or stored.spec != node.spec:
            node.drain_ms = self._leader.now_ms()
        return node

    def _changed_cluster(self, obj: objects_pb2.Cluster) -> objects_pb2.Cluster:
        cluster = self._store.cluster()
        if cluster is None:
            raise NotFound("there is no cluster object yet")
        self._check(validate.validate_cluster(obj))
        if obj.spec.cluster_cidr != cluster.spec.cluster_cidr:
            raise Invalid("spec.cluster_cidr: the cluster's addresses cannot be changed after init")
        new = objects_pb2.Cluster()
        new.CopyFrom(cluster)
        new.spec.CopyFrom(obj.spec)
        if not new.spec.autolock:
            new.unlock_key = b""
        elif not new.unlock_key:
            new.unlock_key = new_unlock_key()
        return new

    def _check_demotion(self, node: objects_pb2.Node) -> None:
        """A demotion must leave a majority of the remaining managers that answers."""
        others = [
            other
            for other in self._store.nodes()
            if other.meta.id != node.meta.id
            and other.role == types_pb2.ROLE_MANAGER
            and other.spec.role == types_pb2.ROLE_MANAGER
        ]
        if not others:
            raise Refused(f"node {node.meta.name!r} is the last manager: promote another node first")
        ready = [other for other in others if other.status.state == types_pb2.NODE_READY]
        if len(ready) * 2 <= len(others):
            raise Refused(
                f"demoting {node.meta.name!r} would lose the majority: "
                f"only {len(ready)} of the {len(others)} other managers answer"
            )

    def _removed_node(self, node: objects_pb2.Node, force: bool) -> objects_pb2.Node:
        if node.role == types_pb2.ROLE_MANAGER and not force:
            raise Refused(f"node {node.meta.name!r} is a manager: demote it first (swarmpy node demote)")
        if node.role == types_pb2.ROLE_MANAGER:
            self._check_demotion(node)
        if node.status.state == types_pb2.NODE_READY and not force:
            raise Refused(
                f"node {node.meta.name!r} is up: run `swarmpy leave` on it first, or use --force to cut it off"
            )
        removed = objects_pb2.Node()
        removed.CopyFrom(node)
        removed.removed = True
        removed.spec.role = types_pb2.ROLE_WORKER
        return removed

    def _image_removal(self, image: objects_pb2.Image, force: bool) -> store_pb2.Change:
        users = [
            service.meta.name
            for service in self._store.services()
            if image.digest in digests_of_service(service.spec)
        ]
        names = [other for other in self._store.images() if other.digest == image.digest]
        if users and len(names) == 1 and not force:
            raise Refused(
                f"image {image.meta.name} is used by service {', '.join(sorted(users))}: remove it first"
            )
        key = store_pb2.ObjectKey(kind=store_pb2.KIND_IMAGE, id=image.meta.id)
        return store_pb2.Change(delete=key, expected_version=image.meta.version)

    def _new_network(self, obj: objects_pb2.Network) -> objects_pb2.Network:
        self._check(validate.validate_network(obj))
        if self._store.by_name(store_pb2.KIND_NETWORK, obj.meta.name, obj.meta.namespace) is not None:
            raise Taken(f"a network named {obj.meta.name!r} exists already: choose another name")
        policies.check_subnet(self._store, obj.spec.subnet)
        network = objects_pb2.Network(spec=obj.spec)
        network.meta.id = self.new_id()
        network.meta.name = obj.meta.name
        network.meta.namespace = obj.meta.namespace
        network.meta.labels.update(obj.meta.labels)
        if sealing.is_wanted(network.spec):
            try:
                network.seal = sealing.method(self._store)
            except sealing.CannotEncrypt as error:
                raise Refused(f"spec.options: {error}") from error
        return network

    def _check_network_unused(self, network: objects_pb2.Network) -> None:
        policies.check_network_unused(self._store, network)
        if network.is_default:
            raise Refused(f"network {network.meta.name!r} is the cluster's default network and stays")
        for service in self._store.services():
            if any(reference.target == network.meta.id for reference in service.spec.task.networks):
                raise Refused(
                    f"network {network.meta.name!r} is used by service {service.meta.name!r}: remove that first"
                )

    def _resolve(self, service: objects_pb2.Service) -> None:
        """Ids of the networks, secrets and configs that the user named."""
        if service.spec.task.stop_after_ms:
            levels.require_on_nodes(self._store, PARTITIONS, "--on-partition")
        if service.spec.history_limit:  # an older leader would drop what is beyond ten
            levels.require(self._store, STACKS, "--history-limit")
        if service.spec.update.prefetch:
            levels.require_on_nodes(self._store, PULLS, "--prefetch")
        payloads.resolve(self._store, service.spec, service.meta.namespace)
        attachments.resolve(self._store, service)

    def _check_ports(self, service: objects_pb2.Service) -> None:
        wanted = {
            (port.protocol, port.published)
            for port in service.spec.endpoint.ports
            if port.published and port.mode == types_pb2.PUBLISH_INGRESS
        }
        if not wanted:
            return
        for other in self._store.services():
            if other.meta.id == service.meta.id:
                continue
            for port in other.endpoint.ports:
                if port.mode == types_pb2.PUBLISH_INGRESS and (port.protocol, port.published) in wanted:
                    raise Taken(
                        f"port {port.published} is already published by service {other.meta.name!r}: "
                        "choose another port"
                    )

    async def _pin_image(self, container: types_pb2.ContainerSpec) -> None:
        if not container.image_digest:
            container.image_digest = await self._images.resolve(container.image)

    @staticmethod
    def _check(problems: list[validate.Problem]) -> None:
        if problems:
            raise Invalid("; ".join(f"{problem.field_path}: {problem.message}" for problem in problems[:5]))
