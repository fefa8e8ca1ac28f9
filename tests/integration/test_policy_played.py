"""Policies from the command line through a real manager to agents: what a node is told to enforce."""

from __future__ import annotations

import asyncio
from pathlib import Path

from swarmpy.node.agent.picture import Picture
from swarmpy.node.agent.policies import wanted_policies
from swarmpy.node.config import Paths
from swarmpy.overlay.wanted import Policy

from bench.agent_member import PlayedAgent
from tests.integration.test_played_agents import connected, running
from tests.unit.test_manager_process import Running, paths, run, service
from tests.unit.test_plan_cli import cli

__all__ = ["paths"]


def told(agent: PlayedAgent) -> tuple[Policy, ...]:
    picture = Picture.of(agent.session.items)
    return wanted_policies(picture.policies, picture.members, picture.tasks)


def test_a_policy_reaches_the_nodes_and_follows_labels(paths: Paths, tmp_path: Path) -> None:
    async def story(m: Running) -> None:
        agents, sessions = await connected(m, tmp_path, 2)
        try:
            made = await cli(m, "network", "create", "back")
            assert made.exit_code == 0, made.output
            for name in ("web", "db"):
                request = service(name, 2)
                request.object.service.meta.labels["app"] = name
                request.object.service.spec.task.networks.add(target="back")
                await m.control.Create(request)
            await m.until(lambda: len(running(m)) == 4, "all run")
            made = await cli(
                m, "network", "policy", "create", "p", "--from", "app=web", "--to", "app=db", "--port", "80"
            )
            assert made.exit_code == 0, made.output

            def peers() -> list[int]:
                return [len(policy.peers) for agent in agents for policy in told(agent)]

            await m.until(lambda: peers() and min(peers()) >= 1, "the nodes of db know the tasks of web")
            assert all(policy.ports == (("tcp", 80, 80),) for agent in agents for policy in told(agent))
            allowed = await cli(m, "network", "policy", "test", "web", "db:80")
            assert (allowed.exit_code, "allowed" in allowed.output) == (0, True), allowed.output
            relabelled = await cli(m, "service", "update", "-d", "--label-add", "app=other", "web")
            assert relabelled.exit_code == 0, relabelled.output
            await m.until(lambda: set(peers()) == {0}, "the label selects nobody any more")
            removed = await cli(m, "network", "policy", "rm", "p")
            assert removed.exit_code == 0
            await m.until(lambda: not any(told(agent) for agent in agents), "nothing is enforced any more")
        finally:
            for session in sessions:
                session.cancel()
            await asyncio.gather(*sessions, return_exceptions=True)

    run(paths, story)
