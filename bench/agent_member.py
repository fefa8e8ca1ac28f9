"""The nodes of bench/agents.py: `python -m bench.agent_member COUNT DIRECTORY TOKEN JOIN_ADDRESS MANAGER…`.

COUNT agents in one process: each joins with the token and keeps a real session (TLS, deltas, digests, heartbeats);
only the containers are played: a task that is assigned runs at once, one that is to stop has stopped at once.
MANAGER is ID@HOST:PORT. Prints `joined N` when all have joined; ends with its standard input.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
import uuid
from pathlib import Path

from swarmpy.node.agent.session import Session
from swarmpy.node.ca import join
from swarmpy.node.ca.errors import Refused, Unreachable
from swarmpy.node.ca.identity import Identity, IdentityFile, new_key_and_csr
from swarmpy.node.config import ManagerAddress
from swarmpy.node.items import Items
from swarmpy.proto import ca_pb2, dispatcher_pb2, objects_pb2, types_pb2

JOINING_AT_ONCE, CONNECTING_AT_ONCE = 2, 8
JOIN_ATTEMPTS = 20  # a machine that is busy with a thousand joins does not answer all of them in time
RUNNING = types_pb2.TASK_RUNNING


class PlayedAgent:
    """One node without containers."""

    def __init__(self, number: int, directory: Path, managers: tuple[ManagerAddress, ...]) -> None:
        self.number, self.directory, self.managers = number, directory, managers
        self.statuses: dict[str, objects_pb2.TaskStatus] = {}
        self.seen: Items = {}
        self.description = objects_pb2.NodeDescription(
            hostname=f"played{number}", platform=types_pb2.Platform(os="linux", architecture="amd64"),
            resources=types_pb2.Resources(nano_cpus=64 * 10**9, memory_bytes=256 << 30), version="bench",
            address=f"127.1.{number // 250}.{number % 250 + 1}",
            data_path_address=f"127.1.{number // 250}.{number % 250 + 1}", underlay_mtu=1500,
        )  # fmt: skip

    async def join(self, token: str, address: str) -> None:
        key_pem, csr = new_key_and_csr()
        request = ca_pb2.IssueRequest(
            csr=csr, request_id=uuid.uuid4().hex, description=self.description,
            hostname=self.description.hostname, address=self.description.address,
        )  # fmt: skip
        for attempt in range(1, JOIN_ATTEMPTS + 1):
            try:
                answer = await join.join([address], request, token, 60.0)
                break
            except (Unreachable, Refused):  # the lead moved meanwhile
                if attempt == JOIN_ATTEMPTS:
                    raise
                await asyncio.sleep(0.2 * attempt)
        identity = Identity.build(answer.certificate, key_pem, answer.root)
        self.directory.mkdir(parents=True)
        identity.save(self.directory)
        self.session = Session(
            self_id=identity.node_id, identity=IdentityFile(self.directory), managers=lambda: self.managers,
            describe=lambda: self.description, status_of=self.statuses.get, images=list, on_items=self._on_items,
        )  # fmt: skip

    def _on_items(self, items: Items) -> None:
        """What the runtime would do takes no time."""
        now_ms = time.time_ns() // 1_000_000
        before, self.seen = self.seen, items
        came = 0
        for key in reversed(
            items
        ):  # what a delta brought or changed is at the end: a set of thousands is not looked at
            data = items[key]
            if before.get(key) is data:
                break
            came += key not in before
            if not key.startswith("task/"):
                continue
            task = dispatcher_pb2.Item.FromString(data).task
            known = self.statuses.get(task.meta.id)
            wanted = RUNNING if task.desired_state <= RUNNING else types_pb2.TASK_SHUTDOWN
            if known is not None and known.state >= wanted:
                continue
            status = objects_pb2.TaskStatus(
                state=wanted, since_ms=now_ms, started_ms=now_ms, ready=wanted == RUNNING, message="played"
            )
            for reference in task.spec.networks:
                status.addresses.add(
                    network_id=reference.target, address=f"10.99.{len(self.statuses) % 250}.1"
                )
            self.statuses[task.meta.id] = status
            self.session.report(task.meta.id)
        if len(items) < len(before) + came:  # something went
            for task_id in [task_id for task_id in self.statuses if f"task/{task_id}" not in items]:
                del self.statuses[task_id]


async def connect(agents: list[PlayedAgent], sessions: list[asyncio.Task[None]]) -> None:
    """As machines start one after the other; all at once is what the failover is for."""
    for number, agent in enumerate(agents):
        sessions.append(asyncio.create_task(agent.session.run()))
        while sum(not known.session.connected_to for known in agents[: number + 1]) >= CONNECTING_AT_ONCE:
            await asyncio.sleep(0.02)


async def main(count: int, directory: Path, token: str, address: str, managers: list[str]) -> None:
    known = tuple(ManagerAddress(*manager.split("@", 1)) for manager in managers)
    base = int(directory.name) * count
    agents = [PlayedAgent(base + number, directory / str(number), known) for number in range(count)]
    turns = asyncio.Semaphore(JOINING_AT_ONCE)

    async def begin(agent: PlayedAgent) -> None:
        async with turns:
            await agent.join(token, address)

    await asyncio.gather(*map(begin, agents))
    print(f"joined {count}", flush=True)
    sessions: list[asyncio.Task[None]] = []
    beginning = asyncio.create_task(connect(agents, sessions))
    await asyncio.to_thread(sys.stdin.read)
    beginning.cancel()
    for session in sessions:
        session.cancel()
    await asyncio.gather(beginning, *sessions, return_exceptions=True)


if __name__ == "__main__":
    logging.disable()
    arguments = sys.argv
    asyncio.run(main(int(arguments[1]), Path(arguments[2]), arguments[3], arguments[4], arguments[5:]))
