"""Golden transcripts: what each member says in a few stories, message by message.

A story is a World without faults; the transcript beside it is compared. After a change
that is meant: `RAFT_REWRITE=1 pytest tests/golden/test_raft_transcripts.py`, then read the diff.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from swarmpy.proto import raft_pb2
from swarmpy.raft.core_log import Member

from tests.sim.raft_world import Process, World

DIRECTORY = Path(__file__).parent / "raft"


class Told(World):
    """A quiet world that writes down what arrives; heartbeats are left out."""

    def __init__(self, members: int = 3, spares: int = 0) -> None:
        self.lines: list[str] = []
        self.quiet = True
        self.roles: dict[str, str] = {}
        super().__init__(1, members, spares)
        self.faulty = False

    def boot(self, name: str) -> None:
        self.faulty = False
        super().boot(name)

    def note(self, text: str) -> None:
        self.lines.append(f"{self.now - 1000:6} {text}")

    def deliver(self, sender: str, to: str, data: bytes) -> None:
        message = raft_pb2.RaftMessage.FromString(data)
        reached = (sender, to) not in self.cut and to in self.processes
        if not is_heartbeat(message):
            self.note(
                f"{sender} -> {to}  term {message.term}  {show(message)}{'' if reached else '  (lost)'}"
            )
        super().deliver(sender, to, data)
        self.note_roles()

    def note_roles(self) -> None:
        for name, process in sorted(self.processes.items()):
            role = f"{process.core.role.value} of term {process.core.term}, commit {process.core.commit}"
            if self.roles.get(name) != role:
                self.roles[name] = role
                self.note(f"       {name} is {role}")

    def leader(self) -> Process:
        return next(p for p in self.processes.values() if p.core.leader is not None)


def is_heartbeat(message: raft_pb2.RaftMessage) -> bool:
    if message.HasField("append"):
        return not message.append.entries
    return message.HasField("append_response") and message.append_response.success


def show(message: raft_pb2.RaftMessage) -> str:
    body = message.WhichOneof("body")
    assert body is not None
    inner = getattr(message, body)
    fields = [
        f"{field.name}={len(value) if field.name == 'entries' else value}"
        for field, value in inner.ListFields()
        if field.name != "round"
    ]
    return f"{body} {' '.join(fields)}".strip()


def elected(world: Told) -> None:
    world.run_until(world.now + 1500)


def first_election(world: Told) -> None:
    elected(world)


def leader_killed(world: Told) -> None:
    elected(world)
    name = world.leader().node_id
    world.note(f"       {name} is killed, its connections break")
    world.processes.pop(name).alive = False
    for other in sorted(world.processes):
        world.processes[other].core.peer_lost(name, world.now)
        world.processes[other].process()
    world.run_until(world.now + 300)
    world.note(f"       {name} is back")
    world.boot(name)
    world.run_until(world.now + 1500)


def follower_cut_off_returns(world: Told) -> None:
    elected(world)
    name = next(n for n, p in sorted(world.processes.items()) if p.core.leader is None)
    world.note(f"       {name} is cut off: it asks for votes, its term does not grow")
    world.cut = {(a, b) for a in world.names for b in world.names if (a == name) != (b == name)}
    world.run_until(world.now + 1200)
    world.note("       the cut ends: nobody is disturbed")
    world.cut.clear()
    world.run_until(world.now + 500)


def leader_cut_off(world: Told) -> None:
    elected(world)
    name = world.leader().node_id
    world.note(f"       {name} is cut off with a command nobody else will see")
    world.cut = {(a, b) for a in world.names for b in world.names if (a == name) != (b == name)}
    world.propose()
    world.run_until(world.now + 2000)
    world.note("       the cut ends: what it had alone is replaced")
    world.cut.clear()
    world.propose()
    world.run_until(world.now + 500)


def hand_over(world: Told) -> None:
    elected(world)
    world.at_leader(lambda process: process.core.transfer(None, world.now))
    world.run_until(world.now + 200)


def member_added(world: Told) -> None:
    elected(world)
    world.at_leader(lambda process: process.core.put_member(Member("n4", "n4", True)))
    world.run_until(world.now + 200)
    world.at_leader(lambda process: process.core.put_member(Member("n4", "n4")))
    world.run_until(world.now + 200)


STORIES: list[tuple[Callable[[Told], None], int]] = [
    (first_election, 0), (leader_killed, 0), (follower_cut_off_returns, 0), (leader_cut_off, 0),
    (hand_over, 0), (member_added, 1),
]  # fmt: skip


@pytest.mark.parametrize(("story", "spares"), STORIES, ids=lambda value: getattr(value, "__name__", ""))
def test_transcript(story: Callable[[Told], None], spares: int) -> None:
    world = Told(3, spares)
    story(world)
    text = "\n".join(line.rstrip() for line in world.lines) + "\n"
    path = DIRECTORY / f"{story.__name__}.txt"
    if os.environ.get("RAFT_REWRITE"):
        DIRECTORY.mkdir(exist_ok=True)
        path.write_text(text)
    assert text == path.read_text()
