"""What services that pass calls on to agents share: a stream with its first message back, a refusal."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, NoReturn

import grpc
from swarmpy.node.manager.errors import ManagerError


async def after(first: Any, more: AsyncIterator[Any]) -> AsyncIterator[Any]:
    """`first`, then the rest of the stream it was taken from."""
    yield first
    async for message in more:
        yield message


async def abort(context: grpc.aio.ServicerContext[Any, Any], error: ManagerError) -> NoReturn:
    """End the call with what the error says."""
    await context.abort(error.code, str(error))
    raise AssertionError from error
