"""The errors of identity and joining. Each message says what, where and what to do.

CaError
├── InvalidRequest      a signing request or an id that must not become a certificate
├── BadCertificate      a certificate that is not one of a node of this cluster
├── BadToken            a string that is no join token
├── BadIdentity         certificate files missing, damaged or not belonging together
├── ListenError         an address that cannot be bound
└── JoinError           the cluster was not joined
    ├── WrongToken      the manager refuses the secret
    ├── PinMismatch     the server is not of the cluster the token names
    ├── Refused         the manager refuses for another reason
    └── Unreachable     no answer; has `address` and `reason`
"""

from __future__ import annotations


class CaError(Exception):
    """Anything this package refuses."""


class InvalidRequest(CaError):
    """The signing request, id or address must not become part of a certificate."""


class BadCertificate(CaError):
    """Not a certificate of a node of a cluster."""


class BadToken(CaError):
    """Not a join token."""


class BadIdentity(CaError):
    """The node's certificate files cannot be used."""


class ListenError(CaError):
    """The address cannot be bound."""


class JoinError(CaError):
    """The node did not become part of the cluster."""


class WrongToken(JoinError):
    """The manager does not know the secret of the token."""


class PinMismatch(JoinError):
    """No certificate shown by the server has the token's fingerprint."""


class Refused(JoinError):
    """The manager answered and said no."""


class Unreachable(JoinError):
    """Nothing usable answered at `address`."""

    def __init__(self, address: str, reason: str) -> None:
        super().__init__(
            f"cannot reach a manager at {address}: {reason}; check the address, that the daemon runs there, "
            "and that no firewall blocks the join port (7376/tcp by default)"
        )
        self.address = address
        self.reason = reason
