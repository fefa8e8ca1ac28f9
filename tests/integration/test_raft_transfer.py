"""Snapshots on a wire that loses pieces: the member that needs one gets it all the same, and soon."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from swarmpy.proto import raft_pb2
from swarmpy.raft import transfer
from swarmpy.raft.checkpoint import Checkpoints
from swarmpy.raft.engine import Engine
from swarmpy.raft.transfer import CHUNK_BYTES, Receiver, Sender

STATE = [bytes([number]) * CHUNK_BYTES for number in range(3)]


async def sent(directory: Path, state: list[bytes], is_lost: Callable[[str], bool]) -> tuple[bool, int]:
    """Whether the sender knows that it is installed, and how often it was; `is_lost` is asked for each message."""
    source, target = directory / "a", directory / "b"
    source.mkdir()
    target.mkdir()
    path = Checkpoints(source).write(raft_pb2.SnapshotMeta(index=7, term=1), iter(state))
    installed: list[bytes] = []

    async def install(received: Path, meta: raft_pb2.SnapshotMeta, sender: str) -> None:
        installed.append(b"".join(Checkpoints(target).chunks(received)))

    def send(chunk: raft_pb2.SnapshotChunk) -> bool:
        if not is_lost("piece"):
            receiver.put(raft_pb2.RaftMessage(sender="a", to="b", snapshot_chunk=chunk))
        return True

    def answer(to: str, response: raft_pb2.SnapshotResponse) -> None:
        if not is_lost("answer"):
            sender.answered(response)

    receiver = Receiver(
        target, Checkpoints(target), wanted=lambda index: not installed, install=install, answer=answer
    )
    sender = Sender(Checkpoints(source), path, send)
    running = asyncio.create_task(receiver.run())
    try:
        done = await asyncio.wait_for(sender.run(), 20)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert installed in ([], [b"".join(state)])
    return done, len(installed)


@pytest.mark.parametrize("state", [[b"small"], STATE], ids=["one piece", "pieces"])
@pytest.mark.parametrize("lost", range(1, 9))
def test_any_message_may_be_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: list[bytes], lost: int
) -> None:
    """The last piece and the answer to it, too: that was waited for a minute."""
    monkeypatch.setattr(transfer, "ANSWER_TIMEOUT_S", 0.2)
    count = 0

    def is_lost(what: str) -> bool:
        nonlocal count
        count += 1
        return count == lost

    assert asyncio.run(sent(tmp_path, state, is_lost)) == (True, 1)


def test_a_peer_that_never_answers_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "ANSWER_TIMEOUT_S", 0.01)
    assert asyncio.run(sent(tmp_path, [b"x"], lambda what: what == "answer")) == (False, 1)


def test_a_new_connection_is_reason_enough_to_send_again(tmp_path: Path) -> None:
    """Nobody waits for a timeout."""
    path = Checkpoints(tmp_path).write(raft_pb2.SnapshotMeta(index=7, term=1), iter([b"x"]))

    async def main() -> None:
        pieces: asyncio.Queue[raft_pb2.SnapshotChunk] = asyncio.Queue()

        def send(chunk: raft_pb2.SnapshotChunk) -> bool:
            pieces.put_nowait(chunk)
            return True

        sender = Sender(Checkpoints(tmp_path), path, send)
        running = asyncio.create_task(sender.run())
        first = await pieces.get()
        sender.lost()
        assert await asyncio.wait_for(pieces.get(), transfer.ANSWER_TIMEOUT_S / 2) == first
        sender.answered(raft_pb2.SnapshotResponse(index=7, next_offset=first.size_bytes + 1))
        assert await running

    asyncio.run(main())


def test_who_lost_the_lead_sends_no_further_piece(tmp_path: Path) -> None:
    """Pieces bear the sender's term: one of a term in which somebody else leads would be a second leader's word."""
    path = Checkpoints(tmp_path).write(raft_pb2.SnapshotMeta(index=7, term=1), iter(STATE))
    core = SimpleNamespace(leader=object())
    terms: list[object] = []
    engine: Any = SimpleNamespace(core=core, _send=lambda to, **body: terms.append(core.leader))

    async def main() -> None:
        sender = Sender(Checkpoints(tmp_path), path, partial(Engine._send_chunk, engine, "b"))
        running = asyncio.create_task(sender.run())
        while not terms:
            await asyncio.sleep(0.01)
        core.leader = None  # a follower of another member from now on
        sender.answered(raft_pb2.SnapshotResponse(index=7, next_offset=CHUNK_BYTES))
        assert not await asyncio.wait_for(running, 5)

    asyncio.run(main())
    assert len(terms) == 1
    assert None not in terms
