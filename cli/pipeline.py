"""Several writes of one command at once, on one stream (Control.Write) instead of call after call.

Each write keeps its own request id, answer and error. One that got no certain answer on the stream (the
leader changed, the connection broke, an older manager does not know the stream) is asked for again as a call
of its own, by the same request id, so that it still happens at most once.
Imported only by commands that run, because it loads grpc and protobuf.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import grpc
from swarmpy.cli.client import KINDS, RETRY_CODES, WRITE_ATTEMPT_S, meaning_of, new_request_id
from swarmpy.cli.errors import CliError
from swarmpy.proto import control_pb2

if TYPE_CHECKING:
    from swarmpy.cli.client import Client

CALLS_PER_MESSAGE = 100
CODES = {code.value[0]: code for code in grpc.StatusCode}
# The manager answered, but asking again can help.
AGAIN = {*RETRY_CODES, grpc.StatusCode.UNKNOWN}


def removals(client: Client, kind: str, refs: Sequence[str], *, force: bool = False) -> Callable[[str], Any]:
    """`remove(ref)` for each of `refs`, as `client.delete`; where there are several they are sent together.

    Nothing is sent before the first `remove`.
    """
    outcomes: dict[str, list[control_pb2.WriteResponse | CliError]] = defaultdict(list)

    def remove(ref: str) -> Any:
        if len(refs) < 2 or client.planning:
            return client.delete(kind, ref, force=force)
        if not outcomes:
            requests = [
                control_pb2.DeleteRequest(
                    kind=KINDS[kind], ref=each, force=force, request_id=new_request_id()
                )
                for each in refs
            ]
            for each, found in zip(refs, write_many(client, "Delete", requests), strict=True):
                outcomes[each].append(found)
        if not outcomes[ref]:  # named twice
            return client.delete(kind, ref, force=force)
        outcome = outcomes[ref].pop(0)
        if isinstance(outcome, CliError):
            raise outcome
        return outcome

    return remove


def write_many(
    client: Client, method: str, requests: Sequence[Any]
) -> list[control_pb2.WriteResponse | CliError]:
    """The answer or the error of each, in their order."""
    client.only_now("change anything")
    answers = _streamed(client, method, requests)
    outcomes: list[control_pb2.WriteResponse | CliError] = []
    for number, request in enumerate(requests):
        answer = answers.get(number)
        code = grpc.StatusCode.UNAVAILABLE
        if answer is not None:
            code = CODES.get(answer.code, grpc.StatusCode.UNKNOWN)
        try:
            if answer is None or code in AGAIN:
                outcomes.append(client.write(method, request))
            elif code is grpc.StatusCode.OK:
                outcomes.append(client.accept(answer.response))
            else:
                outcomes.append(meaning_of(code, answer.details))
        except CliError as error:
            outcomes.append(error)
    return outcomes


def _streamed(client: Client, method: str, requests: Sequence[Any]) -> dict[int, control_pb2.WriteAnswer]:
    """What one manager answered, by the request's place."""

    def messages() -> Iterator[control_pb2.WriteCalls]:
        for first in range(0, len(requests), CALLS_PER_MESSAGE):
            calls = [
                control_pb2.WriteCall(
                    number=first + place, timeout_ms=int(WRITE_ATTEMPT_S * 1000), **{method.lower(): request}
                )
                for place, request in enumerate(requests[first : first + CALLS_PER_MESSAGE])
            ]
            yield control_pb2.WriteCalls(calls=calls)

    for request in requests:
        request.check_index = client.check_index
    answers: dict[int, control_pb2.WriteAnswer] = {}
    client.reach()
    call = client.stub().Write(messages(), timeout=WRITE_ATTEMPT_S)
    try:
        for message in call:
            answers.update((answer.number, answer) for answer in message.answers)
    except grpc.RpcError:
        client.next_host()
    finally:
        call.cancel()
    return answers
