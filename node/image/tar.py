"""A reader of tar streams with a bound on everything, for input that nobody vouches for.

Reads ustar, GNU (long names, base-256 numbers) and pax; yields entries in order,
each readable until the next is asked for. Knows no file system: names are only
text here. Sparse and multi-volume entries are refused, not guessed at.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from swarmpy.node.image.compression import CHUNK, Stream
from swarmpy.node.image.errors import ArchiveDamaged, ArchiveHostile, Unsupported

BLOCK = 512
META_BYTES_MAX = 1024 * 1024
NAME_LENGTH_MAX = 4096
_KINDS = {
    b"0": "file", b"\0": "file", b"7": "file", b"1": "hardlink", b"2": "symlink", b"3": "char",
    b"4": "block", b"5": "directory", b"6": "fifo",
}  # fmt: skip
_XATTR = "SCHILY.xattr."


@dataclass
class Entry:
    name: str
    kind: str  # file hardlink symlink char block directory fifo
    size: int = 0
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    mtime: float = 0.0
    link: str = ""
    xattrs: dict[str, bytes] = field(default_factory=dict)


class TarReader:
    """Iterate over entries(); read() gives the data of the entry last yielded."""

    def __init__(self, stream: Stream, what: str, *, entries_max: int) -> None:
        self._stream = stream
        self._what = what
        self._entries_max = entries_max
        self._left = 0  # bytes of the current entry not read yet
        self._padding = 0
        self._global: dict[str, str] = {}

    def entries(self) -> Iterator[Entry]:
        count = 0
        while (entry := self._next()) is not None:
            count += 1
            if count > self._entries_max:
                raise ArchiveHostile(f"{self._what}: more than {self._entries_max} entries")
            yield entry

    def read(self, size: int = CHUNK) -> bytes:
        """Up to `size` bytes of the current entry, b"" at its end."""
        if not self._left:
            return b""
        data = self._exactly_some(min(size, self._left))
        self._left -= len(data)
        return data

    def _exactly_some(self, size: int) -> bytes:
        data = self._stream.read(size)
        if not data:
            raise ArchiveDamaged(f"{self._what}: the archive ends in the middle of an entry (truncated?)")
        return data

    def _skip_rest(self) -> None:
        left = self._left + self._padding
        self._left = self._padding = 0
        while left:
            left -= len(self._exactly_some(min(left, CHUNK)))

    def _block(self) -> bytes:
        parts = []
        left = BLOCK
        while left and (data := self._stream.read(left)):
            parts.append(data)
            left -= len(data)
        block = b"".join(parts)
        if block and left:
            raise ArchiveDamaged(f"{self._what}: the archive ends inside a header (truncated?)")
        return block

    def _meta(self, size: int) -> bytes:
        if size > META_BYTES_MAX:
            raise ArchiveHostile(f"{self._what}: an extended header of {size} bytes")
        self._left, self._padding = size, -size % BLOCK
        data = b"".join(iter(self.read, b""))
        self._skip_rest()
        return data

    def _next(self) -> Entry | None:
        """The next real entry, with the extended headers before it applied."""
        self._skip_rest()
        long: dict[str, str] = {}
        pax: dict[str, str] = {}
        metas = 0
        while True:
            block = self._block()
            if not block.strip(b"\0"):
                return None
            self._check_sum(block)
            kind = block[156:157]
            size = self._number(block[124:136])
            if kind not in b"LKxg":
                return self._entry(block, kind, size, long, {**self._global, **pax})
            if (metas := metas + 1) > 16:
                raise ArchiveHostile(f"{self._what}: more than 16 extended headers before one entry")
            data = self._meta(size)
            if kind == b"L":
                long["path"] = _text(data)
            elif kind == b"K":
                long["linkpath"] = _text(data)
            elif kind == b"x":
                pax.update(self._pax(data))
            else:
                self._global.update(self._pax(data))
                if sum(len(k) + len(v) for k, v in self._global.items()) > META_BYTES_MAX:
                    raise ArchiveHostile(f"{self._what}: global headers beyond {META_BYTES_MAX} bytes")

    def _entry(
        self, block: bytes, flag: bytes, size: int, long: dict[str, str], pax: dict[str, str]
    ) -> Entry:
        name = _text(block[0:100])
        if block[257:263] == b"ustar\0" and (prefix := _text(block[345:500])):
            name = f"{prefix}/{name}"
        name = pax.get("path") or long.get("path") or name
        if flag == b"S" or any(key.startswith("GNU.sparse.") for key in pax):
            raise Unsupported(f"{self._what}: {name!r} is a sparse entry; rebuild the image without --sparse")
        kind = _KINDS.get(flag)
        if kind is None:
            raise Unsupported(f"{self._what}: {name!r} is an entry of the unknown type {flag!r}")
        if kind == "file" and name.endswith("/") and flag == b"\0":
            kind = "directory"
        if "size" in pax:
            size = self._decimal(pax["size"])
        entry = Entry(
            name=name,
            kind=kind,
            size=size if kind == "file" else 0,
            mode=self._number(block[100:108]) & 0o7777,
            uid=self._decimal(pax["uid"]) if pax.get("uid") else self._number(block[108:116]),
            gid=self._decimal(pax["gid"]) if pax.get("gid") else self._number(block[116:124]),
            mtime=self._time(pax["mtime"]) if pax.get("mtime") else float(self._number(block[136:148], True)),
            link=pax.get("linkpath") or long.get("linkpath") or _text(block[157:257]),
            xattrs={
                key.removeprefix(_XATTR): value.encode("utf-8", "surrogateescape")
                for key, value in pax.items()
                if key.startswith(_XATTR)
            },
        )
        for text in (entry.name, entry.link):
            if "\0" in text or len(text) > NAME_LENGTH_MAX:
                raise ArchiveDamaged(f"{self._what}: {text[:64]!r}… is too long a name or has a zero byte")
        self._left, self._padding = entry.size, -entry.size % BLOCK
        return entry

    def _check_sum(self, block: bytes) -> None:
        # Nothing else of a header is worth a word before this: a number in noise says nothing.
        digits = block[148:156].strip(b" \0")
        stored = int(digits, 8) if re.fullmatch(rb"[0-7]+", digits) else -1
        if sum(block) - sum(block[148:156]) + 8 * 32 != stored:
            raise ArchiveDamaged(f"{self._what}: this is no tar archive, or a header of it is damaged")

    def _number(self, data: bytes, signed: bool = False) -> int:
        if data[0] & 0x80:
            value = int.from_bytes(data, "big", signed=True)
            if data[0] == 0x80:
                value = int.from_bytes(data[1:], "big")
        else:
            digits = data.strip(b" \0")
            try:
                value = int(digits, 8) if digits else 0
            except ValueError:
                raise ArchiveDamaged(
                    f"{self._what}: this is no tar archive, or a header of it is damaged ({data!r})"
                ) from None
        if not signed and not 0 <= value < 1 << 63:
            raise ArchiveDamaged(f"{self._what}: {value} is out of range in a header")
        return value

    def _decimal(self, text: str) -> int:
        if not text.isascii() or not text.isdigit() or len(text) > 19:
            raise ArchiveDamaged(f"{self._what}: {text[:32]!r} is no number in an extended header")
        return int(text)

    def _time(self, text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise ArchiveDamaged(f"{self._what}: {text[:32]!r} is no time in an extended header") from None
        return value if abs(value) < 1 << 40 else 0.0

    def _pax(self, data: bytes) -> dict[str, str]:
        """Records "LENGTH key=value\\n"; an empty value unsets the key."""
        records: dict[str, str] = {}
        position = 0
        while position < len(data) and data[position] != 0:
            space = data.find(b" ", position, position + 20)
            length = data[position:space] if space > 0 else b""
            end = position + int(length) if length.isdigit() else 0
            key, equals, value = data[space + 1 : end - 1].partition(b"=")
            if not position < end <= len(data) or data[end - 1 : end] != b"\n" or not equals or not key:
                raise ArchiveDamaged(f"{self._what}: a damaged extended header")
            records[key.decode("utf-8", "surrogateescape")] = value.decode("utf-8", "surrogateescape")
            position = end
        return records


def _text(data: bytes) -> str:
    return data.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")
