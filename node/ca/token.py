"""Join tokens: `SWMPY-1-<fingerprint>-<secret>`. Pure.

The first part is the SHA-256 of the cluster's root certificate in base 36 (50
digits): it lets a joining node check whom it talks to before it says anything
secret. The second part is 128 random bits in base 36 (25 digits); which of the
cluster's two secrets it equals decides the role, else it is of a temporary
token (manager/tokens). Errors never repeat the token.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass, field

from swarmpy.node.ca.errors import BadToken

PREFIX = "SWMPY-1"
PIN_DIGITS = 50
SECRET_DIGITS = 25
SECRET_BYTES = 16
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
_HOW = "copy the whole line that `swarmpy token worker` or `swarmpy token manager` prints"


@dataclass(frozen=True)
class JoinToken:
    """The root's fingerprint (32 bytes) and the secret (25 base-36 digits)."""

    root_sha256: bytes
    secret: str = field(repr=False)

    def __str__(self) -> str:
        return f"{PREFIX}-{_base36(int.from_bytes(self.root_sha256, 'big'), PIN_DIGITS)}-{self.secret}"

    def has_secret(self, secret: str) -> bool:
        """Whether the secrets are equal, in time independent of where they differ."""
        return bool(secret) and hmac.compare_digest(self.secret.encode(), secret.encode())

    @staticmethod
    def parse(text: str) -> JoinToken:
        """Read a token. Raises BadToken."""
        text = text.strip()
        if text.startswith("SWMTKN-"):
            raise BadToken(f"this is a join token of Docker Swarm, not of swarmpy; {_HOW}")
        if not text.startswith(PREFIX + "-"):
            raise BadToken(f"a join token starts with {PREFIX}-; {_HOW}")
        parts = text.removeprefix(PREFIX + "-").split("-")
        if len(parts) != 2:
            raise BadToken(f"a join token has two parts after {PREFIX}-, this one has {len(parts)}; {_HOW}")
        pin, secret = parts
        for part, name, length in ((pin, "fingerprint", PIN_DIGITS), (secret, "secret", SECRET_DIGITS)):
            if len(part) != length:
                raise BadToken(f"the join token's {name} has {len(part)} characters, not {length}; {_HOW}")
            if not all(digit in _DIGITS for digit in part):
                raise BadToken(f"the join token's {name} has characters other than 0-9 and a-z; {_HOW}")
        number = int(pin, 36)
        if number >= 1 << 256:
            raise BadToken(f"the join token's fingerprint is out of range; {_HOW}")
        return JoinToken(number.to_bytes(32, "big"), secret)


def new_secret(random_bytes: bytes) -> str:
    """The secret part of a token from 16 random bytes."""
    assert len(random_bytes) == SECRET_BYTES
    return _base36(int.from_bytes(random_bytes, "big"), SECRET_DIGITS)


def secret_sha256(secret: str) -> bytes:
    """What the state holds of a temporary token's secret."""
    return hashlib.sha256(secret.encode()).digest()


def _base36(number: int, length: int) -> str:
    digits = []
    for _ in range(length):
        number, digit = divmod(number, 36)
        digits.append(_DIGITS[digit])
    assert number == 0
    return "".join(reversed(digits))
