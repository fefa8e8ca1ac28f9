"""How often nodes send heartbeats."""

from __future__ import annotations

import pytest
from swarmpy.node.manager.liveness import interval_ms


@pytest.mark.parametrize(
    ("nodes", "expected_ms"), [(0, 1000), (3, 1000), (200, 1000), (201, 1005), (1000, 5000)]
)
def test_a_leader_has_at_most_200_heartbeats_to_answer_in_a_second(nodes: int, expected_ms: int) -> None:
    assert interval_ms(nodes) == expected_ms
