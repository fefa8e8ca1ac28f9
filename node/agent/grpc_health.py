"""Just enough of HTTP/2 to ask one question of grpc.health.v1.Health/Check, as bytes. Pure.

The request is three frames. Of the answer only two things matter: the message's first field, and
where there is no message the number in `grpc-status`. Header names and values are compared as they
travel, plain or in HPACK's static Huffman code, so that no decoder of texts is needed; header tables
are kept only as far as an answer on a fresh connection can refer to them. Clear text only, as probes of
a container's own port are.
"""

from __future__ import annotations

from dataclasses import dataclass, field

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, CONTINUATION = 0, 1, 3, 4, 6, 7, 9
END_STREAM, ACK, END_HEADERS, PADDED, PRIORITY = 0x1, 0x1, 0x4, 0x8, 0x20
FRAME_BYTES_MAX, ANSWER_BYTES_MAX = 1 << 14, 1 << 16
STATIC_ENTRIES = 61
STREAM = 1
SERVING = 1
# "grpc-status" and the numbers 0 to 16, as HPACK's static Huffman code writes them (RFC 7541, appendix B).
STATUS_NAMES = {b"grpc-status", bytes.fromhex("9acac8b21234da8f")}
STATUS_CODES = {str(code).encode(): code for code in range(17)}
CODE_WORDS = {
    2: "the server failed", 5: "it knows no such service", 7: "it does not permit the question",
    12: "it does not serve grpc.health.v1", 14: "it is unavailable", 16: "it asks for credentials",
}  # fmt: skip
SERVING_WORDS = {0: "UNKNOWN", 2: "NOT_SERVING", 3: "SERVICE_UNKNOWN"}


