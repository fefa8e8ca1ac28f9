"""`init`, `join`, `leave`, and the processes of a node: `daemon`, `agent`, `manager`, `dns`."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import click
from swarmpy.cli.context import state_dir as default_state_dir
from swarmpy.cli.errors import CliError, Conflict, Forbidden, NotConverged
from swarmpy.cli.options import MILLISECONDS, DockerCommand

AVAILABILITIES = click.Choice(["active", "pause", "drain"])
LOG_LEVELS = click.Choice(["DEBUG", "INFO", "WARNING", "ERROR"])
START_TIMEOUT_S = 120.0  # a slow machine takes its time; a dead daemon is seen in its log


def state_dir_option(function: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "--state-dir", type=click.Path(path_type=Path), default=default_state_dir, show_default="/var/lib/swarmpy",
        callback=lambda _ctx, _param, path: path.absolute(), help="Where this node keeps its state",
    )(function)  # fmt: skip


def checked_address(_ctx: click.Context, _param: click.Parameter, value: str) -> str:
    """HOST:PORT with an IP address, or "" for none."""
    from ipaddress import ip_address

    if value in ("", "none"):
        return ""
    host, _, port = value.rpartition(":")
    try:
        ip_address(host.strip("[]"))
        if not 0 < int(port) < 65536:
            raise ValueError
    except ValueError:
        raise click.BadParameter(f"{value!r} is not ADDRESS:PORT, for example 127.0.0.1:7380") from None
    return value


def node_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """The flags init and join share."""
    options = [
        state_dir_option,
        click.option("--advertise-addr", default="", help="IP address other nodes reach this one at"),
        click.option("--listen-addr", default="0.0.0.0", show_default=True, help="IP address to listen on"),
        click.option(
            "--data-path-addr", default="", help="IP address for the overlay's packets (default: advertised)"
        ),
        click.option("--hostname", default="", help="Name of the node (default: the machine's)"),
        click.option("--availability", type=AVAILABILITIES, default="active", show_default=True),
        click.option("--join-port", type=click.IntRange(1, 65535), default=7376, show_default=True),
        click.option("--manager-port", type=click.IntRange(1, 65535), default=7377, show_default=True),
        click.option("--agent-port", type=click.IntRange(1, 65535), default=7378, show_default=True),
        click.option("--raft-port", type=click.IntRange(1, 65535), default=7379, show_default=True),
        click.option(
            "--runtime", default="auto", show_default=True, help="OCI runtime: auto, crun, runc or a path"
        ),
        click.option(
            "--dns",
            multiple=True,
            help="DNS server for names outside the cluster (default: /etc/resolv.conf)",
        ),
        click.option(
            "--metrics-addr",
            default="127.0.0.1:7380",
            show_default=True,
            callback=checked_address,
            help="HOST:PORT for Prometheus and health checks; none to have no such port",
        ),
        click.option(
            "--foreground", is_flag=True, help="Stay in the foreground (for containers and init systems)"
        ),
        click.option("--no-start", is_flag=True, help="Only write the node's state, start nothing"),
    ]
    for option in reversed(options):
        function = option(function)
    return function


def node_options_of(values: dict[str, Any], vxlan_port: int = 4790) -> Any:
    from swarmpy.node import daemon_setup

    ports = daemon_setup.ports(

        join=values["join_port"], manager=values["manager_port"], agent=values["agent_port"],
        raft=values["raft_port"], vxlan=vxlan_port,
    )  # fmt: skip
    return daemon_setup.NodeOptions(
        state_dir=values["state_dir"], advertise_addr=values["advertise_addr"], listen_addr=values["listen_addr"],
        data_path_addr=values["data_path_addr"], hostname=values["hostname"], ports=ports, runtime=values["runtime"],
        upstreams=tuple(values["dns"]) or None,
        availability=AVAILABILITIES.choices.index(values["availability"]), metrics_addr=values["metrics_addr"],
    )  # fmt: skip


@click.command(cls=DockerCommand)
@node_options
@click.option(
    "--cluster-cidr",
    "--default-addr-pool",
    default="",
    help="Addresses of the overlay (default 10.64.0.0/10)",
)
@click.option(
    "--vxlan-port", "--data-path-port", type=click.IntRange(1024, 49151), default=4790, show_default=True
)
@click.option(
    "--task-history-limit",
    type=click.IntRange(0, 1000),
    default=0,
    help="Dead tasks kept per slot (default 5)",
)
@click.option(
    "--profile", type=click.Choice(["lan", "wan"]), default="lan", show_default=True, help="Raft's timings"
)
@click.option("--autolock", is_flag=True, help="Managers start locked and wait for an unlock key")
@click.option(
    "--dispatcher-heartbeat", type=MILLISECONDS, default="0s", help="How often nodes report (default 1s)"
)
@click.option(
    "--cert-expiry", type=MILLISECONDS, default="0s", help="Life of node certificates (default 720h)"
)
def init(
    autolock: bool, cluster_cidr: str, vxlan_port: int, task_history_limit: int, profile: str,
    dispatcher_heartbeat: int, cert_expiry: int, **values: Any,
) -> None:  # fmt: skip
    """Make a new cluster with this machine as its first manager."""
    from swarmpy.node import daemon_setup

    cluster = daemon_setup.ClusterOptions(
        cluster_cidr=cluster_cidr,
        task_history_limit=task_history_limit,
        raft_profile=profile,
        autolock=autolock,
        heartbeat_ms=dispatcher_heartbeat,
        cert_expiry_ms=cert_expiry,
    )
    try:
        config = daemon_setup.init(node_options_of(values, vxlan_port), cluster)
    except daemon_setup.SetupError as error:
        raise refusal(error) from None
    click.echo(
        f"Cluster {config.cluster_id} made; "
        f"this node is {config.hostname} ({config.node_id}) at {config.advertise_addr}."
    )
    if values["foreground"] and not values["no_start"]:
        address = f"{config.advertise_addr}:{config.ports.join}"
        _say_how_to_join(daemon_setup.first_worker_token(values["state_dir"]), [address])
    start_node(values, manager=True)
    if not values["no_start"]:
        _show_join_command(values["state_dir"], autolock=autolock)


@click.command(cls=DockerCommand)
@node_options
@click.option("--token", required=True, help="What `swarmpy token worker` or `swarmpy token manager` shows")
@click.argument("address")
def join(token: str, address: str, **values: Any) -> None:
    """Join this machine to the cluster of the manager at HOST[:PORT][,HOST[:PORT]…]."""
    from swarmpy.node import daemon_setup

    logging.getLogger("swarmpy").addHandler(logging.NullHandler())
    seeds = [part.strip() for part in address.split(",") if part.strip()]
    try:
        config = daemon_setup.join_cluster(node_options_of(values), token, seeds)
    except daemon_setup.SetupError as error:
        raise refusal(error) from None
    click.echo(
        f"This node joined as a {config.role}: {config.hostname} ({config.node_id}) at {config.advertise_addr}."
    )
    start_node(values, manager=config.role == "manager")


def refusal(error: Exception) -> CliError:
    """The exit code by what was refused."""
    text = str(error)
    if "root" in text and "sudo" in text:
        return Forbidden(text)
    return Conflict(text) if "already holds" in text else CliError(text)


def start_node(values: dict[str, Any], *, manager: bool) -> None:
    from swarmpy.node import daemon_setup

    if values["no_start"]:
        return
    if values["foreground"]:
        from swarmpy.node import daemon

        daemon.take_over(values["state_dir"])
    try:
        how = daemon_setup.start(values["state_dir"])
    except daemon_setup.SetupError as error:
        raise refusal(error) from None
    click.echo(f"Daemon started ({how}).")
    if manager and not daemon_setup.wait_for_socket(values["state_dir"], START_TIMEOUT_S):
        raise NotConverged(f"the manager did not come up within {START_TIMEOUT_S:g} s: see {how}")


def _show_join_command(state_dir: Path, *, autolock: bool) -> None:
    """The line for the next machine, as soon as the new manager leads."""
    from swarmpy.cli.client import Client
    from swarmpy.proto import control_pb2, types_pb2

    client = Client([f"unix://{state_dir}/run/control.sock"], START_TIMEOUT_S)
    answer = client.token(control_pb2.TokenRequest(role=types_pb2.ROLE_WORKER))
    _say_how_to_join(answer.token, answer.join_addresses)
    if autolock:
        from swarmpy.cli.lock import show_key

        click.echo("")
        show_key(client.call("UnlockKey", control_pb2.UnlockKeyRequest()).key)


def _say_how_to_join(token: str, addresses: Iterable[str]) -> None:
    click.echo("\nTo add a worker to this cluster, run this on it:\n")
    click.echo(f"    swarmpy join --token {token} {','.join(addresses)}\n")
    click.echo("To add a manager, run `swarmpy token manager` here and follow what it says.")


@click.command(cls=DockerCommand)
@state_dir_option
@click.option(
    "-f", "--force", is_flag=True, help="Leave even where this node is a manager, without asking the others"
)
def leave(state_dir: Path, force: bool) -> None:
    """Take this machine out of its cluster: stop its tasks and remove its state."""
    from swarmpy.node import daemon_leave

    try:
        daemon_leave.leave(state_dir, force=force, say=click.echo)
    except daemon_leave.LeaveRefused as error:
        raise refusal(error) from None
    click.echo("Node left the cluster.")


@click.command(cls=DockerCommand)
@state_dir_option
@click.option("--log-level", type=LOG_LEVELS, default="INFO", show_default=True)
@click.option("--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True)
def daemon(state_dir: Path, log_level: str, log_format: str) -> None:
    """Run this machine's node until told to stop; containers keep running."""
    from swarmpy.node.daemon import take_over

    if not (state_dir / "node.json").exists():
        raise CliError(f"{state_dir} holds no node: run `swarmpy init` or `swarmpy join` first")
    if os.geteuid() != 0:
        raise Forbidden("a node needs root (namespaces, cgroups, nftables): run this with sudo")
    take_over(state_dir, log_level, log_format)


def _role(name: str) -> click.Command:
    @click.command(name, cls=DockerCommand, hidden=True)
    @state_dir_option
    @click.option("--log-level", type=LOG_LEVELS, default="INFO")
    def run(state_dir: Path, log_level: str) -> None:
        from swarmpy.node import daemon_roles

        sys.exit(getattr(daemon_roles, f"run_{name}")(state_dir, log_level))

    run.help = f"The {name} process; the daemon starts it."
    return run


agent, manager, dns = _role("agent"), _role("manager"), _role("dns")
