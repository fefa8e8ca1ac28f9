"""The lead handed over on purpose: asked for at a manager that does not lead, answered with who leads now."""

from __future__ import annotations

import pytest

from tests.integration.cluster import Cluster, wait_for

pytestmark = pytest.mark.root


def test_any_manager_is_asked_and_the_answer_says_who_leads(cluster: Cluster) -> None:
    """The change of the lead that was asked for is not taken for the loss of the answer."""
    for _ in range(4):
        before = cluster.leader()
        asked, to = (name for name in ("n1", "n2", "n3") if name != before)
        answer = cluster.at(asked, "node", "transfer-lead", to).stdout.strip()
        wait_for(lambda to=to: cluster.leader() == to, 10, "the manager that was named leads")
        assert answer == cluster.status().leader_id
