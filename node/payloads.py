"""Secrets and configs in a task's specification: which there are, and where they are in a container. Pure.

Both are files in memory. A secret is below /run/secrets and a config below / unless its target says
otherwise, as with Docker.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from swarmpy.proto import store_pb2, types_pb2

SECRETS_DIRECTORY = "/run/secrets"
MODE = 0o444


class Use(NamedTuple):
    """One reference of a container; `position` is its place in the list of its kind."""

    kind: store_pb2.Kind
    position: int
    reference: types_pb2.FileReference

    @property
    def noun(self) -> str:
        return "secret" if self.kind == store_pb2.KIND_SECRET else "config"

    @property
    def target(self) -> str:
        """The absolute path in the container."""
        wanted = self.reference.target or self.reference.source
        if wanted.startswith("/"):
            return wanted
        return f"{SECRETS_DIRECTORY if self.kind == store_pb2.KIND_SECRET else ''}/{wanted}"

    @property
    def mode(self) -> int:
        return self.reference.mode if self.reference.HasField("mode") else MODE


def uses(container: types_pb2.ContainerSpec) -> Iterator[Use]:
    """Every secret, then every config of a container."""
    for position, reference in enumerate(container.secrets):
        yield Use(store_pb2.KIND_SECRET, position, reference)
    for position, reference in enumerate(container.configs):
        yield Use(store_pb2.KIND_CONFIG, position, reference)


def uses_of_task(spec: types_pb2.TaskSpec) -> Iterator[Use]:
    """Those of all containers."""
    yield from uses(spec.container)
    for part in (*spec.init_containers, *spec.sidecars):
        yield from uses(part.container)
