"""What is known of a registry and of who asks it; without the client, which a node loads with its first pull."""

from __future__ import annotations

import base64
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from swarmpy.node.image.errors import ImageError
from swarmpy.node.image.reference import Reference

if TYPE_CHECKING:
    from swarmpy.node.image.registry import Registry


@dataclass(frozen=True)
class Credentials:
    username: str
    password: str

    def basic(self) -> str:
        return "Basic " + base64.b64encode(f"{self.username}:{self.password}".encode()).decode()

    def __repr__(self) -> str:
        return f"Credentials(username={self.username!r}, password=…)"


class Stopped(ImageError):
    """The transfer was given up by its owner."""


@dataclass(frozen=True)
class Access:
    """What is known of a registry; `registry` is host[:port][/path] of a mirror."""

    registry: str = ""
    credentials: Credentials | None = None
    insecure: bool = False
    ca: str = ""  # PEM
    mirrors: tuple[Access, ...] = ()


def registry_client(reference: Reference, access: Access | None, stop: threading.Event) -> Registry:
    """Loaded with the first question to a registry: Python's HTTP is a megabyte in every idle node."""
    from swarmpy.node.image.registry import Registry

    return Registry(reference, access=access, stop=stop)
