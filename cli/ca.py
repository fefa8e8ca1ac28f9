"""`ca show`, `ca rotate`, and Docker's `swarm ca`: the cluster's root certificate.

A rotation is data of the managers and goes on by itself; the command only begins it, shows how far it is, and
names the nodes that it waits for.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import click
from swarmpy.cli.errors import NotConverged, UsageRefused
from swarmpy.cli.options import (
    MILLISECONDS,
    DockerCommand,
    connect,
    converge_timeout_s,
    format_option,
    limit_option,
    refused,
)

if TYPE_CHECKING:
    from swarmpy.cli.client import Client

POLL_S = 0.3
RECONNECT_S = 60.0  # the lead may move while the rotation goes on
NAMED_MAX = 10
OWN_ROOT = "the managers make the root and sign with it"
AFTERWARDS = """
Join tokens of before are refused: show the new ones with `swarmpy token worker` and `swarmpy token manager`.
A backup of before holds the old root and its key: make a new one with `swarmpy backup create`."""


@click.group()
def ca() -> None:
    """The cluster's root certificate, which all certificates of nodes come from."""


@ca.command("show")
@click.option("--pem", is_flag=True, help="Only the certificate itself, PEM")
@format_option
@click.pass_context
def show(ctx: click.Context, pem: bool, template: str) -> None:
    """Show the root, its rotation, and how many nodes have a certificate from which root."""
    answer = report(connect(ctx))
    if pem:
        click.echo(answer.root.certificate.decode(), nl=False)
        return
    _print(answer, template)


@ca.command("rotate")
@click.option("--plan", "planning", is_flag=True, help="Only check, and show which nodes would be waited for")
@click.option("-d", "--detach", is_flag=True, help="Do not wait until the rotation is over")
@click.option("-q", "--quiet", is_flag=True, help="Show no progress")
@limit_option
@format_option
@click.pass_context
def rotate(
    ctx: click.Context, planning: bool, detach: bool, quiet: bool, timeout_ms: int | None, template: str
) -> None:
    """Replace the root by a new one: every node gets a certificate from it, then trusts only it."""
    client = connect(ctx)
    if planning:
        _print_plan(begin(client, plan=True), template)
        return
    began = begin(client)
    if detach:
        _print(began, template)
        return
    ended = follow(client, began, converge_timeout_s(ctx, timeout_ms), quiet=quiet)
    if template not in {"", "table"}:
        _print(ended, template)
        return
    click.echo(f"The root certificate was rotated: {name_of(ended.root)}, SHA-256 {ended.root.sha256}.")
    click.echo(AFTERWARDS)


@click.command("ca", cls=DockerCommand)
@click.option("--rotate", "rotating", is_flag=True, help="Replace the root by a new one")
@click.option("--cert-expiry", type=MILLISECONDS, help="Lifetime of the nodes' certificates, with --rotate")
@click.option("-d", "--detach", is_flag=True, help="Do not wait until the rotation is over")
@click.option("-q", "--quiet", is_flag=True, help="Show no progress")
@refused("--ca-cert", why=OWN_ROOT)
@refused("--ca-key", why=OWN_ROOT)
@refused("--external-ca", why=OWN_ROOT)
@click.pass_context
def swarm_ca(ctx: click.Context, rotating: bool, cert_expiry: int | None, detach: bool, quiet: bool) -> None:
    """Show the root certificate, PEM; with --rotate replace it first."""
    if not rotating and (cert_expiry is not None or detach or quiet):
        raise UsageRefused("--cert-expiry, --detach and --quiet go with --rotate.")
    client = connect(ctx)
    if not rotating:
        click.echo(report(client).root.certificate.decode(), nl=False)
        return
    if cert_expiry is not None:
        (cluster,) = client.find("cluster")
        client.change("cluster", cluster.meta.id, lambda it: setattr(it.spec, "cert_expiry_ms", cert_expiry))
    began = begin(client)
    if not detach:
        ended = follow(client, began, converge_timeout_s(ctx, None), quiet=quiet)
        click.echo(ended.root.certificate.decode(), nl=False)


