"""Which chunk to ask which node for next. Pure: times come in as now_ms.

Theory. The node that has an image first must not send it once per node: its uplink is the
bottleneck. So a chunk is asked from a *complete* holder only while no node that is itself
still fetching has it, or is getting it from a complete one (its claim, which is announced
like the chunk itself). Then each chunk leaves the source about once, and the nodes get the
rest from each other. Among chunks that may be asked for, the rarest goes first, ties in an
order that is each node's own: nodes that start together ask for different chunks. They know
nothing of each other yet, so each begins with one request to a complete holder at a time,
and asks for more as chunks arrive.

That thrift must not cost time without end. A claim counts for CLAIM_MS; a fetching node
that has kept a request for SLOW_MS is passed over, and what only slow nodes have may be
asked from a complete holder again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice

CLAIM_MS = 3000
SLOW_MS = 2000
OUTSTANDING_MAX = 3  # of one peer
COMPARED_MAX = 256  # chunks whose rarity is compared, in this node's order


@dataclass
class PeerState:
    complete: bool = False
    have: set[int] = field(default_factory=set)
    asked: dict[int, int] = field(default_factory=dict)  # chunk -> when it was asked for

    def is_slow(self, now_ms: int) -> bool:
        return any(now_ms - since_ms >= SLOW_MS for since_ms in self.asked.values())


class Picker:
    def __init__(self, have: Iterable[int], order: Sequence[int]) -> None:
        """`order`: every chunk once, in this node's own order."""
        present = set(have)
        self._missing = {chunk: None for chunk in order if chunk not in present}
        self._in_flight: set[int] = set()
        self._copies: Counter[int] = Counter()  # among the peers that are fetching, too
        self._claims: dict[int, int] = {}  # chunk -> when one of them said that it will have it
        self._arrived = 0
        self.peers: dict[str, PeerState] = {}

    @property
    def missing(self) -> int:
        return len(self._missing)

    # -- what is heard ----------------------------------------------------------------

    def join(self, peer: str) -> PeerState:
        return self.peers.setdefault(peer, PeerState())

    def leave(self, peer: str) -> None:
        """What was asked of it is free again."""
        state = self.peers.pop(peer, None)
        if state is not None:
            self._in_flight -= set(state.asked)
            self._copies.subtract(state.have)

    def completed(self, peer: str) -> None:
        """It has everything now: it counts as a source, no longer as one that fetches."""
        state = self.join(peer)
        state.complete = True
        self._copies.subtract(state.have)
        state.have = set()

    def claimed(self, chunks: Iterable[int], now_ms: int) -> None:
        self._claims.update(dict.fromkeys(chunks, now_ms))

    def got(self, peer: str, chunks: Iterable[int]) -> None:
        state = self.join(peer)
        fresh = set() if state.complete else set(chunks) - state.have
        state.have |= fresh
        self._copies.update(fresh)

    # -- what is done -----------------------------------------------------------------

    def asked(self, peer: str, chunk: int, now_ms: int) -> None:
        self._in_flight.add(chunk)
        self.peers[peer].asked[chunk] = now_ms

    def arrived(self, peer: str, chunk: int) -> None:
        self.failed(peer, chunk)
        self._missing.pop(chunk, None)
        self._arrived += 1

    def failed(self, peer: str, chunk: int) -> None:
        """Not from this one, this time."""
        self._in_flight.discard(chunk)
        if peer in self.peers:
            self.peers[peer].asked.pop(chunk, None)

    # -- the choice -------------------------------------------------------------------

    def choose(self, peer: str, now_ms: int) -> int | None:
        """The chunk to ask this peer for, None: nothing now."""
        state = self.peers[peer]
        allowed = 1 + self._arrived if state.complete else OUTSTANDING_MAX
        if len(state.asked) >= min(allowed, OUTSTANDING_MAX):
            return None
        fast: list[PeerState] | None = None
        if state.complete and any(p.is_slow(now_ms) for p in self.peers.values() if not p.complete):
            fast = [p for p in self.peers.values() if not p.complete and not p.is_slow(now_ms)]
        fitting = (
            chunk
            for chunk in self._missing
            if chunk not in self._in_flight
            and (not self._spared(chunk, fast, now_ms) if state.complete else chunk in state.have)
        )
        return min(islice(fitting, COMPARED_MAX), key=lambda chunk: self._copies[chunk], default=None)

    def _spared(self, chunk: int, fast: list[PeerState] | None, now_ms: int) -> bool:
        """Whether a node that fetches itself has it, or is about to."""
        if now_ms - self._claims.get(chunk, -CLAIM_MS) < CLAIM_MS:
            return True
        if fast is None:
            return self._copies[chunk] > 0
        return any(chunk in peer.have for peer in fast)
