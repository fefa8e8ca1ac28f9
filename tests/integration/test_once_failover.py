"""A write that is sent again is carried out once and gets its first answer, whoever leads by then."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest
from swarmpy.node.manager.errors import Invalid, NotLeading, Taken, Unknown
from swarmpy.proto import objects_pb2, store_pb2, types_pb2

from tests.integration.manager_replicas import Manager, Managers
from tests.integration.raft_cluster import wait_for

CLIENTS, WRITES, FAILOVERS = 4, 15, 4


def network(name: str) -> objects_pb2.Network:
    return objects_pb2.Network(meta=types_pb2.Meta(name=name))


def joining(managers: Managers, hostname: str) -> objects_pb2.Node:
    """As the issuer does it: each try makes a new id, names may repeat."""
    return objects_pb2.Node(meta=types_pb2.Meta(id=managers.new_id(), name=hostname))


async def create(
    manager: Manager, managers: Managers, kind: str, name: str, request_id: str
) -> tuple[str, int]:
    obj = network(name) if kind == "network" else joining(managers, name)
    stored, index = await manager.writer.create(obj, "test", request_id, by_manager=kind == "node")
    assert stored.meta.name == name
    return stored.meta.id, index


async def insist(managers: Managers, rng: random.Random, kind: str, name: str) -> tuple[str, int]:
    """Like a client whose answers get lost: any manager, short patience, the same request id."""
    answer = None
    async with asyncio.timeout(60):
        while answer is None:
            manager = rng.choice(list(managers.all.values()))
            try:
                async with asyncio.timeout(rng.choice([0.001, 0.003, 0.01, 2])):
                    answer = await create(manager, managers, kind, name, f"request-{name}")
            except (NotLeading, Unknown, TimeoutError):
                await asyncio.sleep(0.02)
    return answer


def test_retries_across_failovers_never_double_a_change(tmp_path: Path) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")

    async def client(managers: Managers, number: int, answers: dict[str, tuple[str, int]]) -> None:
        rng = random.Random(seed + number)
        for turn in range(WRITES):
            kind, name = rng.choice(["network", "node"]), f"x{number}-{turn}"
            answers[name] = await insist(managers, rng, kind, name)
            assert await insist(managers, rng, kind, name) == answers[name], "the second answer is another"
            await asyncio.sleep(0.05)

    async def main() -> None:
        managers = Managers(tmp_path)
        answers: dict[str, tuple[str, int]] = {}
        try:
            await managers.of_three()
            writing = asyncio.gather(*(client(managers, n, answers) for n in range(CLIENTS)))
            for _ in range(FAILOVERS):
                await asyncio.sleep(0.3)
                name = (await managers.wait_leading()).raft.node_id
                await managers.kill(name)
                await managers.wait_leading()
                await asyncio.sleep(0.2)
                await managers.start(name)
            await writing
            index = max(index for _, index in answers.values())
            await wait_for(lambda: all(m.store.index >= index for m in managers.all.values()))
            for manager in managers.all.values():
                made = [*manager.store.networks(), *manager.store.nodes()]
                assert len(made) == CLIENTS * WRITES
                assert {(o.meta.name, o.meta.id) for o in made} == {(n, i) for n, (i, _) in answers.items()}
        finally:
            await managers.stop_all()

    asyncio.run(main())


def test_a_write_without_a_majority_is_unknown_and_its_retry_settles_it(tmp_path: Path) -> None:
    async def main() -> None:
        managers = Managers(tmp_path)
        try:
            first = await managers.of_three()
            for name in ("n2", "n3"):
                await managers.kill(name)
            with pytest.raises(Unknown, match="may or may not"):
                await create(first, managers, "node", "late", "r1")
            for name in ("n2", "n3"):
                await managers.start(name)
            await insist(managers, random.Random(1), "node", "after")
            leader = await managers.wait_leading()
            answer = await create(leader, managers, "node", "late", "r1")
            assert await create(leader, managers, "node", "late", "r1") == answer
            assert [node.meta.name for node in leader.store.nodes()].count("late") == 1
        finally:
            await managers.stop_all()

    asyncio.run(main())


def test_the_second_answer_is_the_first_also_when_the_world_went_on(tmp_path: Path) -> None:
    async def main() -> None:
        managers = Managers(tmp_path)
        try:
            leader = await managers.start("n1", bootstrap=True)
            await wait_for(lambda: leader.leader.leading)
            answer = await create(leader, managers, "network", "web", "r1")
            with pytest.raises(Taken):
                await create(leader, managers, "network", "web", "r2")
            removed = await leader.writer.delete(store_pb2.KIND_NETWORK, "web", False, "test", "r3")
            gone = store_pb2.Change(
                delete=store_pb2.ObjectKey(kind=store_pb2.KIND_NETWORK, id=answer[0]), any_version=True
            )
            await leader.leader.commit([gone], "test")
            again = await leader.writer.delete(store_pb2.KIND_NETWORK, "web", False, "test", "r3")
            assert (again[0].meta.id, again[1]) == (answer[0], removed[1])
            assert await create(leader, managers, "network", "web", "r1") == answer
            assert not list(leader.store.networks())
            with pytest.raises(Invalid, match="another write"):
                await create(leader, managers, "node", "x", "r1")
        finally:
            await managers.stop_all()

    asyncio.run(main())