def report(client: Client) -> Any:
    """Where the root and its rotation are."""
    from swarmpy.proto import control_pb2

    return client.call("ShowRoot", control_pb2.ShowRootRequest())


def begin(client: Client, *, plan: bool = False) -> Any:
    """Begin a rotation, or begin it anew; with `plan` nothing is changed."""
    from swarmpy.cli.client import new_request_id
    from swarmpy.proto import control_pb2

    client.only_now("rotate the root certificate")
    return client.call("RotateRoot", control_pb2.RotateRootRequest(request_id=new_request_id(), plan=plan))


def follow(client: Client, began: Any, limit_s: float, *, quiet: bool) -> Any:
    """The report once the rotation is over. Raises NotConverged, naming the nodes it waits for."""
    client.timeout_s = max(client.timeout_s, RECONNECT_S)
    deadline, said = time.monotonic() + limit_s, ""
    answer = began
    while answer.started_ms:
        line = progress_of(answer)
        if line != said and not quiet:
            click.echo(line, err=True)
        said = line
        if time.monotonic() > deadline:
            raise NotConverged(
                f"The rotation is not over after {limit_s:g} s and goes on by itself ({line}); see `swarmpy ca show`."
            )
        time.sleep(POLL_S)
        answer = report(client)
        if answer.started_ms and answer.started_ms != began.started_ms:
            raise NotConverged("Somebody began the rotation anew: see `swarmpy ca show`.")
    return answer


def progress_of(answer: Any) -> str:
    """One line: the phase, how far it is, and who is waited for."""
    done = answer.nodes - answer.waiting
    what = "have a certificate from the new root" if answer.next.sha256 else "trust the new root only"
    waits = [f"{wait.hostname} {wait.reason}" for wait in answer.waits[:NAMED_MAX]]
    more = answer.waiting - len(waits)
    rest = f" and {more} more" if more > 0 else ""
    return f"{done} of {answer.nodes} nodes {what}" + (
        f", waiting for: {'; '.join(waits)}{rest}" if waits else ""
    )


def name_of(root: Any) -> str:
    """The common name of a root."""
    return str(root.subject.split(",")[0].removeprefix("CN="))


def _print(answer: Any, template: str) -> None:
    from swarmpy.cli.output import aligned, moment, print_filled

    if print_filled(answer, template):
        return
    facts = _facts_of(answer.root, "Root:", answer.nodes)
    if answer.next.sha256:
        facts += _facts_of(answer.next, "Next root:", answer.nodes)
    if answer.former.sha256:
        facts += _facts_of(answer.former, "Former root:", answer.nodes)
    if answer.unknown:
        facts.append(["Other certificates:", f"{answer.unknown} of {answer.nodes} nodes"])
    state = (
        f"under way since {moment(answer.started_ms)}: {progress_of(answer)}" if answer.started_ms else "none"
    )
    last = f", the last one was over {moment(answer.rotated_ms)}" if answer.rotated_ms else ""
    facts.append(["Rotation:", state + last])
    click.echo("\n".join(aligned(facts)))


def _facts_of(root: Any, label: str, nodes: int) -> list[list[str]]:
    from swarmpy.cli.output import moment

    return [
        [label, root.subject],
        ["  SHA-256:", root.sha256],
        ["  Valid:", f"{moment(root.not_before_ms)} to {moment(root.not_after_ms)}"],
        ["  Certificates:", f"{root.nodes} of {nodes} nodes"],
    ]


def _print_plan(answer: Any, template: str) -> None:
    if template == "json":
        waits = [{"node": wait.hostname, "reason": wait.reason} for wait in answer.waits]
        click.echo(json.dumps({"nodes": answer.nodes, "anew": bool(answer.started_ms), "waits": waits}))
        return
    if answer.started_ms:
        click.echo("A rotation is under way: it would begin anew, from another new root.")
    click.echo(f"Replaces {name_of(answer.root)} by a new root, in this order:")
    click.echo(f"  1. certificates come from the new root: {answer.nodes} nodes renew theirs")
    click.echo("  2. once all have done so, the nodes trust the new root only, and the join tokens change")
    for wait in answer.waits:
        click.echo(f"It would wait for {wait.hostname}, which {wait.reason}")
