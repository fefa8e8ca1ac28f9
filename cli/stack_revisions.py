"""Revisions of a stack as the managers keep them: written by each deployment, read to go back. Imports protobuf.

A revision holds its services with networks by name and with the digests and versions of secrets and configs that
they had, so that going back makes the same of it, whatever the tags and files are by then. It is written when a
deployment begins to change services, and once more when that has ended. Where the managers refuse to keep it (an
older version among them, a stack that is too large) the deployment goes on without, and says so.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import click
from swarmpy.cli import compose_spec
from swarmpy.cli.client import Client
from swarmpy.cli.errors import CliError, NotFound, UsageRefused
from swarmpy.cli.stack_apply import Steps, Write, network_difference, of_stack
from swarmpy.proto import objects_pb2

FILE_BYTES_MAX = 4 * 1024 * 1024  # unpacked
COMPLETE, FAILED, UNDONE = objects_pb2.STACK_COMPLETE, objects_pb2.STACK_FAILED, objects_pb2.STACK_UNDONE


# -- writing -----------------------------------------------------------------------------


@dataclass
class Keeper:
    """Writes the revision of one deployment."""

    client: Client
    stack: str
    file: bytes = b""  # zlib
    message: str = ""
    kept: Any = None
    _given: set[str] = field(default_factory=set)

    def begin(self, steps: Steps) -> None:
        """Before the first service is changed; networks, secrets and configs are there already."""
        self._given = steps.given
        wanted = objects_pb2.Stack(stack=self.stack, message=self.message, file=self.file)
        wanted.networks.extend(steps.networks)
        names = network_names(self.client)
        for write in (write for level in steps.levels for write in level):
            wanted.services.append(self._entry(write.message, names))
        try:
            self.kept = self.client.create(wanted).object.stack
        except CliError as error:
            click.echo(f"Note: this deployment is not kept as a revision: {error.message}", err=True)

    def end(self, state: objects_pb2.StackState, message: str = "") -> None:
        """How it ended. What cannot be written any more is left: the revision says that it is unfinished."""
        if self.kept is None:
            return
        found = {one.meta.name: one for one in of_stack(self.client, "service", self.stack)}
        names = network_names(self.client)

        def edit(kept: Any) -> None:
            kept.state = state
            kept.message = "; ".join(filter(None, (self.message, message)))
            for entry in kept.services if state == COMPLETE else ():
                if entry.name in found:
                    entry.CopyFrom(self._entry(found[entry.name], names))

        self.client.change("stack", self.kept.meta.id, edit)

    def _entry(self, service: Any, names: dict[str, str]) -> objects_pb2.StackService:
        made = objects_pb2.StackService(
            name=service.meta.name, labels=service.meta.labels, spec=service.spec,
            replicas_given=service.meta.name in self._given,
        )  # fmt: skip
        for reference in made.spec.task.networks:
            reference.target = names.get(reference.target, reference.target)
        return made


def network_names(client: Client) -> dict[str, str]:
    return {one.meta.id: one.meta.name for one in client.find("network")}


# -- reading -----------------------------------------------------------------------------


def listed(client: Client, stack: str) -> list[Any]:
    """Outlines, the newest first. NotFound where there is none."""
    found = newest_first(client, stack)
    if not found:
        raise NotFound(f"There is no revision of a stack {stack!r}: see `swarmpy stack ls`.")
    return found


def newest_first(client: Client, stack: str) -> list[Any]:
    return sorted(of_stack(client, "stack", stack), key=lambda one: -int(one.revision))


def present(revisions: Sequence[Any]) -> Any:
    """The one that the stack was brought to last; `revisions` are the newest first. None: all were taken back."""
    return next((one for one in revisions if one.state != UNDONE), None)


def is_complete(client: Client, stack: str) -> bool:
    """Whether what the stack was brought to last is kept."""
    now = present(newest_first(client, stack))
    return now is not None and now.state == COMPLETE


def whole(client: Client, stack: str, number: int) -> Any:
    """A revision with everything; 0: the one before the present one that is complete."""
    found = listed(client, stack)
    if number:
        chosen = next((one for one in found if one.revision == number), None)
        kept = ", ".join(str(one.revision) for one in found)
        if chosen is None:
            raise NotFound(f"Stack {stack} has no revision {number} (any more): kept are {kept}.")
    else:
        now = present(found)
        chosen = next(
            (one for one in found if one.state == COMPLETE and (now is None or one.revision < now.revision)), None
        )  # fmt: skip
        if chosen is None:
            raise NotFound(
                f"Stack {stack} has no earlier revision that is complete: see `swarmpy stack history`."
            )
    return client.get("stack", chosen.meta.id)


def file_of(revision: Any) -> str:
    """The compose file. Raises CliError."""
    try:
        text = zlib.decompressobj().decompress(revision.file, FILE_BYTES_MAX)
    except zlib.error as error:
        raise CliError(f"The file of revision {revision.revision} cannot be unpacked: {error}.") from None
    if not text:
        raise NotFound(f"Revision {revision.revision} of stack {revision.stack} has no file.")
    return text.decode()


# -- going back -----------------------------------------------------------------------------


def steps_back(client: Client, target: Any) -> Steps:
    """What makes the stack what the revision holds: services that came with later ones go."""
    steps = Steps(target.stack, networks=list(target.networks))
    networks(client, target, steps)
    known = {one.meta.name: one for one in client.find("service") if not one.pending_delete}
    for level in levels(target.services):
        steps.levels.append([back(target, entry, known.get(entry.name)) for entry in level])
    steps.given = {entry.name for entry in target.services if entry.replicas_given}
    later = (one for one in of_stack(client, "stack", target.stack) if one.revision > target.revision)
    came = {service.name for one in later for service in one.services}
    meant = {entry.name for entry in target.services}
    steps.removed = [
        one for one in of_stack(client, "service", target.stack) if one.meta.name in came - meant
    ]  # fmt: skip
    return steps


def networks(client: Client, target: Any, steps: Steps) -> None:
    there = {one.meta.name: one for one in client.find("network")}
    for wanted in target.networks:
        found = there.get(wanted.meta.name)
        if found is None or found.pending_delete:
            steps.shared.append(Write("network", wanted))
        elif different := network_difference(found, wanted):
            raise UsageRefused(
                f"Network {wanted.meta.name} exists with another {different} than in revision {target.revision}, "
                "which cannot be changed: remove the stack first."
            )


def back(target: Any, entry: Any, current: Any) -> Write:
    wanted = objects_pb2.Service(spec=entry.spec)
    wanted.meta.name = entry.name
    wanted.meta.labels.update(entry.labels)
    if current is None:
        return Write("service", wanted)
    if current.meta.labels.get(compose_spec.NAMESPACE) != target.stack:
        raise UsageRefused(f"Service {entry.name} exists and is not of this stack.")
    if current.spec.WhichOneof("mode") != entry.spec.WhichOneof("mode"):
        raise UsageRefused(f"The mode of a service cannot be changed: remove {entry.name} first.")
    changed = compose_spec.updated(current, wanted, replicas_given=entry.replicas_given, resolve=True)
    return Write("service", changed, current, pinned=True)


def levels(entries: Iterable[Any]) -> list[list[Any]]:
    """Those depended on first; what goes in a circle, which deployments refuse, last."""
    left = {entry.name: entry for entry in entries}
    result: list[list[Any]] = []
    while left:
        ready = [
            entry
            for entry in left.values()
            if not any(dependency.service in left for dependency in entry.spec.depends_on)
        ] or list(left.values())
        result.append(ready)
        for entry in ready:
            del left[entry.name]
    return result
