"""A member of bench/raft_throughput.py: the replica alone, without the API, as one process of three.

`python -m bench.raft_member DIRECTORY NAME NAME=PORT…`: the first of the names founds the cluster, takes the
others in, and then reads loads from stdin, one a line (`IN_FLIGHT BYTES SECONDS` or `store SECONDS`), and
prints a line of JSON for each. Everything is as in a manager: TLS both ways, sealed journal, fsync.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

from swarmpy.node.ca import tls
from swarmpy.node.ca.identity import IdentityFile
from swarmpy.proto import objects_pb2, store_pb2
from swarmpy.raft.keyring import KeyRing
from swarmpy.raft.log import LogError
from swarmpy.raft.replica import RaftNode
from swarmpy.raft.store import Store, transaction
from swarmpy.raft.tables import wrap

CHANGES = 200
IN_FLIGHT_TRANSACTIONS = 8


class Sink:
    """A state machine that is the store for transactions and nothing for the rest."""

    def __init__(self) -> None:
        self.store = Store()

    def apply(self, index: int, command: bytes) -> bytes:
        return b"" if command[:1] == b"\0" else self.store.apply(index, command)

    def snapshot(self) -> Iterator[bytes]:
        return self.store.snapshot()

    def restore(self, chunks: Iterator[bytes]) -> None:
        self.store.restore(chunks)


async def load(in_flight: int, seconds: float, write: Callable[[int], Awaitable[object]]) -> dict[str, float]:
    """Writes per second and the latency's percentiles in ms."""
    taken: list[float] = []
    end = time.perf_counter() + seconds

    async def one(number: int) -> None:
        while (began := time.perf_counter()) < end:
            await write(number)
            taken.append(time.perf_counter() - began)

    began = time.perf_counter()
    await asyncio.gather(*(one(number) for number in range(in_flight)))
    return summary(taken, time.perf_counter() - began)


def summary(taken: list[float], elapsed_s: float) -> dict[str, float]:
    taken.sort()
    return {
        "rate": len(taken) / elapsed_s,
        "p50_ms": taken[len(taken) // 2] * 1000,
        "p99_ms": taken[len(taken) * 99 // 100] * 1000,
    }


async def measure(node: RaftNode, line: str) -> dict[str, float]:
    kind, *rest = line.split()
    if kind != "store":
        command = bytes(int(rest[0]))
        return await load(int(kind), float(rest[1]), lambda _: node.propose(command))
    await node.propose(transaction([], epoch=1, now_ms=1, new_epoch=True))
    counters = [0] * IN_FLIGHT_TRANSACTIONS

    async def write(number: int) -> None:
        counters[number] += 1
        changes = []
        for position in range(CHANGES):
            task = objects_pb2.Task(service_id="s", slot=position)
            task.meta.id = f"t{number}x{position}"
            task.meta.name = f"task.{number}.{position}"
            task.status.message = f"state {counters[number]}"
            changes.append(store_pb2.Change(put=wrap(task), any_version=counters[number] > 1))
        result = await node.propose(transaction(changes, epoch=1, now_ms=1))
        answer = store_pb2.TransactionResult.FromString(result.result)
        assert not answer.error_code, answer.error

    found = await load(IN_FLIGHT_TRANSACTIONS, float(rest[0]), write)
    return {**found, "rate": found["rate"] * CHANGES}


async def main(directory: Path, name: str, ports: dict[str, int]) -> None:
    identity = IdentityFile(directory / name / "certs")
    first = next(iter(ports))
    node = RaftNode(
        node_id=name, address=f"127.0.0.1:{ports[name]}", listen=("127.0.0.1", ports[name]),
        directory=directory / name / "raft", state_machine=Sink(), bootstrap=name == first,
        server_ssl=lambda: tls.raft_server_context(identity.current()),
        client_ssl=lambda: tls.raft_client_context(identity.current()),
        peer_id=lambda peer: tls.peer_identity(peer).node_id, on_fatal=sys.exit,
        keys=KeyRing(directory / name / "raft", "bench", name),
    )  # fmt: skip
    await node.start()
    try:
        if name == first:
            while not node.status().is_leader:
                await asyncio.sleep(0.05)
            for other in list(ports)[1:]:
                while True:
                    try:
                        await node.add_member(other, f"127.0.0.1:{ports[other]}")
                        break
                    except LogError:
                        await asyncio.sleep(0.2)
            print("ready", flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            print(json.dumps(await measure(node, line)), flush=True)
    finally:
        await node.stop(transfer=False)


if __name__ == "__main__":
    pairs = (argument.split("=") for argument in sys.argv[3:])
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2], {member: int(port) for member, port in pairs}))
