"""`upgrade --to FILE`: another build on every node, one after the other; `upgrade status`.

The command leads, the state remembers: which build a node shall run is `Node.spec.build`, written by this
command and replicated; what became of it is `Node.description.build`, said by the node. A node tries the
build and goes back by itself (node/builds), so neither a broken build nor an end of this command leaves it
half way. A planner on the leader could lead instead, but an upgrade is watched by a person who decides what
follows when a node fails, and a loop in the managers would be run by the very builds that are exchanged.
Run again, the command skips the nodes that are done.

Order: workers, then managers that do not lead, the leader last, after it handed over the lead. The next node
begins once the one before runs the new build as a whole, has a session, and has the tasks that it had.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from swarmpy.cli import upgrade_file
from swarmpy.cli.errors import CliError, NotConverged, UsageRefused
from swarmpy.cli.options import MILLISECONDS, connect
from swarmpy.cli.upgrade_file import Build

if TYPE_CHECKING:
    from swarmpy.cli.client import Client

PATIENCE_MS = 60_000
FETCH_S = 900.0
RESTARTS = 3  # what a node may need of its patience: the roles, the daemon, the way back
TASKS_S = 30.0
POLL_S = 0.3
RECONNECT_S = 180.0  # the manager that is asked restarts twice, too
LEAD_S = 30.0
GATHER_S = 60.0  # how long a node that is not ready is waited for before anything is begun


@dataclass(frozen=True)
class Step:
    """One node's part. `action`: upgrade, skip; later done or failed."""

    node: str
    node_id: str
    role: str
    version: str
    action: str
    reason: str = ""


def steps(nodes: Iterable[Any], leader_id: str, version: str, digest: str, *, skip_down: bool) -> list[Step]:
    """What is to be done, in order; `digest` "" = not known yet. Raises CliError for what cannot begin."""
    from swarmpy.proto import objects_pb2, types_pb2

    found = []
    for node in sorted(nodes, key=lambda n: (_rank(n, leader_id), n.meta.name, n.meta.id)):
        status, known = node.description.build, node.description.version
        role = "worker" if node.role != types_pb2.ROLE_MANAGER else "manager"
        role = "leader" if node.meta.id == leader_id else role
        runs = known == version and (not digest or status.digest in {"", digest})
        if runs and status.state != objects_pb2.BUILD_TRYING:
            action, reason = "skip", "runs it already"
        elif node.status.state != types_pb2.NODE_READY:
            if not skip_down:
                raise CliError(
                    f"Node {node.meta.name} is not ready: bring it back or remove it (`swarmpy node rm`), or "
                    "leave it as it is with --skip-down and run the same command again when it is back."
                )
            action, reason = "skip", "is not ready"
        else:
            action, reason = "upgrade", ""
        found.append(Step(node.meta.name, node.meta.id, role, known, action, reason))
    return found


def _rank(node: Any, leader_id: str) -> int:
    from swarmpy.proto import types_pb2

    if node.meta.id == leader_id:
        return 2
    return int(node.role == types_pb2.ROLE_MANAGER)


def check(nodes: Iterable[Any], cluster: Any, build: Build, *, skip_check: bool) -> None:
    """Raises CliError where the cluster cannot take the build."""
    nodes = list(nodes)
    if cluster.spec.autolock:
        raise CliError(
            "Managers of this cluster start locked (autolock), so none would come back by itself, neither with the "
            "new build nor with the one before: turn it off for the upgrade (`swarmpy swarm update "
            "--autolock=false`) and on again afterwards, which makes a new unlock key and new data keys."
        )
    for node in nodes:
        name, known = node.meta.name, node.description.version
        if not node.description.state_level:
            raise CliError(
                f"Node {name} ({known or 'version unknown'}) is too old to exchange its build by itself: "
                "install the new version there by hand first."
            )
        machine = node.description.platform.architecture
        if machine and machine != build.architecture:
            raise CliError(f"Node {name} is a {machine}, {build.path.name} is for {build.architecture}.")
        if not skip_check and upgrade_file.too_far(known, build.version):
            raise CliError(
                f"Node {name} runs {known}, {build.path.name} is {build.version}: only versions next to each other "
                "(one minor version up or down) are made to run together. Go there in steps, or use "
                "--skip-version-check if you know better."
            )


