"""`status`, `version`, and Docker's noun `swarm`."""

from __future__ import annotations

import json
from typing import Any

import click
from swarmpy.cli.errors import NoManager
from swarmpy.cli.main import SWARM_COMMANDS, LazyGroup
from swarmpy.cli.options import DockerCommand, connect, format_option, settings_of


@click.command(cls=LazyGroup, entries=SWARM_COMMANDS)
def swarm() -> None:
    """Docker's names for the cluster's own commands."""


@click.command(cls=DockerCommand)
@format_option
@click.pass_context
def status(ctx: click.Context, template: str) -> None:
    """Show the cluster, its leader and its managers."""
    client = connect(ctx)
    from swarmpy.cli.output import aligned, print_filled, print_rows
    from swarmpy.cli.views import MEMBER_COLUMNS, member_rows

    answer = client.status()
    if print_filled(answer, template):
        return
    if answer.locked:
        facts = [["Cluster:", answer.cluster_id], ["Answered by:", answer.node_id]]
        facts.append(["Locked:", "yes: this manager waits for its key, run `swarmpy unlock`"])
        click.echo("\n".join(aligned(facts)))
        return
    names = {member.node_id: member.hostname for member in answer.members}
    leader = f"{names.get(answer.leader_id, '?')} ({answer.leader_id})" if answer.leader_id else "none"
    quorum = "yes" if answer.has_quorum else "no: writes are refused until a majority of managers runs"
    indexes = f"committed {answer.commit_index}, applied {answer.applied_index}"
    facts = [
        ["Cluster:", answer.cluster_id],
        ["Leader:", leader],
        ["Answered by:", f"{names.get(answer.node_id, '?')} ({answer.node_id})"],
        ["Quorum:", quorum],
        ["Raft:", f"term {answer.term}, epoch {answer.epoch}, {indexes}"],
        ["Nodes:", f"{answer.nodes_ready} ready of {answer.nodes}, {answer.nodes_connected} connected"],
        ["Services:", str(answer.services)],
        ["Tasks running:", str(answer.tasks_running)],
        ["Timing:", timing_of(answer)],
        ["Version:", answer.version],
        *(["Problem:", problem] for problem in answer.problems),
    ]
    click.echo("\n".join(aligned(facts)) + "\n")
    print_rows(MEMBER_COLUMNS, member_rows(answer))


def timing_of(answer: Any) -> str:
    """The profile and what it means."""
    low, high = answer.election_min_ms / 1000, answer.election_max_ms / 1000
    return f"{answer.raft_profile} (heartbeat {answer.heartbeat_ms} ms, election {low:.1f}-{high:.1f} s)"


@click.command(cls=DockerCommand)
@format_option
@click.pass_context
def version(ctx: click.Context, template: str) -> None:
    """Show the version of this command and of the managers."""
    import platform
    from importlib.metadata import version as installed

    values = {"Client": installed("swarmpy"), "Python": platform.python_version(), "Server": ""}
    reason = ""
    try:
        client = connect(ctx)
        if settings_of(ctx).timeout_ms is None:
            client.timeout_s = 2.0
        values["Server"] = client.status().version
    except NoManager as error:
        reason = error.message
    if template == "json":
        click.echo(json.dumps(values))
    elif template not in {"", "table"}:
        from swarmpy.cli.output import filled

        click.echo(filled(template, values))
    else:
        click.echo(f"Client:  swarmpy {values['Client']} (Python {values['Python']})")
        click.echo(f"Server:  {'swarmpy ' + values['Server'] if values['Server'] else 'not reached'}")
    if reason:
        click.echo(reason, err=True)
