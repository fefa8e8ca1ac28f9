"""What chaos found about passing calls on: a manager that the leader turns away is not a user without rights."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from swarmpy.node.manager.errors import REFUSED, NotLeading
from swarmpy.node.manager.proxy import Proxy
from swarmpy.proto import control_pb2, control_pb2_grpc, store_pb2

LEADER = "leader"


class Refusing(control_pb2_grpc.ControlServicer):
    """A leader that says no: as its door does, or as Control does."""

    def __init__(self, *, marked: bool) -> None:
        self._marked = marked

    async def Get(self, request: Any, context: Any) -> Any:
        await context.abort(grpc.StatusCode.PERMISSION_DENIED, "no", REFUSED if self._marked else ())


async def refusal(*, marked: bool) -> Exception:
    server = grpc.aio.server()
    control_pb2_grpc.add_ControlServicer_to_server(Refusing(marked=marked), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()

    async def never(_leader_id: str) -> None:
        await asyncio.Event().wait()

    leader: Any = SimpleNamespace(
        known_leader=LEADER, until_moved=never, raft=SimpleNamespace(node_id="other")
    )
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            channels: Any = SimpleNamespace(manager=lambda _node_id: channel)
            request = control_pb2.GetRequest(kind=store_pb2.KIND_SERVICE, ref="web")
            with pytest.raises((NotLeading, grpc.aio.AioRpcError)) as caught:
                await Proxy(leader, channels).unary("Get", request, "root", 5)
            return caught.value
    finally:
        await server.stop(None)


def test_what_the_leader_refuses_the_user_stays_a_refusal() -> None:
    error = asyncio.run(refusal(marked=True))
    assert isinstance(error, grpc.aio.AioRpcError)
    assert error.code() is grpc.StatusCode.PERMISSION_DENIED


def test_a_manager_that_is_turned_away_sends_the_user_to_another_one() -> None:
    assert isinstance(asyncio.run(refusal(marked=False)), NotLeading)