@click.group(invoke_without_command=True)
@click.option(
    "--to", "path", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
    help="The build: a single-file executable (make binary), or a wheel where every node has its libraries",
)  # fmt: skip
@click.option("--plan", "planning", is_flag=True, help="Only say what would be done, in which order")
@click.option(
    "--patience", "patience_ms", type=MILLISECONDS, default=f"{PATIENCE_MS // 1000}s", show_default=True,
    help="How long a node may take to become healthy with it before it goes back",
)  # fmt: skip
@click.option("--skip-version-check", is_flag=True, help="Also a version that is not next to a node's")
@click.option("--skip-down", is_flag=True, help="Leave out nodes that are not ready")
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.pass_context
def upgrade(
    ctx: click.Context, path: Path | None, planning: bool, patience_ms: int, skip_version_check: bool,
    skip_down: bool, form: str,
) -> None:  # fmt: skip
    """Put another build of swarmpy on every node, one after the other, containers untouched."""
    if ctx.invoked_subcommand is not None:
        if path is not None:
            raise UsageRefused("--to and `status` do not go together.")
        return
    if path is None:
        raise UsageRefused("Say which build: --to FILE. `swarmpy upgrade status` shows what the nodes run.")
    if not 5_000 <= patience_ms <= 3_600_000:
        raise UsageRefused("--patience: from 5s to 1h.")
    build = upgrade_file.look_at(path)
    client = connect(ctx)
    client.timeout_s = client.missing_socket_s = max(client.timeout_s, RECONNECT_S)
    nodes = _members(client)
    check(nodes, client.find("cluster")[0], build, skip_check=skip_version_check)
    if planning:
        _show(steps(nodes, client.status().leader_id, build.version, "", skip_down=skip_down), build, form)
        return
    digest = _bring(client, build)
    if not skip_down:
        nodes = _gathered(client, patience_ms)
    plan = steps(nodes, client.status().leader_id, build.version, digest, skip_down=skip_down)
    _check_quiet(nodes)
    done: list[dict[str, Any]] = []
    problem = ""
    for step in plan:
        started = time.monotonic()
        try:
            if step.action == "upgrade":
                _one(client, step, build, digest, patience_ms)
        except CliError as error:
            problem = error.message
        entry = {**asdict(step), "seconds": round(time.monotonic() - started, 1), "to": build.version}
        done.append({**entry, "action": "failed", "reason": problem} if problem else entry)
        if problem:
            break
    _end(client, build, digest, done, problem, form)


def _bring(client: Client, build: Build) -> str:
    """The digest of the image that holds the build, once the cluster has it."""
    from swarmpy.cli.image import chunks

    click.echo(f"Bringing {build.path.name} ({build.version}) into the cluster …", err=True)
    faults: list[str] = []
    digest = ""
    with (
        tempfile.TemporaryDirectory(prefix="swarmpy-upgrade-") as scratch,
        upgrade_file.archive(build, Path(scratch)).open("rb") as stream,
    ):
        for step in client.load_image(chunks(stream, "", "docker", faults)):
            digest = next((image.digest for image in step.images), digest)
    if faults or not digest:
        raise CliError(f"{build.path} did not get into the cluster: {faults[0] if faults else 'no answer'}.")
    return digest


def _members(client: Client) -> list[Any]:
    return [node for node in client.find("node") if not node.removed]


def _gathered(client: Client, patience_ms: int) -> list[Any]:
    """All nodes, after a node that was just restarted had time to come back."""
    from swarmpy.proto import types_pb2

    deadline = time.monotonic() + min(GATHER_S, patience_ms / 1000)
    said = False
    while True:
        nodes = _members(client)
        away = [node.meta.name for node in nodes if node.status.state != types_pb2.NODE_READY]
        if not away or time.monotonic() > deadline:
            return nodes
        if not said:
            click.echo(f"Waiting for {', '.join(away)}, not ready …", err=True)
            said = True
        time.sleep(POLL_S)


