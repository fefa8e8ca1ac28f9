"""The client of bench/raft_throughput.py: so many writes in flight on one mutual TLS connection.

`python -m bench.load etcd|unary|stream ADDRESS SERVER_NAME CERTS`: reads loads from stdin, one a line
(`IN_FLIGHT BYTES SECONDS`), prints a line of JSON for each. The same code, transport and certificates for both
sides; a write is a Put of a key of etcd's, and a change of a label of a service (without replicas) of ours.
etcd has unary calls only (`etcd`); ours are made as such (`unary`) and on one stream of writes (`stream`).
"""

from __future__ import annotations

import asyncio
import json
import sys
import uuid
from pathlib import Path

import grpc
from swarmpy.node.manager import pipeline
from swarmpy.proto import control_pb2, control_pb2_grpc, objects_pb2, store_pb2

from bench.raft_member import load

TIMEOUT_S = 30.0


def varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


class EtcdWrites:
    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._put = channel.unary_unary(
            "/etcdserverpb.KV/Put", request_serializer=bytes, response_deserializer=bytes
        )

    async def prepare(self, count: int, size_bytes: int) -> None:
        self._value = b"\x12" + varint(size_bytes) + b"x" * size_bytes

    async def write(self, number: int) -> None:
        key = b"bench-%d" % number
        await self._put(b"\x0a" + varint(len(key)) + key + self._value, timeout=TIMEOUT_S)


class LabelWrites:
    def __init__(self, channel: grpc.aio.Channel, *, stream: bool) -> None:
        self._stub = control_pb2_grpc.ControlStub(channel)
        self._kind = "stream" if stream else "unary"
        self._writes = pipeline.Writes(channel) if stream else None
        self._services: dict[int, objects_pb2.Service] = {}
        self._count = 0

    async def prepare(self, count: int, size_bytes: int) -> None:
        self._size = size_bytes
        for number in range(count):
            if number not in self._services:
                self._services[number] = await self._create(number)

    async def _create(self, number: int) -> objects_pb2.Service:
        service = objects_pb2.Service()
        service.meta.name = f"bench-{self._kind}-{number}"
        service.spec.replicated.replicas = 0
        service.spec.task.container.image = "bench:1"
        service.spec.task.container.image_digest = "sha256:" + "0" * 64
        request = control_pb2.CreateRequest(
            object=store_pb2.Object(service=service), request_id=uuid.uuid4().hex
        )
        return (await self._stub.Create(request, timeout=TIMEOUT_S)).object.service

    async def write(self, number: int) -> None:
        service = self._services[number]
        self._count += 1
        service.meta.labels["bench"] = str(self._count).ljust(self._size - len("bench"), "x")
        request = control_pb2.UpdateRequest(
            object=store_pb2.Object(service=service), request_id=f"{id(self)}-{self._count}"
        )
        try:
            if self._writes is None:
                answer = await self._stub.Update(request, timeout=TIMEOUT_S)
            else:
                answer = await self._writes.call("Update", request, TIMEOUT_S)
            self._services[number] = answer.object.service
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.ABORTED:  # the allocator wrote it in between
                raise
            get = control_pb2.GetRequest(kind=store_pb2.KIND_SERVICE, ref=service.meta.id)
            self._services[number] = (await self._stub.Get(get, timeout=TIMEOUT_S)).object.service


async def main(kind: str, address: str, server_name: str, certs: Path) -> None:
    credentials = grpc.ssl_channel_credentials(
        (certs / "ca.crt").read_bytes(), (certs / "node.key").read_bytes(), (certs / "node.crt").read_bytes()
    )
    options = [("grpc.ssl_target_name_override", server_name), ("grpc.enable_http_proxy", 0)]
    async with grpc.aio.secure_channel(address, credentials, options) as channel:
        writes: EtcdWrites | LabelWrites = EtcdWrites(channel)
        if kind != "etcd":
            writes = LabelWrites(channel, stream=kind == "stream")
        while line := await asyncio.to_thread(sys.stdin.readline):
            in_flight, size_bytes, seconds = line.split()
            await writes.prepare(int(in_flight), int(size_bytes))
            await load(int(in_flight), 0.3, writes.write)
            print(json.dumps(await load(int(in_flight), float(seconds), writes.write)), flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3], Path(sys.argv[4])))
