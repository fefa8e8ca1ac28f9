"""What is done to the cluster. A fault breaks something and returns how to mend it.

Every fault takes the harness and a seeded random source, and returns what it did (for the
report), how long it should last, and its healing. It must leave the cluster able to heal.
"""

from __future__ import annotations

import asyncio
import errno
import random
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from swarmpy.proto import control_pb2, store_pb2, types_pb2

from tests.chaos.caller import Caller, OutcomeUnknown, Refused
from tests.chaos.clients import set_role
from tests.chaos.cluster import Cluster

Heal = Callable[[], Awaitable[None]]
ROLE_WAIT_S = 40.0


@dataclass
class Done:
    """What a fault did."""

    what: str
    duration_s: float
    heal: Heal


@dataclass
class Bench:
    """What faults work with."""

    cluster: Cluster
    caller: Caller
    rng: random.Random
    serial: int = 0

    async def leader(self) -> str:
        """The name of the leader, or of any manager when nobody says."""
        try:
            answer = await self.caller.call("Status", control_pb2.StatusRequest(), 6)
            name = self.cluster.ids.get(answer.leader_id, "")
        except (OutcomeUnknown, Refused):
            name = ""
        return name or self.rng.choice(self.cluster.names)

    async def some(self) -> str:
        """The leader in half of the cases, else anybody."""
        return await self.leader() if self.rng.random() < 0.5 else self.rng.choice(self.cluster.names)

    def id_of(self, name: str) -> str:
        return next(identity for identity, known in self.cluster.ids.items() if known == name)

    def request_id(self) -> str:
        self.serial += 1
        return f"chaos-fault-{self.serial}"


async def nothing() -> None:
    """Heals by itself."""


def thread(function: Callable[..., Any], *arguments: Any, **options: Any) -> Awaitable[Any]:
    return asyncio.to_thread(function, *arguments, **options)


# -- processes


async def kill_leader(bench: Bench) -> Done:
    name = await bench.leader()
    await thread(bench.cluster.signal_manager, name, signal.SIGKILL)
    return Done(f"manager of {name}, the leader", bench.rng.uniform(0.5, 3), nothing)


async def kill_one(bench: Bench) -> Done:
    name = bench.rng.choice(bench.cluster.names)
    await thread(bench.cluster.signal_manager, name, signal.SIGKILL)
    return Done(f"manager of {name}", bench.rng.uniform(0.5, 3), nothing)