def _check_quiet(nodes: Iterable[Any]) -> None:
    from swarmpy.proto import objects_pb2

    busy = {objects_pb2.BUILD_FETCHING, objects_pb2.BUILD_TRYING}
    at_it = [node.meta.name for node in nodes if node.description.build.state in busy]
    if at_it:
        raise CliError(
            f"Node {at_it[0]} is being upgraded right now: wait for it (`swarmpy upgrade status`)."
        )


def _one(client: Client, step: Step, build: Build, digest: str, patience_ms: int) -> None:
    """Upgrade one node. Raises NotConverged with what became of it."""
    click.echo(f"{step.node}: {step.version} -> {build.version}", err=True)
    _hand_over_lead(client, step.node_id)
    before = {task.meta.id for task in _running(client, step.node_id)}
    former = client.get("node", step.node_id).description.build.digest
    attempt = _wish(client, step.node_id, digest, build.version, patience_ms)
    settled, message = _settled(client, step, attempt, patience_ms)
    if not settled:
        raise NotConverged(
            f"Node {step.node} did not take {build.version} and runs {step.version} as before: {message}. "
            "The upgrade stopped there; run it again when the cause is gone."
        )
    if lost := _lost(client, step.node_id, before):
        attempt = _wish(client, step.node_id, former, step.version, patience_ms)
        back, _ = _settled(client, step, attempt, patience_ms)
        raise NotConverged(
            f"Node {step.node} runs {build.version} but lost {len(lost)} of {len(before)} tasks ({lost[0]}); "
            f"it {'went back' if back else 'could not go back'} to {step.version}. The upgrade stopped there."
        )


def _hand_over_lead(client: Client, node_id: str) -> None:
    """The node must not lead while it restarts; where it is the only manager there is nobody to hand over to."""
    status = client.status()
    others = [member for member in status.members if member.node_id != node_id and member.reachable]
    if status.leader_id != node_id or not others:
        return
    client.transfer_lead("")
    deadline = time.monotonic() + LEAD_S
    while client.status().leader_id in {"", node_id}:
        if time.monotonic() > deadline:
            raise NotConverged("The lead was not handed over: run the upgrade again.")
        time.sleep(POLL_S)


def _wish(client: Client, node_id: str, digest: str, version: str, patience_ms: int) -> int:
    """Write what the node shall run; gives the number of the attempt."""
    attempt = 0

    def edit(node: Any) -> None:
        nonlocal attempt
        attempt = max(node.spec.build.attempt, node.description.build.attempt) + 1
        wish = node.spec.build
        wish.digest, wish.version, wish.attempt, wish.patience_ms = digest, version, attempt, patience_ms

    client.change("node", node_id, edit)
    return attempt


def _settled(client: Client, step: Step, attempt: int, patience_ms: int) -> tuple[bool, str]:
    """Whether the node runs what it should now, and else why not."""
    from swarmpy.proto import objects_pb2, types_pb2

    words = {objects_pb2.BUILD_FETCHING: "fetches it", objects_pb2.BUILD_TRYING: "restarts with it"}
    deadline = time.monotonic() + FETCH_S + RESTARTS * patience_ms / 1000
    said = None
    while time.monotonic() < deadline:
        node = client.get("node", step.node_id)
        status = node.description.build
        if status.attempt == attempt:
            if status.state != said and status.state in words:
                click.echo(f"{step.node}: {words[status.state]}", err=True)
            if said != objects_pb2.BUILD_TRYING and status.state == objects_pb2.BUILD_TRYING:
                deadline = time.monotonic() + RESTARTS * patience_ms / 1000 + TASKS_S
            said = status.state
            if status.state == objects_pb2.BUILD_FAILED:
                return False, status.message
            if status.state == objects_pb2.BUILD_SETTLED and node.status.state == types_pb2.NODE_READY:
                return True, ""
        time.sleep(POLL_S)
    return False, "it was not heard of in time, see `swarmpy upgrade status` and its log"


