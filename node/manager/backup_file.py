"""A backup as a file: a header anybody can read, then the state of the store, sealed.

    magic | length | BackupHeader | chunk* ;  chunk = length with the top bit on the last | body

With a key, a body is AES-256-GCM under the file's own key (HKDF of the key and the header's
random salt), the nonce the chunk's number; the header, the number and whether it is the last
one are authenticated, so nothing can be changed, reordered, cut off or added. The key comes
from a passphrase by scrypt, or is the cluster's backup key. Without a key a body ends in a
checksum over the same, which shows damage but no forgery.

Errors, each a sentence that names the file:
    BackupError
    ├── NotABackup     another kind of file, or of a newer version
    ├── KeyNeeded      it is sealed: says with what
    ├── WrongKey       the passphrase or key is another one
    └── BackupDamaged  not what was written
"""

from __future__ import annotations

import base64
import hashlib
import os
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from google.protobuf.message import DecodeError
from swarmpy.proto import recovery_pb2

FORMAT = 1
MAGIC = b"SWPYBAK1"
LENGTH = struct.Struct(">I")
NUMBER = struct.Struct(">QB")
LAST = 1 << 31
CHUNK_BYTES = 1 << 20
TAG_BYTES = 16
KEY_BYTES = 32
SALT_BYTES = 32
HEADER_BYTES_MAX = 64 * 1024
KEY_PREFIX = "SWMBKP-1-"
LOG2_N, LOG2_N_MAX, SCRYPT_R, SCRYPT_P = 17, 20, 8, 1


class BackupError(Exception):
    """The file cannot be used as asked."""


class NotABackup(BackupError):
    pass


class KeyNeeded(BackupError):
    pass


class WrongKey(BackupError):
    pass


class BackupDamaged(BackupError):
    pass


@dataclass(frozen=True)
class Secret:
    """What opens or seals a backup: a passphrase, the cluster's backup key, or neither (plain)."""

    passphrase: bytes = field(default=b"", repr=False)
    cluster_key: bytes = field(default=b"", repr=False)

    def __bool__(self) -> bool:
        return bool(self.passphrase or self.cluster_key)


def new_key() -> bytes:
    return os.urandom(KEY_BYTES)


def key_text(key: bytes) -> str:
    """The form in which people keep the cluster's backup key."""
    return KEY_PREFIX + base64.b32encode(key).decode().rstrip("=").lower()


def key_of_text(text: str) -> bytes:
    """Raises WrongKey for what is no backup key."""
    word = text.strip()
    body = word.removeprefix(KEY_PREFIX).upper()
    try:
        key = base64.b32decode(body + "=" * (-len(body) % 8))
    except ValueError:
        key = b""
    if not word.startswith(KEY_PREFIX) or len(key) != KEY_BYTES:
        raise WrongKey(f"that is no backup key: it begins with {KEY_PREFIX} and has 52 characters after that")
    return key


def key_id(key: bytes) -> bytes:
    return hashlib.sha256(b"swarmpy backup key id" + key).digest()[:8]


def write(file: BinaryIO, header: recovery_pb2.BackupHeader, chunks: Iterable[bytes], secret: Secret) -> int:
    """Write a whole backup; returns its size. The caller makes the file durable and names it."""
    header.format = FORMAT
    header.salt = os.urandom(SALT_BYTES)
    if secret.passphrase:
        header.passphrase.CopyFrom(
            recovery_pb2.BackupPassphrase(salt=os.urandom(SALT_BYTES), log2_n=LOG2_N, r=SCRYPT_R, p=SCRYPT_P)
        )
    elif secret.cluster_key:
        header.cluster_key_id = key_id(secret.cluster_key)
    keys = _keys(header, secret)
    header.key_check = keys[1]
    head = header.SerializeToString(deterministic=True)
    seal = _Seal(keys[0], head)
    size = file.write(MAGIC + LENGTH.pack(len(head)) + head)
    number, waiting = 0, b""
    for chunk in _recut(chunks):
        if number or waiting:
            size += _put(file, seal.close(number, waiting, last=False), last=False)
            number += 1
        waiting = chunk
    return size + _put(file, seal.close(number, waiting, last=True), last=True)


def read_header(file: BinaryIO, name: str) -> recovery_pb2.BackupHeader:
    """The header at the file's beginning, not yet verified. NotABackup."""
    return _read_head(file, name)[0]


def read(file: BinaryIO, name: str, secret: Secret) -> tuple[recovery_pb2.BackupHeader, Iterator[bytes]]:
    """The header and the state's bytes; believe neither before the iterator has ended.

    Raises KeyNeeded, WrongKey at once; BackupDamaged also while iterating.
    """
    header, head = _read_head(file, name)
    kind = header.WhichOneof("key")
    if kind == "passphrase" and not secret.passphrase:
        raise KeyNeeded(f"{name} is sealed with a passphrase: give it with --passphrase-file")
    if kind == "cluster_key_id" and not secret.cluster_key:
        raise KeyNeeded(f"{name} is sealed with the cluster's backup key: give it with --key-file")
    if kind is None:
        secret = Secret()
    key, check = _keys(header, secret)
    if check != header.key_check:
        word = "passphrase" if kind == "passphrase" else "backup key"
        raise WrongKey(f"{name} was sealed with another {word}")
    return header, _bodies(file, name, _Seal(key, head))


