"""Which chunk is asked of whom: the source is spared, nothing waits for ever."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from swarmpy.node.image.board import bits_of, chunks_in
from swarmpy.node.image.picking import CLAIM_MS, OUTSTANDING_MAX, SLOW_MS, Picker


def picker(count: int, **peers: bool) -> Picker:
    """`peers`: whether each is complete."""
    made = Picker((), range(count))
    for name, complete in peers.items():
        made.join(name)
        if complete:
            made.completed(name)
    return made


def test_the_rarest_goes_first() -> None:
    it = picker(3, a=False, b=False)
    it.got("a", [0, 1, 2])
    it.got("b", [0, 1])
    assert it.choose("a", 0) == 2


def test_what_others_have_or_will_have_is_not_asked_from_the_source() -> None:
    it = picker(3, source=True, other=False)
    it.got("other", [0])
    it.claimed([1], 0)
    assert it.choose("source", 0) == 2
    it.asked("source", 2, 0)
    it.arrived("source", 2)
    assert it.choose("source", 0) is None
    assert it.choose("other", 0) == 0
    assert it.choose("source", CLAIM_MS - 1) is None
    assert it.choose("source", CLAIM_MS) == 1  # the claim was not kept


def test_a_slow_node_does_not_hold_up_the_others() -> None:
    it = picker(4, source=True, other=False)
    it.got("other", [0, 1, 2, 3])
    it.asked("other", 0, 0)
    assert it.choose("source", SLOW_MS - 1) is None
    assert it.choose("source", SLOW_MS) == 1
    it.leave("other")
    assert it.choose("source", SLOW_MS) == 0  # what it owed is free again


def test_a_node_that_finished_is_a_source() -> None:
    it = picker(1, source=True, other=False)
    it.got("other", [0])
    it.completed("other")
    assert it.choose("other", 0) == it.choose("source", 0) == 0


def test_no_more_than_a_few_at_a_time_and_of_a_source_one_at_first() -> None:
    it = picker(10, source=True, other=False)
    it.got("other", range(10))
    for _ in range(OUTSTANDING_MAX):
        number = it.choose("other", 0)
        assert number is not None
        it.asked("other", number, 0)
    assert it.choose("other", 0) is None
    it.failed("other", 1)
    assert it.choose("other", 0) == 1
    it.arrived("other", 0)
    assert it.missing == 9
    alone = picker(10, source=True)
    assert alone.choose("source", 0) == 0
    alone.asked("source", 0, 0)
    assert alone.choose("source", 0) is None
    alone.arrived("source", 0)
    for asked in (1, 2):
        assert alone.choose("source", 0) == asked
        alone.asked("source", asked, 0)
    assert alone.choose("source", 0) is None


def test_bits() -> None:
    assert chunks_in(bits_of([0, 9, 17]), 18) == {0, 9, 17}
    assert chunks_in(b"\xff\xff", 3) == {0, 1, 2}
    assert chunks_in(b"", 3) == set()


@pytest.mark.parametrize("seed", range(20))
def test_the_source_sends_each_chunk_about_once(seed: int) -> None:
    """Five nodes begin together; an announcement takes a step, a chunk a few."""
    chance = random.Random(seed)
    count, nodes = 64, [f"n{n}" for n in range(5)]
    pickers: dict[str, Picker] = {}
    for node in nodes:
        pickers[node] = Picker((), chance.sample(range(count), count))
        pickers[node].join("source")
        pickers[node].completed("source")
        for other in nodes:
            if other != node:
                pickers[node].join(other)
    sent: Counter[str] = Counter()
    arriving: list[tuple[int, str, str, int]] = []
    for now in range(0, 60_000, 10):
        due = [entry for entry in arriving if entry[0] <= now]
        arriving = [entry for entry in arriving if entry[0] > now]
        for _, node, peer, chunk in due:
            pickers[node].arrived(peer, chunk)
            for other in nodes:
                if other != node:
                    pickers[other].got(node, [chunk])
        claims: list[tuple[str, int]] = []
        for node in chance.sample(nodes, len(nodes)):
            for peer in chance.sample(list(pickers[node].peers), len(nodes)):
                while (chunk_ := pickers[node].choose(peer, now)) is not None:
                    pickers[node].asked(peer, chunk_, now)
                    sent[peer] += 1
                    if peer == "source":
                        claims.append((node, chunk_))
                    arriving.append((now + chance.randrange(20, 200), node, peer, chunk_))
        for node, chunk_ in claims:
            for other in nodes:
                if other != node:
                    pickers[other].claimed([chunk_], now)
        if not any(it.missing for it in pickers.values()):
            break
    assert not any(it.missing for it in pickers.values())
    assert sum(sent.values()) == count * len(nodes)
    assert sent["source"] <= 1.6 * count
