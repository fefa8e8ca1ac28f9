"""PySyncObj as the shell: its lifecycle and status, none of its wire, disk or pickle.

The subclass is *also named* `SyncObj`, so `self.__x` here is the parent's own private
`_SyncObj__x`: the parent's methods call these instead of theirs, with nothing patched.
What PySyncObj keeps: construction, `doTick`, `destroy`, the transport callbacks and every
status property. What it does not keep: each path that would pickle, write a file, open a
socket or decide anything. Those end in `Unreachable`. The names used are checked against
the pinned version by a test.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol

import pysyncobj
from pysyncobj.journal import Journal as ParentJournal
from pysyncobj.node import Node
from pysyncobj.transport import Transport as ParentTransport
from swarmpy.proto import raft_pb2
from swarmpy.raft.core import Core, Role
from swarmpy.raft.log import Applied, LogError, OutcomeUnknown

STATES = {Role.FOLLOWER: 0, Role.PRE_CANDIDATE: 1, Role.CANDIDATE: 1, Role.LEADER: 2}


class Unreachable(AssertionError):
    """A path of PySyncObj that swarmpy never takes."""

    def __init__(self, what: str) -> None:
        super().__init__(f"PySyncObj's own {what} is not used")


@dataclass
class Waiter:
    """A proposal on its way."""

    future: asyncio.Future[Applied]
    index: int = 0
    term: int = 0

    def resolve(self, outcome: Applied | LogError) -> None:
        if self.future.done():
            return
        if isinstance(outcome, LogError):
            self.future.set_exception(outcome)
        else:
            self.future.set_result(outcome)

    def give_up(self) -> None:
        self.resolve(OutcomeUnknown(self.index))


@functools.lru_cache(maxsize=64)
def _node(node_id: str) -> Node:
    return Node(node_id)


class Engine(Protocol):
    """What the shell drives."""

    def on_timer(self) -> None: ...
    def on_message(self, message: raft_pb2.RaftMessage) -> None: ...
    def submit(self, command: bytes, waiter: Waiter) -> None: ...
    def on_lost(self, node_id: str) -> None: ...
    def on_connected(self, node_id: str) -> None: ...


class Wire(ParentTransport):  # type: ignore[misc]
    """PySyncObj's transport interface; the bytes move in raft/transport."""

    def deliver(self, message: raft_pb2.RaftMessage) -> None:
        self._onMessageReceived(_node(message.sender), message)

    def connected(self, node_id: str) -> None:
        self._onNodeConnected(Node(node_id))

    def lost(self, node_id: str) -> None:
        self._onNodeDisconnected(Node(node_id))

    def addNode(self, node: Node) -> None:
        raise Unreachable("membership")

    def dropNode(self, node: Node) -> None:
        raise Unreachable("membership")

    def send(self, node: Node, message: object) -> bool:
        raise Unreachable("messages")

    def destroy(self) -> None:
        pass


class LogView(ParentJournal):  # type: ignore[misc]
    """PySyncObj's journal interface over the core's log; read only."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def __len__(self) -> int:
        return self._core.log.last_index - self._core.log.base_index

    def __getitem__(self, item: object) -> NoReturn:
        raise Unreachable("journal")

    def add(self, command: object, idx: object, term: object) -> NoReturn:
        raise Unreachable("journal")

    def clear(self) -> NoReturn:
        raise Unreachable("journal")

    deleteEntriesFrom = deleteEntriesTo = setRaftCommitIndex = __getitem__

    def getCurrentTerm(self) -> int:
        return self._core.term

    def getVotedForNodeId(self) -> str:
        return self._core.vote

    def getRaftCommitIndex(self) -> int:
        return self._core.commit

    def _destroy(self) -> None:
        pass


class SyncObj(pysyncobj.SyncObj):  # type: ignore[misc]
    def __init__(self, node_id: str, core: Core, engine: Engine) -> None:
        self._core = core
        self._engine = engine
        self.wire: Wire | None = None
        conf = pysyncobj.SyncObjConf(
            autoTick=False, journalFile=None, fullDumpFile=None, useFork=False, appendEntriesUseBatch=True,
            dynamicMembershipChange=False, commandsQueueSize=1,
        )  # fmt: skip
        self.wire = Wire(self, Node(node_id), [])
        super().__init__(Node(node_id), [], conf=conf, transport=self.wire)
        self.__raftLog = LogView(core)

    def mirror(self, applied: int, others: Iterable[str]) -> None:
        """Show the core's state in PySyncObj's status."""
        core = self._core
        self.__raftState = STATES[core.role]
        self.__raftCurrentTerm = core.term
        self.__votedForNodeId = core.vote or None
        self.__raftLeader = Node(core.leader_id) if core.leader_id else None
        self.__raftCommitIndex = self.__leaderCommitIndex = core.commit
        self.__raftLastApplied = applied
        self.__otherNodes = {Node(node_id) for node_id in others}
        peers = core.leader.peers if core.leader is not None else {}
        self.__raftNextIndex = {Node(node_id): peer.next_index for node_id, peer in peers.items()}
        self.__raftMatchIndex = {Node(node_id): peer.match_index for node_id, peer in peers.items()}

    # -- the ways in

    def replicate(self, command: bytes, waiter: Waiter) -> None:
        """The one replicated method: bytes in, the state machine's bytes out."""
        self._applyCommand(command, waiter)

    def _applyCommand(self, command: bytes, callback: Any, commandType: object = None) -> None:
        if commandType is not None or not isinstance(command, bytes):
            raise Unreachable("command types")
        self._engine.submit(command, callback)

    def _onTick(self, timeToWait: float = 0.0) -> None:
        self._engine.on_timer()

    def __onMessageReceived(self, node: Node, message: raft_pb2.RaftMessage) -> None:
        self._engine.on_message(message)

    def __onNodeConnected(self, node: Node) -> None:
        self.__connectedNodes.add(node)
        self._engine.on_connected(node.id)

    def __onNodeDisconnected(self, node: Node) -> None:
        self.__connectedNodes.discard(node)
        self._engine.on_lost(node.id)

    # -- the ways closed

    def __closed(self, *args: object, **kwargs: object) -> NoReturn:
        raise Unreachable("protocol")

    _checkCommandsToApply = _autoTickThread = __closed
    addNodeToCluster = removeNodeFromCluster = setCodeVersion = transferLeadership = __closed
    forceLogCompaction = _setCodeVersion = _addNodeToCluster = __closed
    _removeNodeFromCluster = _transferLeadership = __closed
    __applyLogEntries = __doApplyCommand = __sendAppendEntries = __sendNextNodeIdx = __closed
    __loadDumpFile = __tryLogCompaction = __parseChangeClusterRequest = __closed
    __changeCluster = __doChangeCluster = __updateClusterConfiguration = __closed
    __onBecomeLeader = __setCurrentTerm = __deleteEntriesFrom = __deleteEntriesTo = __closed
