"""The client of bench/failover.py: a write every 10 ms, and the time of each acknowledgement on stdout.

WRITERS writers take turns, each with an object of its own, so that a write that waits for a leader does not
keep the next from being tried. A writer whose write fails or is not acknowledged within ATTEMPT_S goes to
the next address at once. The same code, transport (gRPC over HTTP/2) and pace for both sides.

`python -m bench.writer etcd|swarmpy ADDRESS…`: prints the CLOCK_MONOTONIC time at which each acknowledged
write was begun and acknowledged, a pair a line, until stdin ends.
"""

from __future__ import annotations

import asyncio
import sys
import time
import uuid
from typing import Protocol

import grpc
from swarmpy.proto import control_pb2, control_pb2_grpc, objects_pb2, store_pb2

from bench import etcd

WRITERS = 40
PERIOD_S = 0.01
ATTEMPT_S = 1.0
RETRY_PAUSE_S = 0.01
OPTIONS = [
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 200),
    ("grpc.enable_retries", 0),
]


class Target(Protocol):
    """One writer's object."""

    async def write(self, channel: grpc.aio.Channel, value: str) -> None: ...


class EtcdKey:
    """A key of etcd's."""

    def __init__(self, number: int) -> None:
        self._key = f"bench-{number}".encode()

    async def write(self, channel: grpc.aio.Channel, value: str) -> None:
        await asyncio.wait_for(etcd.put(channel, self._key, value.encode()), ATTEMPT_S)


class ServiceLabel:
    """A label of a service without replicas. The service must exist."""

    def __init__(self, number: int) -> None:
        self._name = f"bench-{number}"
        self._service: objects_pb2.Service | None = None

    async def write(self, channel: grpc.aio.Channel, value: str) -> None:
        stub = control_pb2_grpc.ControlStub(channel)
        if self._service is None:
            get = control_pb2.GetRequest(kind=store_pb2.KIND_SERVICE, ref=self._name)
            self._service = (await stub.Get(get, timeout=ATTEMPT_S)).object.service
        self._service.meta.labels["bench"] = value
        request = control_pb2.UpdateRequest(request_id=uuid.uuid4().hex)
        request.object.service.CopyFrom(self._service)
        # Whatever goes wrong, the version is read anew before the next try.
        self._service = None
        answer = await stub.Update(request, timeout=ATTEMPT_S)
        self._service = answer.object.service


async def writer(number: int, target: Target, channels: list[grpc.aio.Channel]) -> None:
    position = number
    due = time.monotonic() + number * PERIOD_S
    while True:
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        due = max(due + WRITERS * PERIOD_S, time.monotonic())
        while True:
            began = time.monotonic()
            try:
                await target.write(channels[position % len(channels)], f"{began:.6f}")
            except (grpc.aio.AioRpcError, TimeoutError) as error:
                print(f"{number} {error!r}"[:300], file=sys.stderr)
                position += 1
                await asyncio.sleep(RETRY_PAUSE_S)
                continue
            print(f"{began:.6f} {time.monotonic():.6f}", flush=True)
            break


async def main(kind: str, addresses: list[str]) -> None:
    channels = [grpc.aio.insecure_channel(address, options=OPTIONS) for address in addresses]
    targets: list[Target] = [EtcdKey(i) if kind == "etcd" else ServiceLabel(i) for i in range(WRITERS)]
    writers = [asyncio.create_task(writer(i, target, channels)) for i, target in enumerate(targets)]
    await asyncio.to_thread(sys.stdin.read)
    for task in writers:
        task.cancel()
    await asyncio.gather(*writers, return_exceptions=True)
    for channel in channels:
        await channel.close(None)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2:]))
