"""One call to a manager with the certificate in a directory; prints the status it is answered.

python cluster_caller.py CERTS ADDRESS MANAGER_ID control|attach
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
from swarmpy.node.ca import tls
from swarmpy.node.ca.identity import Identity
from swarmpy.proto import control_pb2, control_pb2_grpc, dispatcher_pb2, dispatcher_pb2_grpc


async def main(certs: str, address: str, manager_id: str, what: str) -> None:
    channel = tls.channel(address, manager_id, Identity.load(Path(certs)))

    async def hello() -> AsyncIterator[dispatcher_pb2.AgentMessage]:
        yield dispatcher_pb2.AgentMessage(hello=dispatcher_pb2.Hello())
        await asyncio.sleep(5)

    try:
        if what == "control":
            await control_pb2_grpc.ControlStub(channel).Status(control_pb2.StatusRequest(), timeout=5)
        else:
            call = dispatcher_pb2_grpc.DispatcherStub(channel).Attach(hello(), timeout=5)
            await call.read()
            await call.code()
        print("OK")
    except grpc.aio.AioRpcError as error:
        print(error.code().name, error.details())
    finally:
        await channel.close(None)


asyncio.run(main(*sys.argv[1:]))