def _read_head(file: BinaryIO, name: str) -> tuple[recovery_pb2.BackupHeader, bytes]:
    start = file.read(len(MAGIC) + LENGTH.size)
    if len(start) < len(MAGIC) + LENGTH.size or start[: len(MAGIC)] != MAGIC:
        raise NotABackup(f"{name} is not a swarmpy backup")
    (length,) = LENGTH.unpack(start[len(MAGIC) :])
    head = file.read(length) if length <= HEADER_BYTES_MAX else b""
    header = recovery_pb2.BackupHeader()
    try:
        if len(head) != length:
            raise DecodeError("cut off")
        header.ParseFromString(head)
    except DecodeError as error:
        raise BackupDamaged(f"{name} is damaged in its header: take another backup") from error
    if header.format != FORMAT:
        raise NotABackup(f"{name} has format {header.format}, this version reads {FORMAT}: upgrade swarmpy")
    return header, head


def _keys(header: recovery_pb2.BackupHeader, secret: Secret) -> tuple[bytes, bytes]:
    """The file's own key and what shows that it is the right one; empty without a secret."""
    if secret.passphrase:
        cost = header.passphrase
        if not 10 <= cost.log2_n <= LOG2_N_MAX or cost.r != SCRYPT_R or cost.p != SCRYPT_P:
            raise BackupDamaged("the header asks for an impossible effort: it is damaged or forged")
        scrypt = Scrypt(salt=cost.salt, length=KEY_BYTES, n=1 << cost.log2_n, r=cost.r, p=cost.p)
        master = scrypt.derive(secret.passphrase)
    elif secret.cluster_key:
        master = secret.cluster_key
    else:
        return b"", b""
    both = HKDF(hashes.SHA256(), KEY_BYTES + TAG_BYTES, header.salt, b"swarmpy backup 1").derive(master)
    return both[:KEY_BYTES], both[KEY_BYTES:]


class _Seal:
    """Closes and opens bodies; with an empty key it only adds checksums."""

    def __init__(self, key: bytes, head: bytes) -> None:
        self._cipher = AESGCM(key) if key else None
        self._head = hashlib.sha256(head).digest()

    def close(self, number: int, body: bytes, *, last: bool) -> bytes:
        bound = self._head + NUMBER.pack(number, last)
        if self._cipher is None:
            return body + hashlib.sha256(bound + body).digest()[:TAG_BYTES]
        return self._cipher.encrypt(number.to_bytes(12, "big"), body, bound)

    def open(self, number: int, closed: bytes, *, last: bool) -> bytes | None:
        bound = self._head + NUMBER.pack(number, last)
        if self._cipher is None:
            body = closed[:-TAG_BYTES]
            return body if hashlib.sha256(bound + body).digest()[:TAG_BYTES] == closed[-TAG_BYTES:] else None
        try:
            return self._cipher.decrypt(number.to_bytes(12, "big"), closed, bound)
        except InvalidTag:
            return None


def _bodies(file: BinaryIO, name: str, seal: _Seal) -> Iterator[bytes]:
    number, last = 0, False
    while not last:
        prefix = file.read(LENGTH.size)
        (word,) = LENGTH.unpack(prefix) if len(prefix) == LENGTH.size else (0,)
        last, length = bool(word & LAST), word & ~LAST
        closed = file.read(length) if TAG_BYTES <= length <= CHUNK_BYTES + TAG_BYTES else b""
        body = seal.open(number, closed, last=last) if closed and len(closed) == length else None
        if body is None:
            raise BackupDamaged(
                f"{name} is damaged or cut off at chunk {number}: it cannot be used, take another backup"
            )
        yield body
        number += 1
    if file.read(1):
        raise BackupDamaged(f"{name} goes on after its end: it cannot be used, take another backup")


def _recut(chunks: Iterable[bytes]) -> Iterator[bytes]:
    for chunk in chunks:
        for start in range(0, len(chunk), CHUNK_BYTES):
            yield chunk[start : start + CHUNK_BYTES]


def _put(file: BinaryIO, closed: bytes, *, last: bool) -> int:
    return file.write(LENGTH.pack(len(closed) | (LAST if last else 0)) + closed)


def save(
    path: Path, header: recovery_pb2.BackupHeader, chunks: Iterable[bytes], secret: Secret, *, replace: bool
) -> int:
    """A backup under `path`, mode 0600, there only when whole and durable. OSError, FileExistsError."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            size = write(file, header, chunks, secret)
            file.flush()
            os.fsync(file.fileno())
        if replace:
            temporary.rename(path)
        else:
            os.link(temporary, path)
        _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)
    return size


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
