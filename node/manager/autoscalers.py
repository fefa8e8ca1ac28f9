"""Users' writes of autoscalers: checked against the service they are for."""

from __future__ import annotations

from collections.abc import Callable

from swarmpy.node.manager.errors import Invalid, NotFound, Taken
from swarmpy.node.plan import autoscale_checks
from swarmpy.proto import objects_pb2, store_pb2
from swarmpy.raft.store import Store
from swarmpy.raft.tables import LookupFailed


def checked(
    store: Store,
    obj: objects_pb2.Autoscaler,
    stored: objects_pb2.Autoscaler | None,
    new_id: Callable[[], str],
) -> objects_pb2.Autoscaler:
    """A new one (`stored` is None), or a changed one that keeps what it remembers."""
    try:
        service = store.find(store_pb2.KIND_SERVICE, obj.spec.service_id or obj.meta.name)
    except LookupFailed as error:
        raise NotFound(f"there is no service {obj.spec.service_id or obj.meta.name!r}") from error
    assert isinstance(service, objects_pb2.Service)
    if found := list(autoscale_checks.problems(obj.spec, service)):
        raise Invalid("; ".join(f"{problem.field_path}: {problem.message}" for problem in found[:5]))
    new = objects_pb2.Autoscaler()
    if stored is not None:
        if stored.spec.service_id != service.meta.id:
            raise Invalid("spec.service_id: an autoscaler stays with its service: remove and create it")
        new.CopyFrom(stored)
    else:
        if store.by_name(store_pb2.KIND_AUTOSCALER, service.meta.name, service.meta.namespace):
            raise Taken(f"service {service.meta.name!r} has an autoscaler already: update that")
        new.meta.id, new.meta.name = new_id(), service.meta.name
        new.meta.namespace = service.meta.namespace
    new.spec.CopyFrom(obj.spec)
    new.spec.service_id = service.meta.id
    return new
