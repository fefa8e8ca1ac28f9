"""This node's part in encrypted networks: its key pairs, made here, kept below /run, public parts reported.

A pair per generation (see overlay/seal). After a reboot, or with another generation, there are new ones; the
private parts never leave this file and the kernel.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import time
from collections.abc import Callable
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from swarmpy.node.config import write_private
from swarmpy.overlay import seal
from swarmpy.overlay.plane import Overlay
from swarmpy.overlay.wanted import Wanted
from swarmpy.proto import objects_pb2

log = logging.getLogger(__name__)
LOOK_S = 60.0
KEY_BYTES = 32


class Seals:
    """Keeps the keys current, and says in the node's description what it can do and has."""

    def __init__(self, path: Path, overlay: Overlay, on_change: Callable[[], None]) -> None:
        self._keys = SealKeys(path)
        self._overlay = overlay
        self._on_change = on_change
        self._ready = 0

    def start(self) -> None:
        """Once the overlay has looked what the kernel can do."""
        if self._overlay.seal_methods():
            self._keys.load()
            self._renew()

    async def run(self) -> None:
        """Renew the keys when they are due."""
        while True:
            await asyncio.sleep(LOOK_S)
            if self._overlay.seal_methods() and self._renew():
                self._on_change()

    def _renew(self) -> bool:
        try:
            return self._keys.renew()
        except OSError as error:
            log.error("encryption keys not kept, tried again in a minute error=%s", error)
            return False

    @property
    def pairs(self) -> tuple[tuple[int, bytes], ...]:
        """(generation, private key)."""
        return self._keys.pairs

    def applied(self, wanted: Wanted) -> None:
        """The kernel has what was wanted: the others may send by the keys it knows."""
        ready = seal.ready(wanted)
        if ready != self._ready:
            self._ready = ready
            self._on_change()

    def describe(self, description: objects_pb2.NodeDescription) -> objects_pb2.NodeDescription:
        """`description` with the keys in it."""
        description.seal_methods.extend(self._overlay.seal_methods())
        description.seal_keys.extend(self._keys.public())
        description.seal_ready = self._ready
        return description


class SealKeys:
    """The pairs of the generations that are due."""

    def __init__(self, path: Path, schedule: seal.Schedule | None = None) -> None:
        self._path = path
        self._schedule = schedule or seal.Schedule()
        self.private: dict[int, bytes] = {}

    def load(self) -> None:
        """What an agent before this one made; nothing where the file is missing or damaged."""
        try:
            kept = json.loads(self._path.read_bytes())
            self.private = {int(number): base64.b64decode(text) for number, text in kept.items()}
        except FileNotFoundError:
            return
        except (OSError, ValueError, TypeError, AttributeError) as error:
            log.warning("kept keys not usable, new ones are made path=%s error=%s", self._path, error)
            self.private = {}
        if any(len(key) != KEY_BYTES for key in self.private.values()):
            self.private = {}

    def renew(self, now_ms: int | None = None) -> bool:
        """Make and drop keys as the time wants it; whether anything changed. OSError when they cannot be kept."""
        wanted = self._schedule.generations(time.time_ns() // 1_000_000 if now_ms is None else now_ms)
        if wanted == sorted(self.private):
            return False
        keys = {number: self.private.get(number) or new_key() for number in wanted}
        data = {str(number): base64.b64encode(key).decode() for number, key in keys.items()}
        write_private(self._path, json.dumps(data).encode())
        log.info("encryption keys changed generations=%s", wanted)
        self.private = keys
        return True

    @property
    def pairs(self) -> tuple[tuple[int, bytes], ...]:
        return tuple(sorted(self.private.items()))

    def public(self) -> list[objects_pb2.SealKey]:
        return [
            objects_pb2.SealKey(
                generation=number, public_key=seal.public_of(X25519PrivateKey.from_private_bytes(key))
            )
            for number, key in self.pairs
        ]


def new_key() -> bytes:
    return X25519PrivateKey.generate().private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())
