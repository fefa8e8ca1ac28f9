"""Agents without containers on a real manager: joins, sessions, assignments and reports; start, update, node loss."""

from __future__ import annotations

import asyncio
from pathlib import Path

from swarmpy.node.config import ManagerAddress, Paths
from swarmpy.proto import control_pb2, objects_pb2, types_pb2

from bench.agent_member import PlayedAgent
from tests.unit.test_manager_process import Running, change, get, paths, run, service
from tests.unit.test_plan_cli import cli

__all__ = ["paths"]

AGENTS, TASKS = 6, 60


async def connected(
    m: Running, directory: Path, count: int
) -> tuple[list[PlayedAgent], list[asyncio.Task[None]]]:
    token = await m.control.Token(control_pb2.TokenRequest())
    config = m.process.config
    managers = (ManagerAddress(config.node_id, f"127.0.0.1:{config.ports.manager}"),)
    agents = [PlayedAgent(number, directory / str(number), managers) for number in range(count)]
    for agent in agents:
        await agent.join(token.token, f"127.0.0.1:{config.ports.join}")
    sessions = [asyncio.create_task(agent.session.run()) for agent in agents]
    ready = types_pb2.NODE_READY
    await m.until(
        lambda: sum(n.status.state == ready for n in m.store.nodes()) >= count, "all agents are there"
    )
    return agents, sessions


def running(m: Running) -> list[objects_pb2.Task]:
    wanted = types_pb2.TASK_RUNNING
    return [t for t in m.store.tasks() if t.status.state == wanted and t.desired_state == wanted]


def test_sixty_tasks_on_six_agents(paths: Paths, tmp_path: Path) -> None:
    async def story(m: Running) -> None:
        agents, sessions = await connected(m, tmp_path, AGENTS)
        try:
            made = (await m.control.Create(service("web", TASKS))).object.service
            await m.until(lambda: len(running(m)) == TASKS, "all run")
            assert {sum(t.node_id == n.meta.id for t in running(m)) for n in m.store.nodes()} <= {0, 10, 12}

            def all_at_once(current: object) -> None:
                spec = current.service.spec  # type: ignore[attr-defined]
                spec.update.parallelism, spec.update.monitor_ms = 0, 1
                spec.task.container.env[:] = ["A=1"]

            await change(m, get("web"), all_at_once)
            await m.until(
                lambda: len([t for t in running(m) if list(t.spec.container.env) == ["A=1"]]) == TASKS,
                "all are new",
            )
            planned = await cli(m, "service", "scale", f"web={TASKS + 6}", "--plan")
            assert f"Tasks: 6 start, {TASKS} stay." in planned.output
            why = await cli(m, "explain", "web")
            assert "RANK" in why.output
            sessions[0].cancel()
            await m.until(
                lambda: (
                    len(running(m)) == TASKS
                    and not any(t.node_id == agents[0].session._self_id for t in running(m))
                ),
                "the tasks of the lost agent run elsewhere",
            )
            assert made.meta.id
        finally:
            for session in sessions:
                session.cancel()
            await asyncio.gather(*sessions, return_exceptions=True)

    run(paths, story)
