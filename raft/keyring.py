"""A member's data keys on disk, in the clear (0600) or wrapped by the cluster's unlock key.

    keys file = magic | sha256 of the body | body (KeyFile; in it the DataKeyList, wrapped when locked)

The file is replaced whole (written beside, synced, renamed, directory synced), so a kill at
any moment leaves the file before or the file after. Changing the data key takes three steps,
each one such replacement or something that may be repeated:

    begin_rotation   the file holds old and new key; new files are sealed with the new one
    (the shell)      a new segment, a new snapshot, and no file with the old key any more
    retire           the file holds the new key only

A ring that holds more than one key when it is opened was interrupted; the shell goes on.

    KeyRingError
    ├── Locked      wrapped, and no unlock key was given
    └── WrongKey    the unlock key given is not the one
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Callable, Collection
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from google.protobuf.message import DecodeError
from swarmpy.proto import raft_pb2
from swarmpy.raft.journal import ADVICE
from swarmpy.raft.log import LogDamaged, OtherVersion
from swarmpy.raft.seal import KEY_BYTES, DataKeys, owner_bytes
from swarmpy.raft.segment import replace_file

MAGIC = b"SWPYKEY1"
FORMAT = 1
DIGEST_BYTES = 32
NONCE_BYTES = 12
LOCK_ID_BYTES = 4
FILE_NAME = "keys"

At = Callable[[str], None]


class KeyRingError(Exception):
    """The keys are there but cannot be used yet."""


class Locked(KeyRingError):
    def __init__(self, lock_id: bytes) -> None:
        self.lock_id = lock_id
        super().__init__(
            f"this manager is locked (key {lock_id.hex()}): run `swarmpy unlock` on this machine and enter "
            "the key that `swarmpy unlock-key` shows on a manager that runs"
        )


class WrongKey(KeyRingError):
    def __init__(self, wanted: bytes, given: bytes) -> None:
        if wanted == given:
            text = f"the keys of this manager cannot be opened with key {given.hex()}: the file was changed"
        else:
            text = (
                f"this is key {given.hex()}, but this manager was locked with key {wanted.hex()}: if the key "
                "was rotated while this manager was down, enter the one from before"
            )
        super().__init__(text)


def lock_id_of(unlock_key: bytes) -> bytes:
    return (
        hashlib.sha256(b"swarmpy unlock key id|" + unlock_key).digest()[:LOCK_ID_BYTES] if unlock_key else b""
    )


class KeyRing(DataKeys):
    """The keys of the raft directory `directory`. Methods that write block."""

    def __init__(
        self, directory: Path, cluster_id: str, node_id: str, *, unlock_key: bytes = b"",
        at: At = lambda step: None,
    ) -> None:  # fmt: skip
        """Read the file, or make it in an empty directory. KeyRingError, LogDamaged, OSError.

        `at` is called with the name of each step of a write (tests end the process there).
        """
        self.path = directory / FILE_NAME
        self._cluster_id, self._node_id, self._at = cluster_id, node_id, at
        self._unlock_key = b""
        if self.path.exists():
            keys = self._read(unlock_key)
            super().__init__(cluster_id, node_id, {key.id: key.key for key in keys.keys}, keys.current)
            return
        for sealed in (*directory.glob("*.wal"), *directory.glob("*.snapshot")):
            raise LogDamaged(f"{self.path} is missing, and {sealed.name} cannot be read without it. {ADVICE}")
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        super().__init__(cluster_id, node_id, {1: secrets.token_bytes(KEY_BYTES)}, 1)
        self._write(self.keys, self.current, b"")

    @property
    def lock_id(self) -> bytes:
        """Which unlock key the file is wrapped with, b"" when it lies in the clear."""
        return lock_id_of(self._unlock_key)

    @property
    def unlock_key(self) -> bytes:
        return self._unlock_key

    @property
    def rotating(self) -> bool:
        return len(self.keys) > 1

    def lock(self, unlock_key: bytes) -> None:
        """Wrap with another unlock key; b"" = none."""
        self._write(self.keys, self.current, unlock_key)
        self._unlock_key = unlock_key

    def begin_rotation(self, unlock_key: bytes) -> None:
        """A new data key for all files from now on, the file wrapped with `unlock_key` (b"" = not).

        None is made with the new key before it is on disk.
        """
        new = max(self.keys) + 1
        keys = {**self.keys, new: secrets.token_bytes(KEY_BYTES)}
        self._write(keys, new, unlock_key)
        self.keys, self.current, self._unlock_key = keys, new, unlock_key

    def retire(self, in_use: Collection[int]) -> None:
        """Forget the keys that no file needs."""
        keep = {
            key_id: key for key_id, key in self.keys.items() if key_id in in_use or key_id == self.current
        }
        if keep != self.keys:
            self._write(keep, self.current, self._unlock_key)
            self.keys = keep

    # -- the file

    def _bound(self, lock_id: bytes) -> bytes:
        return b"swarmpy keys 1|" + owner_bytes(self._cluster_id, self._node_id) + lock_id

    def _write(self, keys: dict[int, bytes], current: int, unlock_key: bytes) -> None:
        listed = [raft_pb2.DataKey(id=key_id, key=key) for key_id, key in sorted(keys.items())]
        body = raft_pb2.DataKeyList(keys=listed, current=current).SerializeToString()
        lock_id = lock_id_of(unlock_key)
        if unlock_key:
            nonce = os.urandom(NONCE_BYTES)
            body = nonce + AESGCM(unlock_key).encrypt(nonce, body, self._bound(lock_id))
        file = raft_pb2.KeyFile(
            format=FORMAT, cluster_id=self._cluster_id, node_id=self._node_id,
            locked=bool(unlock_key), lock_id=lock_id, keys=body,
        ).SerializeToString()  # fmt: skip
        replace_file(self.path, MAGIC + hashlib.sha256(file).digest() + file, self._at)

    def _read(self, unlock_key: bytes) -> raft_pb2.DataKeyList:
        file = read_key_file(self.path)
        if (file.cluster_id, file.node_id) != (self._cluster_id, self._node_id):
            raise LogDamaged(
                f"{self.path}: the keys of node {file.node_id} of cluster {file.cluster_id}, not of "
                f"{self._node_id}: is the state directory another node's?"
            )
        body = file.keys
        if file.locked:
            if not unlock_key:
                raise Locked(file.lock_id)
            try:
                body = AESGCM(unlock_key).decrypt(
                    body[:NONCE_BYTES], body[NONCE_BYTES:], self._bound(file.lock_id)
                )
            except InvalidTag:
                raise WrongKey(file.lock_id, lock_id_of(unlock_key)) from None
            self._unlock_key = unlock_key
        try:
            keys = raft_pb2.DataKeyList.FromString(body)
        except DecodeError as error:
            raise LogDamaged(f"{self.path}: cannot be read ({error}). {ADVICE}") from error
        if not any(key.id == keys.current for key in keys.keys) or any(
            len(key.key) != KEY_BYTES or not key.id for key in keys.keys
        ):
            raise LogDamaged(f"{self.path}: holds no usable keys. {ADVICE}")
        return keys


def read_key_file(path: Path) -> raft_pb2.KeyFile:
    """The file's outside, whether it is locked or not. LogDamaged, OSError."""
    data = path.read_bytes()
    begin = len(MAGIC) + DIGEST_BYTES
    body = data[begin:]
    if data[: len(MAGIC)] != MAGIC or data[len(MAGIC) : begin] != hashlib.sha256(body).digest():
        raise LogDamaged(f"{path}: not a key file or damaged. {ADVICE}")
    file = raft_pb2.KeyFile.FromString(body)
    if file.format != FORMAT:
        raise OtherVersion(f"{path} has format {file.format}, this version reads {FORMAT}")
    return file
