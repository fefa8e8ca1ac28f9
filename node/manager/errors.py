"""Refusals of the manager, each with the gRPC status it becomes.

ManagerError
├── NotLeading        UNAVAILABLE          another manager leads, or none does
│   └── Moving                             so because the lead is on its way elsewhere; nothing was done
├── NotFound          NOT_FOUND
├── Taken             ALREADY_EXISTS       name or port in use
├── Conflict          ABORTED              the object changed since it was read
├── Invalid           INVALID_ARGUMENT     the sentence names the field
├── Refused           FAILED_PRECONDITION  would do harm now, says what to do first
├── Forbidden         PERMISSION_DENIED
├── WrongToken        UNAUTHENTICATED      a join token that is unknown, expired or used up
├── Gone              OUT_OF_RANGE         a watch asks for, or fell behind, what is no longer kept: list again
└── Unknown           UNKNOWN              the outcome of a write is not known: look before you retry
"""

from __future__ import annotations

import grpc

REFUSED_KEY = "swarmpy-refused"
REFUSED = (
    (REFUSED_KEY, "1"),
)  # in the trailing metadata: a manager said so, and not the network or a dying process


class ManagerError(Exception):
    """Base; `code` is the gRPC status, str(error) a sentence for people."""

    code = grpc.StatusCode.INTERNAL


class NotLeading(ManagerError):
    code = grpc.StatusCode.UNAVAILABLE


class Moving(NotLeading):
    """Whoever waits a moment can be answered by the next leader."""


class NotFound(ManagerError):
    code = grpc.StatusCode.NOT_FOUND


class Taken(ManagerError):
    code = grpc.StatusCode.ALREADY_EXISTS


class Conflict(ManagerError):
    code = grpc.StatusCode.ABORTED


class Invalid(ManagerError):
    code = grpc.StatusCode.INVALID_ARGUMENT


class Refused(ManagerError):
    code = grpc.StatusCode.FAILED_PRECONDITION


class Forbidden(ManagerError):
    code = grpc.StatusCode.PERMISSION_DENIED


class WrongToken(ManagerError):
    code = grpc.StatusCode.UNAUTHENTICATED


class Gone(ManagerError):
    code = grpc.StatusCode.OUT_OF_RANGE


class Unknown(ManagerError):
    code = grpc.StatusCode.UNKNOWN


class QueryFailed(ValueError):
    """What was asked outside the cluster gave no number; the message says why."""


BY_RESULT: dict[str, type[ManagerError]] = {
    "CONFLICT": Conflict, "NAME_TAKEN": Taken, "EXISTS": Taken, "NOT_FOUND": NotFound,
    "STALE_EPOCH": NotLeading, "INVALID": Invalid,
}  # fmt: skip
