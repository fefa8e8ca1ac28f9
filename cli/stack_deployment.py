"""Carrying a deployment out: each write in its order, waiting in between, and the way back with `--atomic`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, Protocol

import click
from swarmpy.cli.client import Client
from swarmpy.cli.errors import CliError, NotConverged
from swarmpy.cli.stack_apply import Steps, Write, of_stack
from swarmpy.proto import objects_pb2


class Waits(Protocol):
    """Until a service has converged; `back`: that it is rolled back is what is wanted."""

    def __call__(self, before: Any, answer: Any, *, back: bool = False) -> None: ...


class Keeps(Protocol):
    """Writes the deployment's revision (stack_revisions)."""

    def begin(self, steps: Steps) -> None: ...

    def end(self, state: objects_pb2.StackState, message: str = "") -> None: ...


class Deployment:
    """Carries steps out, and says what it did. With `atomic` one service after the other, and all or nothing."""

    def __init__(
        self, client: Client, stack: str, waits: Waits | None, keeper: Keeps | None = None, *, atomic: bool = False,
        vanishes: Callable[[Any, Any], None] | None = None,
    ) -> None:  # fmt: skip
        self._client, self._stack, self._waits, self._vanishes = client, stack, waits, vanishes
        self._keeper, self._atomic = keeper, atomic
        self._done: list[str] = []
        self._begun: list[Write] = []
        self._pending: list[tuple[Any, Any]] = []

    def run(self, steps: Steps, same: set[str]) -> None:
        try:
            self._run(steps, same)
        except CliError as error:
            if self._atomic:
                raise self._taken_back(steps, error) from None
            self._end(objects_pb2.STACK_FAILED, error.message)
            if self._done:
                done = f"Done before that: {', '.join(self._done)}. The same command goes on from there."
                raise type(error)(f"{error.message}\n{done}") from None
            raise
        except KeyboardInterrupt:
            if self._atomic:
                again = f"`swarmpy stack rollback {self._stack}` goes back"
                click.echo(f"Interrupted: what was changed stays as it is; {again}.", err=True)
            raise
        self._end(objects_pb2.STACK_COMPLETE, "" if self._waits is not None else "not waited for")

    def _run(self, steps: Steps, same: set[str]) -> None:
        for write in steps.shared:
            self._write(write)
        if self._keeper is not None:
            self._keeper.begin(steps)
        for level in steps.levels:
            due = [write for write in level if write.name not in same]
            for write in level:
                if write.name in same:
                    click.echo(f"Service {write.name}: as it is")
            if any(write.before is not None for write in due):
                self._wait()  # for what these depend on
            for write in due:
                self._begun.append(write)
                self._pending.append((write.before, self._write(write)))
                if self._atomic:
                    self._wait()
        self._wait()

    def _end(self, state: objects_pb2.StackState, message: str) -> None:
        """What the managers do not hear any more stays unfinished for them."""
        if self._keeper is not None:
            try:
                self._keeper.end(state, message)
            except CliError as error:
                click.echo(f"Note: the stack's revision stays unfinished: {error.message}", err=True)

    def _taken_back(self, steps: Steps, error: CliError) -> CliError:
        """Undo what was done, the last first; what the command ends with."""
        click.echo(f"Failed: {error.message}\nTaking back what was changed", err=True)
        try:
            for write in reversed(self._begun):
                self._undo(write)
        except CliError as second:
            self._end(objects_pb2.STACK_FAILED, error.message)
            return CliError(
                f"{error.message}\nNot all of it could be taken back: {second.message} "
                f"`swarmpy stack rollback {self._stack}` goes on."
            )
        self._end(objects_pb2.STACK_UNDONE, error.message)
        for write in reversed(steps.shared):
            with contextlib.suppress(CliError):  # a revision of a service may still refer to it
                self._client.delete(write.noun, write.name)
        return NotConverged(f"{error.message}\nEverything that was changed is as it was before.")

    def _undo(self, write: Write) -> None:
        if write.before is None:
            for one in of_stack(self._client, "service", self._stack):
                if one.meta.name == write.name:
                    click.echo(f"Removing service {write.name}")
                    answer = self._client.delete("service", one.meta.id)
                    if self._vanishes is not None:
                        self._vanishes(one, answer)
            return
        click.echo(f"Service {write.name}: back")
        before, answer = self._become(write.noun, write.before, pinned=True)
        if self._waits is not None:
            self._waits(before, answer, back=True)

    def _write(self, write: Write) -> Any:
        if write.before is None:
            click.echo(f"Creating {write.noun} {write.name}")
            answer = self._client.create(write.message)
        else:
            click.echo(f"Updating {write.noun} {write.name}")
            answer = self._become(write.noun, write.message, pinned=write.pinned)[1]
        self._done.append(f"{write.noun} {write.name}")
        return answer

    def _become(self, noun: str, wanted: Any, *, pinned: bool) -> tuple[Any, Any]:
        """The object as it was, and the answer; written again where a planner wrote it in between."""

        def edit(found: Any) -> None:
            found.meta.labels.clear()
            found.meta.labels.update(wanted.meta.labels)
            found.spec.CopyFrom(wanted.spec)

        return self._client.change(noun, wanted.meta.id, edit, pinned=pinned)

    def _wait(self) -> None:
        pending, self._pending = self._pending, []
        if self._waits is not None:
            for before, answer in pending:
                self._waits(before, answer)
