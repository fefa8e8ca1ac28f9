"""Bringing the cluster to what a compose file says: what is missing is made, what differs changed, in order.

Everything is checked by a plan of all writes before the first of them: a stack that would be refused changes
nothing. Then networks, secrets, configs and services are written one by one; each write is whole, so that a
deployment that breaks off is continued by the same command. A service is only changed once those it depends on
run; new ones are held back by the managers themselves.

The content of a secret or config never changes: a changed file becomes another object, `NAME.2` and so on, and
its services are updated to that. What no kept revision of a service refers to any more is removed afterwards.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import click
from swarmpy.cli import compose_spec, plan
from swarmpy.cli.client import Client, new_request_id, wrap
from swarmpy.cli.compose import Project, Shared
from swarmpy.cli.compose_spec import NAMESPACE
from swarmpy.cli.compose_tree import Report
from swarmpy.cli.errors import Changed, CliError, Conflict, NotFound, UsageRefused
from swarmpy.proto import control_pb2, types_pb2

WRITES_MAX = 200
WORDS = {"stack": "revision"}
PLANNED_CONTENT = b"-"  # stands for contents in plans, which show none


@dataclass(frozen=True)
class Write:
    """One object to create or change; `before` is what it was."""

    noun: str
    message: Any
    before: Any = None
    pinned: bool = False  # its digests are meant: of a revision

    @property
    def name(self) -> str:
        return str(self.message.meta.name)

    def planned(self) -> control_pb2.PlannedWrite:
        shown = type(self.message)()
        shown.CopyFrom(self.message)
        if self.noun in {"secret", "config"} and not shown.template_driver:
            shown.data = PLANNED_CONTENT
        if self.before is None:
            return control_pb2.PlannedWrite(create=control_pb2.CreateRequest(object=wrap(shown)))
        asked = control_pb2.UpdateRequest(object=wrap(shown), pinned=self.pinned)
        return control_pb2.PlannedWrite(update=asked)


@dataclass
class Steps:
    """What a deployment comes to. `levels`: services, those depended on first."""

    stack: str
    shared: list[Write] = field(default_factory=list)
    levels: list[list[Write]] = field(default_factory=list)
    removed: list[Any] = field(default_factory=list)  # services, by --prune
    names: set[tuple[str, str]] = field(default_factory=set)  # (noun, name) of what the file means
    networks: list[Any] = field(default_factory=list)  # the stack's own
    versions: dict[str, dict[str, str]] = field(
        default_factory=dict
    )  # of secrets and configs, by noun and name
    given: set[str] = field(default_factory=set)  # services whose number of tasks the file says

    @property
    def writes(self) -> list[Write]:
        return [*self.shared, *(write for level in self.levels for write in level)]


def of_stack(client: Client, noun: str, stack: str) -> list[Any]:
    found = client.find(noun, label=f"{NAMESPACE}={stack}")
    return sorted(
        (one for one in found if one.meta.labels.get(NAMESPACE) == stack), key=lambda one: one.meta.name
    )


# -- working out -----------------------------------------------------------------------


def steps_of(client: Client, project: Project, report: Report, *, prune: bool, resolve: bool) -> Steps:
    """What is to be written; reads the cluster. Problems go to the report."""
    steps = Steps(project.stack)
    networks(client, project, steps, report)
    versions = steps.versions = {
        noun: files(client, project, noun, steps, report) for noun in ("secret", "config")
    }
    volumes(client, project, report)
    known = {one.meta.name: one for one in client.find("service") if not one.pending_delete}
    for level in project.levels:
        writes = []
        for one in level:
            wanted = compose_spec.service_message(project, one, report)
            renamed(wanted, versions)
            if one.has("replicas"):
                steps.given.add(wanted.meta.name)
            current = known.get(wanted.meta.name)
            if current is None:
                writes.append(Write("service", wanted))
                continue
            if current.meta.labels.get(NAMESPACE) != project.stack:
                report.refuse(
                    one.item, one.path, f"service {wanted.meta.name} exists and is not of this stack"
                )
            elif current.spec.WhichOneof("mode") != wanted.spec.WhichOneof("mode"):
                report.refuse(
                    one.item,
                    one.path,
                    f"the mode of a service cannot be changed: remove {wanted.meta.name} first",
                )
            else:
                changed = compose_spec.updated(
                    current, wanted, replicas_given=wanted.meta.name in steps.given, resolve=resolve
                )
                writes.append(Write("service", changed, current))
        steps.levels.append(writes)
    ports(project, steps, report)
    if prune:
        meant = {f"{project.stack}_{one.name}" for one in project.services}
        steps.removed = [
            one for one in of_stack(client, "service", project.stack) if one.meta.name not in meant
        ]
    if len(steps.writes) > WRITES_MAX:
        raise UsageRefused(
            f"The stack has {len(steps.writes)} objects, at most {WRITES_MAX}: make two of it."
        )
    return steps


def networks(client: Client, project: Project, steps: Steps, report: Report) -> None:
    present = {one.meta.name: one for one in client.find("network")}
    for key, shared in compose_spec.used(project, "network").items():
        path = f"networks.{key}"
        steps.names.add(("network", shared.name))
        found = present.get(shared.name)
        if not shared.external:
            steps.networks.append(compose_spec.network_message(project.stack, shared))
        if shared.external:
            if found is None:
                why = f"network {shared.name} does not exist: swarmpy network create {shared.name}"
                report.refuse(shared.item, path, why)
        elif found is None or found.pending_delete:
            steps.shared.append(Write("network", compose_spec.network_message(project.stack, shared)))
        elif different := network_difference(found, compose_spec.network_message(project.stack, shared)):
            report.refuse(
                shared.item, path,
                f"network {shared.name} exists with another {different}, which cannot be changed: remove the stack "
                "first, or give the network another name",
            )  # fmt: skip


def ports(project: Project, steps: Steps, report: Report) -> None:
    """Two services of a stack cannot publish one port; the managers would refuse the second, after the first."""
    taken: dict[tuple[int, int], str] = {}
    by_name = {f"{project.stack}_{one.name}": one for one in project.services}
    for write in (write for level in steps.levels for write in level if write.name in by_name):
        one = by_name[write.name]
        for port in write.message.spec.endpoint.ports:
            if not port.published or port.mode != types_pb2.PUBLISH_INGRESS:
                continue
            first = taken.setdefault((port.protocol, port.published), write.name)
            if first != write.name:
                why = f"port {port.published} is published by {first} already: choose another"
                report.refuse(one.item, f"{one.path}.ports", why)


def network_difference(found: Any, wanted: Any) -> str:
    for name in ("internal", "attachable", "ipv6"):
        if getattr(found.spec, name) != getattr(wanted.spec, name):
            return name
    if wanted.spec.subnet and wanted.spec.subnet != found.spec.subnet:
        return "subnet"
    return "set of options" if dict(found.spec.options) != dict(wanted.spec.options) else ""


def volumes(client: Client, project: Project, report: Report) -> None:
    """Those of the stack are made by their first task; external ones have to be there."""
    external = [(key, shared) for key, shared in project.volumes.items() if shared.external]
    present = {one.meta.name for one in client.find("volume")} if external else set()
    for key, shared in external:
        if shared.name not in present and "{{" not in shared.name:
            why = f"volume {shared.name} does not exist: swarmpy volume create {shared.name}"
            report.refuse(shared.item, f"volumes.{key}", why)


def files(client: Client, project: Project, noun: str, steps: Steps, report: Report) -> dict[str, str]:
    """The name in the file -> the name of the version with that content."""
    wanted = compose_spec.used(project, noun)
    present = {one.meta.name: one for one in client.find(noun)} if wanted else {}
    result: dict[str, str] = {}
    for key, shared in wanted.items():
        path = f"{noun}s.{key}"
        if shared.external:
            if shared.name not in present:
                why = f"{noun} {shared.name} does not exist: swarmpy {noun} create {shared.name} FILE"
                report.refuse(shared.item, path, why)
        elif not shared.data:
            report.refuse(shared.item, path, "is empty: there has to be content")
        else:
            name, exists = version_of(client, project.stack, shared, present, report)
            result[shared.name] = name
            steps.names.add((noun, name))
            if not exists:
                steps.shared.append(Write(noun, compose_spec.file_message(project.stack, shared, name)))
    return result


def version_of(
    client: Client, stack: str, shared: Shared, present: dict[str, Any], report: Report
) -> tuple[str, bool]:
    """The version with this content, and whether it is there; the newest is looked at first."""
    pattern = re.compile(re.escape(shared.name) + r"(?:\.(\d+))?")
    versions: list[tuple[int, Any]] = []
    for name, one in present.items():
        match = pattern.fullmatch(name)
        if match is None:
            continue
        if one.meta.labels.get(NAMESPACE) == stack:
            versions.append((int(match[1] or 1), one))
        elif name == shared.name:
            why = f"{name} exists and is not of this stack: write external: true, or give it another name"
            report.refuse(shared.item, f"{shared.noun}s.{shared.key}", why)
            return name, True
    for _, one in sorted(versions, key=lambda version: -version[0]):
        if has_content(client, shared, one):
            return str(one.meta.name), True
    number = max((number for number, _ in versions), default=0) + 1
    return (shared.name if number == 1 else f"{shared.name}.{number}"), False


def has_content(client: Client, shared: Shared, one: Any) -> bool:
    """Asked of the managers, for nobody can read a secret: an update with the same content changes nothing."""
    if one.template_driver != shared.template_driver or one.size_bytes != len(shared.data):
        return False
    asked = type(one)()
    asked.CopyFrom(one)
    asked.data = shared.data
    try:
        client.call("Update", control_pb2.UpdateRequest(object=wrap(asked), request_id=new_request_id()))
    except Changed:
        raise
    except Conflict:
        return False
    return True


def renamed(service: Any, versions: dict[str, dict[str, str]]) -> None:
    """Let a service use the versions. In place."""
    task = service.spec.task
    for container in (task.container, *(part.container for part in (*task.init_containers, *task.sidecars))):
        for noun, names in versions.items():
            for reference in getattr(container, f"{noun}s"):
                reference.source = names.get(reference.source, reference.source)


# -- planning ---------------------------------------------------------------------------


def planned(client: Client, steps: Steps) -> control_pb2.PlanResponse:
    """What all of it would come to, checked as the writes would be."""
    writes = [write.planned() for write in steps.writes]
    writes += [
        control_pb2.PlannedWrite(delete=control_pb2.DeleteRequest(kind="KIND_SERVICE", ref=one.meta.id))
        for one in steps.removed
    ]
    if not writes:
        return control_pb2.PlanResponse()
    answer = client.call("Plan", control_pb2.PlanRequest(writes=writes))
    assert isinstance(answer, control_pb2.PlanResponse)
    return answer


def unchanged(answer: control_pb2.PlanResponse, steps: Steps) -> set[str]:
    """The names of services that are as they should be."""
    return {
        write.name
        for write, entry in zip(steps.writes, answer.objects, strict=False)
        if write.before is not None and not entry.fields and plan.word(entry) == "change"
    }


def changes_nothing(steps: Steps, same: set[str]) -> bool:
    services = {write.name for level in steps.levels for write in level}
    return not steps.shared and not steps.removed and services <= same


# -- removing ---------------------------------------------------------------------------


def remove_services(
    client: Client, services: Sequence[Any], vanishes: Callable[[Any, Any], None] | None
) -> None:
    """All at once; then wait until their tasks are gone."""
    gone = []
    for one in services:
        click.echo(f"Removing service {one.meta.name}")
        gone.append((one, client.delete("service", one.meta.id)))
    for one, answer in gone if vanishes is not None else ():
        assert vanishes is not None
        vanishes(one, answer)


def planned_removal(
    client: Client, stack: str, services: Sequence[Any], nouns: Iterable[str]
) -> plan.Planned:
    """What `stack rm` would do: the services as a plan, the rest by name."""
    steps = Steps(stack, removed=list(services))
    answer = planned(client, steps)
    for noun in nouns:
        for one in of_stack(client, noun, stack):
            click.echo(f"- remove {WORDS.get(noun, noun)} {one.meta.name}")
    for line in plan.lines(answer) if services else ():
        click.echo(line)
    return plan.Planned(plan.CHANGES)


def remove_rest(
    client: Client, stack: str, keep: set[tuple[str, str]], nouns: Iterable[str], *, quiet: bool
) -> bool:
    """Secrets, configs, networks (and volumes) of the stack that nothing uses; whether all went."""
    whole = True
    revisions = referred(client.find("service"))
    for noun in nouns:
        for one in of_stack(client, noun, stack):
            if (
                (noun, one.meta.name) in keep
                or one.meta.id in revisions
                or getattr(one, "pending_delete", False)
            ):
                continue
            try:
                client.delete(noun, one.meta.id)
            except NotFound:
                continue
            except CliError as error:
                whole = False
                if not quiet:
                    click.echo(f"Left: {error.message}", err=True)
                continue
            click.echo(f"Removing {WORDS.get(noun, noun)} {one.meta.name}")
    return whole


def referred(services: Iterable[Any]) -> set[str]:
    """Ids of the secrets and configs that any kept revision of any service has."""
    found: set[str] = set()
    for service in services:
        for spec in (service.spec, *service.previous_specs):
            parts = (*spec.task.init_containers, *spec.task.sidecars)
            for container in (spec.task.container, *(part.container for part in parts)):
                found.update(reference.id for reference in (*container.secrets, *container.configs))
    return found