def huffman_digits(text: str) -> bytes:
    """Digits in the static code: 0, 1 and 2 have five bits, 3 to 9 six; filled up with ones."""
    bits = "".join(
        f"{int(digit):05b}" if digit in "012" else f"{0x19 + int(digit) - 3:06b}" for digit in text
    )
    bits += "1" * (-len(bits) % 8)
    return int(bits, 2).to_bytes(len(bits) // 8, "big")


STATUS_CODES |= {huffman_digits(str(code)): code for code in range(17)}


def request(authority: str, service: str) -> bytes:
    """Everything the client says first: preface, settings, headers, one message and the end."""
    name = service.encode()
    if len(name) >= 120:
        raise Broken(f"the service's name has {len(name)} bytes, at most 119")
    message = b"\x0a" + bytes([len(name)]) + name if name else b""
    headers = b"\x83\x86" + b"".join((
        b"\x04", literal("/grpc.health.v1.Health/Check"),
        b"\x01", literal(authority),
        b"\x0f\x10", literal("application/grpc"),
        b"\x00", literal("te"), literal("trailers"),
        b"\x00", literal("user-agent"), literal("swarmpy"),
    ))  # fmt: skip
    body = b"\0" + len(message).to_bytes(4, "big") + message
    return b"".join((
        PREFACE, frame(SETTINGS, 0, 0, b""), frame(HEADERS, END_HEADERS, STREAM, headers),
        frame(DATA, END_STREAM, STREAM, body),
    ))  # fmt: skip


def literal(text: str) -> bytes:
    data = text.encode()
    assert len(data) < 127
    return bytes([len(data)]) + data


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


class Broken(ValueError):
    """The other side does not speak HTTP/2, or not as agreed; says what was wrong."""


@dataclass
class Answer:
    """What has come so far. `failure` is None until it is known: "" = serving."""

    failure: str | None = None
    _rest: bytes = b""
    _seen: int = 0
    _message: bytes = b""
    _block: bytes = b""
    _ends: bool = False
    # Newest first: is it the name grpc-status, and with which number?
    _table: list[tuple[bool, int | None]] = field(default_factory=list)

    def feed(self, data: bytes) -> bytes:
        """Take bytes; what has to be sent back. Raises Broken."""
        self._seen += len(data)
        if self._seen > ANSWER_BYTES_MAX:
            raise Broken(f"the answer has more than {ANSWER_BYTES_MAX} bytes")
        self._rest += data
        reply = b""
        while self.failure is None and len(self._rest) >= 9:
            length = int.from_bytes(self._rest[:3], "big")
            if length > FRAME_BYTES_MAX:
                raise Broken("the answer is not HTTP/2")
            if len(self._rest) < 9 + length:
                break
            kind, flags = self._rest[3], self._rest[4]
            stream = int.from_bytes(self._rest[5:9], "big") & 0x7FFF_FFFF
            payload, self._rest = self._rest[9 : 9 + length], self._rest[9 + length :]
            reply += self._frame(kind, flags, stream, payload)
        return reply

    def _frame(self, kind: int, flags: int, stream: int, payload: bytes) -> bytes:
        if kind == SETTINGS and not flags & ACK:
            return frame(SETTINGS, ACK, 0, b"")
        if kind == PING and not flags & ACK:
            return frame(PING, ACK, 0, payload)
        if kind == GOAWAY and int.from_bytes(payload[:4], "big") & 0x7FFF_FFFF < STREAM:
            raise Broken("the server ended the connection")
        if stream != STREAM:
            return b""
        if kind == RST_STREAM:
            raise Broken(f"the server broke off with HTTP/2 error {int.from_bytes(payload[:4], 'big')}")
        if kind == DATA:
            self._data(unpadded(payload, flags))
            if flags & END_STREAM and self.failure is None:
                raise Broken("the server ended without an answer")
        elif kind in (HEADERS, CONTINUATION):
            if kind == HEADERS:
                payload = unpadded(payload, flags)[5 if flags & PRIORITY else 0 :]
                self._ends = bool(flags & END_STREAM)
            self._block += payload
            if flags & END_HEADERS:
                block, self._block = self._block, b""
                self._headers(block)
        return b""

    def _data(self, payload: bytes) -> None:
        self._message += payload
        if len(self._message) < 5:
            return
        if self._message[0]:
            raise Broken("the answer is compressed")
        length = int.from_bytes(self._message[1:5], "big")
        if len(self._message) >= 5 + length:
            status = serving_status(self._message[5 : 5 + length])
            self.failure = "" if status == SERVING else f"it is {SERVING_WORDS.get(status, status)}"

    def _headers(self, block: bytes) -> None:
        code = None
        position = 0
        while position < len(block):
            position, found = self._field(block, position)
            code = found if found is not None else code
        if not self._ends or self.failure is not None:
            return
        if code is None:
            raise Broken("the answer is not one of a gRPC server")
        if code == 0:
            raise Broken("the server ended without an answer")
        self.failure = f"gRPC status {code}" + (f": {CODE_WORDS[code]}" if code in CODE_WORDS else "")

    def _field(self, block: bytes, position: int) -> tuple[int, int | None]:
        """One header field: where the next begins, and the code where it is grpc-status."""
        first = block[position]
        if first & 0x80:
            index, position = integer(block, position, 7)
            return position, self._entry(index)[1]
        if first & 0xE0 == 0x20:
            _, position = integer(block, position, 5)
            return position, None
        indexed = bool(first & 0x40)
        index, position = integer(block, position, 6 if indexed else 4)
        if index:
            is_status = self._entry(index)[0]
        else:
            name, position = string(block, position)
            is_status = name in STATUS_NAMES
        value, position = string(block, position)
        code = STATUS_CODES.get(value) if is_status else None
        if indexed:
            self._table.insert(0, (is_status, code))
        return position, code

    def _entry(self, index: int) -> tuple[bool, int | None]:
        if index <= STATIC_ENTRIES:
            return False, None
        if index - STATIC_ENTRIES > len(self._table):
            raise Broken("the answer's headers are not valid")
        return self._table[index - STATIC_ENTRIES - 1]


def unpadded(payload: bytes, flags: int) -> bytes:
    if not flags & PADDED:
        return payload
    if not payload or payload[0] >= len(payload):
        raise Broken("the answer's padding is not valid")
    return payload[1 : len(payload) - payload[0]]


def integer(block: bytes, position: int, bits: int) -> tuple[int, int]:
    """HPACK's integer with a prefix of `bits`, and where it ends."""
    mask = (1 << bits) - 1
    value = block[position] & mask
    position += 1
    if value < mask:
        return value, position
    for shift in range(0, 28, 7):
        if position >= len(block):
            break
        byte = block[position]
        position += 1
        value += (byte & 0x7F) << shift
        if not byte & 0x80:
            return value, position
    raise Broken("the answer's headers are not valid")


def string(block: bytes, position: int) -> tuple[bytes, int]:
    """A string as it travels, and where it ends."""
    if position >= len(block):
        raise Broken("the answer's headers are not valid")
    length, position = integer(block, position, 7)
    if position + length > len(block):
        raise Broken("the answer's headers are not valid")
    return block[position : position + length], position + length


def serving_status(message: bytes) -> int:
    """HealthCheckResponse.status, its first field; 0 where it is not set."""
    return message[1] if len(message) >= 2 and message[0] == 0x08 else 0