async def kill_minority(bench: Bench) -> Done:
    """Whole nodes: supervisor, roles and cable."""
    names = bench.rng.sample(bench.cluster.names, (bench.cluster.count - 1) // 2)
    for name in names:
        await thread(bench.cluster.kill_node, name)

    async def heal() -> None:
        for name in names:
            await thread(bench.cluster.revive, name)

    return Done(f"nodes {', '.join(names)}", bench.rng.uniform(1, 8), heal)


async def kill_all(bench: Bench) -> Done:
    """Every manager process at once."""
    for name in bench.cluster.names:
        await thread(bench.cluster.signal_manager, name, signal.SIGKILL)
    return Done("every manager process", bench.rng.uniform(1, 4), nothing)


async def power_all(bench: Bench) -> Done:
    """Every process of every node."""
    for name in bench.cluster.names:
        await thread(bench.cluster.kill_node, name)

    async def heal() -> None:
        for name in bench.rng.sample(bench.cluster.names, bench.cluster.count):
            await thread(bench.cluster.revive, name)

    return Done("every node", bench.rng.uniform(0.2, 2), heal)


async def pause(bench: Bench) -> Done:
    name = await bench.some()
    await thread(bench.cluster.signal_manager, name, signal.SIGSTOP)
    seconds = bench.rng.choice([1, 2, 3, 5, 8, 12]) if bench.rng.random() < 0.95 else 30

    async def heal() -> None:
        await thread(bench.cluster.signal_manager, name, signal.SIGCONT)

    return Done(f"manager of {name}", seconds, heal)


async def pause_majority(bench: Bench) -> Done:
    names = bench.rng.sample(bench.cluster.names, bench.cluster.count // 2 + 1)
    for name in names:
        await thread(bench.cluster.signal_manager, name, signal.SIGSTOP)

    async def heal() -> None:
        for name in names:
            await thread(bench.cluster.signal_manager, name, signal.SIGCONT)

    return Done(f"managers of {', '.join(names)}", bench.rng.uniform(1, 6), heal)


# -- links


def _mend(bench: Bench, names: list[str]) -> Heal:
    async def heal() -> None:
        for name in names:
            await thread(bench.cluster.rules, name, [])

    return heal


async def cut_off(bench: Bench) -> Done:
    """One node loses everybody, both ways."""
    name = await bench.some()
    others = [other for other in bench.cluster.names if other != name]
    await thread(bench.cluster.cut, name, others, inward=True, outward=True)
    return Done(name, bench.rng.uniform(1, 10), _mend(bench, [name]))


async def cut_one_way(bench: Bench) -> Done:
    """One node still hears but is not heard, or the other way round; of some or of all others."""
    name = await bench.some()
    others = [other for other in bench.cluster.names if other != name]
    others = bench.rng.sample(others, bench.rng.randint(1, len(others)))
    inward = bench.rng.random() < 0.5
    await thread(bench.cluster.cut, name, others, inward=inward, outward=not inward)
    direction = "from" if inward else "to"
    return Done(f"{direction} {', '.join(others)} at {name}", bench.rng.uniform(1, 10), _mend(bench, [name]))


async def cut_in_two(bench: Bench) -> Done:
    """A majority and a minority that do not hear of each other."""
    names = bench.rng.sample(bench.cluster.names, bench.cluster.count)
    size = bench.rng.randint(1, (bench.cluster.count - 1) // 2)
    few, many = names[:size], names[size:]
    for name in few:
        await thread(bench.cluster.cut, name, many, inward=True, outward=True)
    return Done(f"{', '.join(few)} from {', '.join(many)}", bench.rng.uniform(2, 10), _mend(bench, few))


async def cut_bridge(bench: Bench) -> Done:
    """Two halves that only one node still connects."""
    names = bench.rng.sample(bench.cluster.names, bench.cluster.count)
    half = (len(names) - 1) // 2
    one, other = names[1 : 1 + half], names[1 + half :]
    for name in one:
        await thread(bench.cluster.cut, name, other, inward=True, outward=True)
    return Done(f"{one} from {other}, {names[0]} hears all", bench.rng.uniform(2, 10), _mend(bench, one))


async def flapping(bench: Bench) -> Done:
    name = await bench.some()
    others = [other for other in bench.cluster.names if other != name]
    for _ in range(bench.rng.randint(3, 8)):
        await thread(bench.cluster.cut, name, others, inward=True, outward=True)
        await asyncio.sleep(bench.rng.uniform(0.1, 0.8))
        await thread(bench.cluster.rules, name, [])
        await asyncio.sleep(bench.rng.uniform(0.1, 0.8))
    return Done(name, 0.5, nothing)


async def loss(bench: Bench) -> Done:
    """30 % of what arrives is lost, at one node or at all."""
    names = bench.cluster.names if bench.rng.random() < 0.4 else [await bench.some()]
    for name in names:
        await thread(bench.cluster.lose, name, 30)
    return Done(f"30 % at {', '.join(names)}", bench.rng.uniform(3, 10), _mend(bench, names))


async def delay(bench: Bench) -> Done:
    name = await bench.some()
    delay_ms, jitter_ms = bench.rng.choice([(20, 10), (50, 50), (100, 50), (200, 100), (400, 0)])
    await thread(bench.cluster.delay, name, delay_ms, jitter_ms)

    async def heal() -> None:
        await thread(bench.cluster.undelay, name)

    return Done(f"{delay_ms} to {delay_ms + jitter_ms} ms each way at {name}", bench.rng.uniform(3, 10), heal)


# -- disks and clocks


async def disk_full(bench: Bench) -> Done:
    name = bench.rng.choice(bench.cluster.small_disk_names())
    if bench.rng.random() < 0.5:
        await _lead(bench, name)
    await thread(bench.cluster.fill_disk, name)

    async def heal() -> None:
        await thread(bench.cluster.free_disk, name)

    return Done(name, bench.rng.uniform(2, 10), heal)


async def fsync_error(bench: Bench) -> Done:
    name = await bench.some()
    bench.cluster.fsync_error(name, errno.EIO)

    async def heal() -> None:
        bench.cluster.fsync_error(name, 0)

    return Done(name, bench.rng.uniform(0.5, 6), heal)


async def slow_disk(bench: Bench) -> Done:
    name = await bench.some()
    delay_ms = bench.rng.choice([20, 100, 500, 1500])
    bench.cluster.fsync_delay(name, delay_ms)

    async def heal() -> None:
        bench.cluster.fsync_delay(name, 0)

    return Done(f"{delay_ms} ms a sync at {name}", bench.rng.uniform(2, 8), heal)


async def clock_jump(bench: Bench) -> Done:
    """One node's wall clock, or everybody's by different amounts."""
    jumps = [-3 * 3_600_000, -3_600_000, -60_000, -900, 900, 60_000, 3_600_000, 10 * 86_400_000]
    names = bench.cluster.names if bench.rng.random() < 0.2 else [await bench.some()]
    offsets = {name: bench.rng.choice(jumps[1:-1] if len(names) > 1 else jumps) for name in names}
    for name, offset_ms in offsets.items():
        bench.cluster.clock(name, offset_ms)

    async def heal() -> None:
        for name in names:
            bench.cluster.clock(name, 0)

    what = ", ".join(f"{name} {offset_ms / 1000:+.0f} s" for name, offset_ms in offsets.items())
    return Done(what, bench.rng.uniform(2, 8), heal)


# -- the cluster's own changes


async def _lead(bench: Bench, name: str) -> None:
    if await bench.leader() == name:
        return
    try:
        await bench.caller.call("TransferLead", control_pb2.TransferRequest(to=bench.id_of(name)), 4)
    except (OutcomeUnknown, Refused):
        return


async def transfer(bench: Bench) -> Done:
    names = [bench.rng.choice(bench.cluster.names) for _ in range(bench.rng.randint(1, 4))]
    for name in names:
        await _lead(bench, name)
    return Done(f"to {', then '.join(names)}", 0.5, nothing)


async def _role(bench: Bench, name: str) -> types_pb2.Role | None:
    request = control_pb2.GetRequest(kind=store_pb2.KIND_NODE, ref=bench.id_of(name))
    try:
        return (await bench.caller.call("Get", request, 6)).object.node.role
    except (OutcomeUnknown, Refused):
        return None


async def _until_role(bench: Bench, name: str, role: types_pb2.Role) -> bool:
    end = asyncio.get_running_loop().time() + ROLE_WAIT_S
    while asyncio.get_running_loop().time() < end:
        if await _role(bench, name) == role:
            return True
        await asyncio.sleep(0.3)
    return False


async def demote(bench: Bench) -> Done:
    """A manager becomes a worker and a manager again; sometimes with an empty disk."""
    name = await bench.some()
    if not await set_role(bench.caller, bench.id_of(name), types_pb2.ROLE_WORKER, bench.request_id()):
        return Done(f"{name}: refused", 0.2, nothing)
    replaced = bench.rng.random() < 0.4

    async def heal() -> None:
        gone = await _until_role(bench, name, types_pb2.ROLE_WORKER)
        if replaced and gone:
            await thread(_replace_disk, bench.cluster, name)
        for _ in range(20):
            role = types_pb2.ROLE_MANAGER
            if await set_role(bench.caller, bench.id_of(name), role, bench.request_id()):
                break
            await asyncio.sleep(0.5)
        await _until_role(bench, name, types_pb2.ROLE_MANAGER)

    return Done(f"{name}{', then with an empty disk' if replaced else ''}", bench.rng.uniform(0.1, 4), heal)


def _replace_disk(cluster: Cluster, name: str) -> None:
    cluster.kill_node(name)
    cluster.lose_files(name)
    cluster.revive(name)


async def _all_are_voters(bench: Bench) -> bool:
    """Every manager is a member and has what is committed, for a while: a learner would be a voter by then."""
    good = 0
    for _ in range(40):
        try:
            status = await bench.caller.call("Status", control_pb2.StatusRequest(), 3)
        except (OutcomeUnknown, Refused):
            return False
        near = [m for m in status.members if m.reachable and m.match_index + 200 >= status.commit_index]
        good = good + 1 if len(near) == bench.cluster.count else 0
        if good == 6:
            return True
        await asyncio.sleep(0.3)
    return False


async def lost_disk(bench: Bench) -> Done:
    """A manager comes back with nothing: the cluster takes it out and in again by itself.

    Only when all are voters: the disk of one of two voters is more than a cluster can lose.
    """
    if not await _all_are_voters(bench):
        return Done("not while members are missing", 0.1, nothing)
    name = await bench.some()
    await thread(_replace_disk, bench.cluster, name)
    return Done(name, bench.rng.uniform(2, 6), nothing)


async def two_at_once(bench: Bench) -> Done:
    """Two kinds together; what needs the cluster to agree on something heals last."""
    names = [name for name in FAULTS if name not in (PAIR, "demote and promote")]
    first = bench.rng.choice(names)
    second = bench.rng.choice([name for name in [*names, "demote and promote"] if name != first])
    done = [await FAULTS[name][0](bench) for name in (first, second)]

    async def heal() -> None:
        for each in done:
            await each.heal()

    what = "; ".join(f"{name}: {each.what}" for name, each in zip((first, second), done, strict=True))
    return Done(what, max(each.duration_s for each in done), heal)


PAIR = "two at once"
FAULTS: dict[str, tuple[Callable[[Bench], Awaitable[Done]], int]] = {
    "kill leader": (kill_leader, 8),
    "kill one": (kill_one, 4),
    "kill minority": (kill_minority, 4),
    "kill all": (kill_all, 3),
    "power cut of all": (power_all, 2),
    "pause": (pause, 7),
    "pause majority": (pause_majority, 3),
    "cut off": (cut_off, 5),
    "cut one way": (cut_one_way, 5),
    "cut in two": (cut_in_two, 4),
    "cut but for a bridge": (cut_bridge, 3),
    "flapping link": (flapping, 2),
    "loss": (loss, 3),
    "delay": (delay, 3),
    "disk full": (disk_full, 4),
    "sync error": (fsync_error, 4),
    "slow disk": (slow_disk, 3),
    "lost disk": (lost_disk, 3),
    "clock jump": (clock_jump, 4),
    "transfer": (transfer, 5),
    "demote and promote": (demote, 4),
    PAIR: (two_at_once, 8),
}
