"""Encryption at rest: every record of a member's files sealed with AES-256-GCM.

A member has data keys of its own, never shared with another member. A file names its data
key and a random salt; its own key is HMAC-SHA256(data key, kind | salt), so no two files
share a key, however often one is made again. Within a file a record's nonce is 4 random
bytes drawn anew whenever the file is opened for writing, then the record's number in 8:
a record cut off as a torn tail and written again never meets the nonce of the first try.
What is authenticated besides: cluster, node, kind (with its sequence) and salt of the file,
the record's number, and the tag of the record before it. So records cannot be exchanged,
left out in the middle, or moved to another place, file, node or cluster. What nothing on
the same disk can show is a whole directory put back to an earlier state.

    sealed record = 4 bytes of nonce | ciphertext | 16 bytes of tag

`NoKeys` writes plain files, for tests and tools; a manager always has a KeyRing
(raft/keyring.py).
"""

from __future__ import annotations

import hmac
import os
import struct
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_BYTES = 32
SALT_BYTES = 16
TAG_BYTES = 16
PREFIX_BYTES = 4
OVERHEAD_BYTES = PREFIX_BYTES + TAG_BYTES
NUMBER = struct.Struct(">Q")


class SealBroken(Exception):
    """A record is not what was written at this place with this key; the caller says where."""


class Stream(Protocol):
    """One file's records, sealed or opened in their order from number 0 on."""

    tag: bytes  # of the newest record; what the next one is bound to

    def seal(self, number: int, body: bytes) -> bytes: ...
    def open(self, number: int, sealed: bytes) -> bytes: ...


class Keys(Protocol):
    """A member's data keys."""

    @property
    def current(self) -> int:
        """The key new files are sealed with; 0 = plain."""

    @property
    def overhead_bytes(self) -> int:
        """How much longer a sealed record is."""

    def stream(self, key_id: int, kind: str, salt: bytes) -> Stream:
        """SealBroken when there is no such key."""


class PlainStream:
    tag = b""

    def seal(self, number: int, body: bytes) -> bytes:
        return body

    def open(self, number: int, sealed: bytes) -> bytes:
        return sealed


class NoKeys:
    current = 0
    overhead_bytes = 0

    def stream(self, key_id: int, kind: str, salt: bytes) -> Stream:
        if key_id:
            raise SealBroken("it is encrypted and no keys are at hand")
        return PlainStream()


class SealedStream:
    def __init__(self, data_key: bytes, owner: bytes, kind: str, salt: bytes) -> None:
        name = kind.encode()
        self._cipher = AESGCM(hmac.digest(data_key, b"swarmpy file key 1|" + name + b"|" + salt, "sha256"))
        self._bound = owner + struct.pack(">H", len(name)) + name + salt
        self._prefix = os.urandom(PREFIX_BYTES)
        self.tag = bytes(TAG_BYTES)

    def seal(self, number: int, body: bytes) -> bytes:
        place = NUMBER.pack(number)
        sealed = self._cipher.encrypt(self._prefix + place, body, self._bound + place + self.tag)
        self.tag = sealed[-TAG_BYTES:]
        return self._prefix + sealed

    def open(self, number: int, sealed: bytes) -> bytes:
        if len(sealed) < OVERHEAD_BYTES:
            raise SealBroken("a record is shorter than its seal")
        place = NUMBER.pack(number)
        try:
            body = self._cipher.decrypt(
                sealed[:PREFIX_BYTES] + place, sealed[PREFIX_BYTES:], self._bound + place + self.tag
            )
        except InvalidTag:
            raise SealBroken("it was changed, or belongs to another place, node or cluster") from None
        self.tag = sealed[-TAG_BYTES:]
        return body


class DataKeys:
    """Data keys in memory, by id."""

    overhead_bytes = OVERHEAD_BYTES

    def __init__(self, cluster_id: str, node_id: str, keys: dict[int, bytes], current: int) -> None:
        assert current in keys
        assert all(len(key) == KEY_BYTES for key in keys.values())
        self._owner = owner_bytes(cluster_id, node_id)
        self.keys = dict(keys)
        self.current = current

    def stream(self, key_id: int, kind: str, salt: bytes) -> Stream:
        key = self.keys.get(key_id)
        if key is None:
            raise SealBroken(f"it is sealed with data key {key_id}, which the key file does not hold")
        return SealedStream(key, self._owner, kind, salt)


def owner_bytes(cluster_id: str, node_id: str) -> bytes:
    """Cluster and node, so that neither can be read as part of the other."""
    parts = (cluster_id.encode(), node_id.encode())
    return b"".join(struct.pack(">H", len(part)) + part for part in parts)