def _running(client: Client, node_id: str) -> list[Any]:
    from swarmpy.proto import types_pb2

    wanted = types_pb2.TASK_RUNNING
    return [
        task for task in client.find("task", node=node_id)
        if task.node_id == node_id and task.status.state == wanted and task.desired_state == wanted
    ]  # fmt: skip


def _lost(client: Client, node_id: str, before: set[str]) -> list[str]:
    """Tasks that ran before and do not any more, though nobody stopped them: their names and what became of them."""
    from swarmpy.proto import types_pb2

    deadline = time.monotonic() + TASKS_S
    while True:
        tasks = [task for task in client.find("task", node=node_id) if task.meta.id in before]
        lost = [
            f"{task.meta.name}: {types_pb2.TaskState.Name(task.status.state).removeprefix('TASK_').lower()}, "
            f"{task.status.error or task.stop_reason or task.status.reason or task.status.message}"
            for task in tasks
            if task.status.state != types_pb2.TASK_RUNNING
            and (task.desired_state == types_pb2.TASK_RUNNING or task.stop_reason == "NODE_DOWN")
        ]
        if not lost or time.monotonic() > deadline:
            return sorted(lost)
        time.sleep(POLL_S)


def _end(
    client: Client, build: Build, digest: str, done: list[dict[str, Any]], problem: str, form: str
) -> None:
    upgraded = sum(entry["action"] == "upgrade" for entry in done)
    if not problem and all(entry["reason"] != "is not ready" for entry in done):
        for image in client.find("image"):
            if image.digest == digest:
                client.delete("image", image.meta.id)
    if form == "json":
        for entry in done:
            entry["action"] = {"upgrade": "done"}.get(entry["action"], entry["action"])
        answer = {
            "version": build.version,
            "digest": digest,
            "nodes": done,
            "ok": not problem,
            "problem": problem,
        }
        click.echo(json.dumps(answer, ensure_ascii=False))
    elif not problem:
        left = [entry["node"] for entry in done if entry["reason"] == "is not ready"]
        rest = f"; left out: {', '.join(left)}" if left else ""
        same = len(done) - upgraded - len(left)
        click.echo(f"{upgraded} nodes upgraded to {build.version}, {same} ran it already{rest}.")
    if problem:
        raise NotConverged(problem)


def _show(plan: list[Step], build: Build, form: str) -> None:
    if form == "json":
        click.echo(json.dumps({"version": build.version, "nodes": [asdict(step) for step in plan]}))
        return
    from swarmpy.cli.output import aligned

    rows = [["NODE", "ROLE", "FROM", "TO", "ACTION"]]
    for step in plan:
        action = step.action if not step.reason else f"{step.action}: {step.reason}"
        rows.append([step.node, step.role, step.version, build.version, action])
    click.echo("\n".join(aligned(rows)))


@upgrade.command("status")
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.pass_context
def status(ctx: click.Context, form: str) -> None:
    """Show which build every node runs, and how far an upgrade is."""
    client = connect(ctx)
    from swarmpy.cli.output import aligned, short_id

    rows = [_state_of(node) for node in _members(client)]
    rows.sort(key=lambda row: row["node"])
    if form == "json":
        click.echo(json.dumps(rows, ensure_ascii=False))
        return
    cells = [["NODE", "VERSION", "BUILD", "WANTED", "STATE", "MESSAGE"]]
    for row in rows:
        build = short_id(row["build"].removeprefix("sha256:"), whole=False) or "installed"
        cells.append([row["node"], row["version"], build, row["wanted"], row["state"], row["message"]])
    click.echo("\n".join(aligned(cells)))


def _state_of(node: Any) -> dict[str, str]:
    from swarmpy.proto import objects_pb2, types_pb2

    wish, status = node.spec.build, node.description.build
    state = objects_pb2.BuildState.Name(status.state).removeprefix("BUILD_").lower()
    if wish.attempt != status.attempt:
        state = "waiting"
    if node.status.state != types_pb2.NODE_READY:
        state += ", not ready"
    return {
        "node": node.meta.name, "version": node.description.version, "build": status.digest,
        "wanted": wish.version, "state": state, "message": status.message if status.attempt == wish.attempt else "",
    }  # fmt: skip
