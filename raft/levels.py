"""The level of the state: what every manager must understand to apply what the others propose.

A rule for versions that run together (N and N-1):

- What is new in the state (a kind, a field that a planner or `apply` acts on, a format) takes the next level.
- A node reports the level that its version understands (NodeDescription.state_level). The leader raises
  Cluster.state_level to the lowest of all managers' levels, never down (manager/members).
- Whoever proposes something new asks first (`manager/levels.require`): until the last manager is upgraded
  it is refused with a sentence, and every manager still applies everything that is in the log.
- A version that meets a state of a higher level than its own stops (StateTooNew) before it applies anything
  it does not understand, and touches no file: the data is whole, the program is too old. A node of an older
  version does not become a manager.

Fields that nothing acts on, and what only travels on the wire, need no level: protobuf keeps unknown fields.
"""

from __future__ import annotations

from swarmpy.raft.log import LogError

BUILDS = 1  # NodeSpec.build: which build of swarmpy a node shall run
PAYLOADS = 2  # secrets and configs: two kinds, and what tasks refer to
ROOTS = 3  # Cluster.root_rotation: certificates come from another root than the cluster's
STATICS = 4  # static addresses of tasks: what of a network is kept for them, and who has them
TOKENS = 5  # temporary join tokens: a kind, and nodes that are let in by one
PARTITIONS = 6  # what nodes and managers do about tasks whose node is cut off
STACKS = 7  # revisions of stacks: a kind, and what they hold; more or fewer revisions of services than ten
PULLS = 8  # tasks that only get an image, before an update
ROOM = 9  # nodes of which more or less may be reserved than they have

LEVEL = ROOM  # what this version understands


class StateTooNew(LogError):
    """This version of swarmpy is older than the state it was given."""

    def __init__(self, level: int) -> None:
        super().__init__(
            f"the cluster's state has level {level} and this version of swarmpy understands levels up to {LEVEL}: "
            "nothing was changed; start this manager with the version that the other managers run, or a newer one"
        )


def check(level: int) -> None:
    """Raises StateTooNew."""
    if level > LEVEL:
        raise StateTooNew(level)
