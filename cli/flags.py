"""The flags of `service create` and `service update`, as Docker names and writes them.

One table for both: a scalar flag has the same name in both; a list flag NAME of create becomes the
pair NAME-add and NAME-rm in update. Both put their values under the same names (`env_add`, …), so
one function (edit.apply) does the work: create is an edit of an empty spec.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from typing import Any

import click
from swarmpy.cli import (
    edit_rollout,
    flags_endpoint,
    flags_health,
    flags_placement,
    flags_pods,
    flags_workload,
    parse,
    parse_files,
    parse_mounts,
    parse_runtime,
)
from swarmpy.cli.options import MILLISECONDS, Function, Value, refused

Decorator = Callable[[Function], Function]
BYTES = Value(parse.size_bytes, "bytes")
CPUS = Value(parse.nano_cpus, "decimal")
COUNT = click.IntRange(0, 2**31 - 1)
TEXT = Value(str, "text")
ORDER = click.Choice(["auto", "stop-first", "start-first"])
UPDATE_FAILURE = click.Choice(["rollback", "pause", "continue"])
ROLLBACK_FAILURE = click.Choice(["pause", "continue"])


@dataclass(frozen=True)
class ListFlag:
    """A flag that may be repeated; `rm` is the form of --NAME-rm."""

    name: str
    add: Value
    rm: Value
    help: str
    short: str = ""


KEY = Value(parse.key_value, "key=value")
LISTS = (
    ListFlag("env", TEXT, TEXT, "Environment variable: NAME=value, or NAME to take it from here", "-e"),
    ListFlag("label", KEY, TEXT, "Label of the service", "-l"),
    ListFlag("container-label", KEY, TEXT, "Label of the containers"),
    ListFlag("constraint", Value(parse.constraint, "expression"), TEXT,
             "Only nodes that fit, like node.labels.zone==east"),
    ListFlag("publish", Value(parse.publish, "port"), Value(parse.publish_rm, "port"),
             "Publish a port: [ip:][published:]target[/protocol] or published=,target=,mode=,ip=", "-p"),
    ListFlag("mount", Value(parse_mounts.mount, "mount"), TEXT,
             "Mount: type=bind|volume|tmpfs|pod,source=,target=,readonly,volume-opt=…"),
    ListFlag("tmpfs", Value(parse_mounts.tmpfs, "path"), TEXT, "Memory file system: /path[:size=64m,mode=1777]"),
    ListFlag("secret", Value(parse_files.file_value, "secret"), TEXT,
             "Secret as a file: NAME or source=NAME,target=FILE,uid=0,gid=0,mode=0444"),
    ListFlag("config", Value(parse_files.file_value, "config"), TEXT,
             "Config as a file: NAME or source=NAME,target=FILE,uid=0,gid=0,mode=0444"),
    ListFlag("network", Value(parse.network, "network"), TEXT, "Network: NAME or name=NAME,alias=ALIAS,ip=ADDRESS"),
    ListFlag("host", Value(parse.host, "host:ip"), Value(parse.host_rm, "host[:ip]"),
             "Line for the hosts file: NAME:IP"),
    ListFlag("dns", Value(parse.ip_address, "ip"), TEXT, "DNS server"),
    ListFlag("dns-search", TEXT, TEXT, "DNS search domain"),
    ListFlag("dns-option", TEXT, TEXT, "DNS option"),
    ListFlag("group", TEXT, TEXT, "Supplementary group of the user"),
    ListFlag("ulimit", Value(parse.ulimit, "limit"), TEXT, "Limit: NAME=SOFT[:HARD]"),
    ListFlag("sysctl", Value(parse.strict_key_value, "key=value"), TEXT, "Kernel parameter: NAME=VALUE"),
    ListFlag("annotation", KEY, TEXT, "Annotation for the OCI runtime: NAME=VALUE"),
    ListFlag("device", Value(parse.device, "device"), TEXT, "Device: /dev/NAME[:/dev/NAME[:rwm]]"),
    *(
        ListFlag(f"device-{way}-{unit}", Value(read, "device:rate"), TEXT, f"Most {what} a second: /dev/NAME:{rate}")
        for way in ("read", "write")
        for unit, read, what, rate in (
            ("bps", parse_runtime.device_bytes, f"bytes to {way} on a disk", "10mb"),
            ("iops", parse_runtime.device_requests, f"requests to {way} on a disk", "1000"),
        )
    ),
    *(ListFlag(*row) for row in (*flags_placement.LISTS, *flags_workload.LISTS, *flags_pods.LISTS)),
)  # fmt: skip
PLAIN_LISTS = (
    ("cap-add", Value(parse.capability, "capability"), "Give a capability"),
    ("cap-drop", Value(parse.capability, "capability"), "Take a capability"),
    ("env-file", click.Path(exists=True, dir_okay=False), "File of environment variables"),
    (
        "security-opt",
        Value(parse_runtime.security_option, "option"),
        "seccomp=unconfined|default|FILE, no-new-privileges=true|false",
    ),
    ("log-opt", Value(parse_runtime.log_option, "option"), "max-size=10m, max-file=3"),
)
SCALARS: tuple[tuple[str, Any, str], ...] = (
    ("hostname", TEXT, "Host name in the containers"),
    ("stop-signal", Value(parse.stop_signal, "signal"), "Signal that stops the container"),
    ("stop-grace-period", MILLISECONDS, "Time between the stop signal and SIGKILL (10s)"),
    ("drain-delay", MILLISECONDS, "Time between leaving the load balancer and the stop signal"),
    ("shm-size", BYTES, "Size of /dev/shm (64m)"),
    ("pull", click.Choice(["always", "missing", "never"]), "When nodes fetch the image"),
    ("oom-score-adj", click.IntRange(-1000, 1000), "OOM killer's adjustment"),
    (
        "memory-swap",
        Value(parse_runtime.swap_bytes, "bytes"),
        "Swap beside the memory limit (0, -1 = no limit)",
    ),
    ("memory-swappiness", click.IntRange(-1, 100), "Swappiness, 0 to 100 (-1 = the node's; cgroup v1 only)"),
    (
        "blkio-weight",
        click.IntRange(0, 1000),
        "Share of a busy disk, 10 to 1000 (0 = the default, 100)",
    ),
    ("cpuset-cpus", Value(parse_runtime.cpu_list, "list"), "CPUs it may run on: 0-3,5"),
    ("cpuset-mems", Value(parse_runtime.cpu_list, "list"), "Memory nodes it may use: 0,1"),
    ("pid", Value(parse_runtime.pid, "mode"), "Process ids: host for the node's"),
    ("ipc", Value(parse_runtime.ipc, "mode"), "IPC and /dev/shm: host for the node's"),
    ("userns", Value(parse_runtime.userns, "mode"), "User ids: auto for a range of its own"),
    ("cgroup-parent", TEXT, "Control group of the node, made by you, below which containers run"),
    ("runtime", TEXT, "OCI runtime by name: crun, runc, runsc, …"),
    ("domainname", TEXT, "NIS domain name in the containers"),
    ("gpus", Value(parse_runtime.gpus, "gpus"), "all, or device=/dev/NAME[,/dev/NAME]"),
    ("log-driver", Value(parse_runtime.log_driver, "driver"), "json-file, local or none"),
    ("replicas", COUNT, "Number of tasks"),
    ("replicas-max-per-node", COUNT, "Most tasks on one node (0 = no limit)"),
    ("limit-cpu", CPUS, "Most CPUs"),
    ("limit-memory", BYTES, "Most memory"),
    ("limit-pids", click.IntRange(-1), "Most processes (0 = default, -1 = no limit)"),
    ("reserve-cpu", CPUS, "CPUs kept for each task"),
    ("reserve-memory", BYTES, "Memory kept for each task"),
    *flags_health.SCALARS,
    *flags_pods.SCALARS,
    (
        "restart-condition",
        click.Choice(["any", "on-failure", "none"]),
        "When a task that ended is replaced (any)",
    ),
    ("restart-delay", MILLISECONDS, "Time before a restart (5s)"),
    ("restart-max-delay", MILLISECONDS, "Longest time before a restart, as failures repeat (60s)"),
    ("restart-max-attempts", COUNT, "Most restarts in the window (0 = no limit)"),
    ("restart-window", MILLISECONDS, "Window of the restart limit"),
    ("update-delay", MILLISECONDS, "Time between batches of an update"),
    ("update-order", ORDER, "Old task stopped first or new one started first (auto)"),
    ("update-failure-action", UPDATE_FAILURE, "What follows a failed update (rollback)"),
    (
        "update-monitor",
        MILLISECONDS,
        "Time a new task is watched (10s; with a health check until it is healthy)",
    ),
    ("update-max-failure-ratio", Value(parse.ratio, "ratio"), "Part of the tasks that may fail (0)"),
    *edit_rollout.SCALARS,
    ("rollback-delay", MILLISECONDS, "Time between batches of a rollback"),
    ("rollback-order", ORDER, "Order of a rollback (auto)"),
    ("rollback-failure-action", ROLLBACK_FAILURE, "What follows a failed rollback (pause)"),
    ("rollback-monitor", MILLISECONDS, "Time a rolled back task is watched (as update-monitor)"),
    ("rollback-max-failure-ratio", Value(parse.ratio, "ratio"), "Part of the tasks that may fail (0)"),
    *flags_endpoint.SCALARS,
    *flags_placement.SCALARS,
    *flags_workload.SCALARS,
    ("entrypoint", Value(parse.words, "command"), "Replaces the image's entrypoint"),
)
SWITCHES = (
    ("--init/--no-init", "init", "A small init in front of the command"),
    *flags_health.SWITCHES,
    *flags_pods.SWITCHES,
    ("--read-only/--no-read-only", "read_only", "The root file system is read-only"),
    (
        "--oom-kill-disable/--no-oom-kill-disable",
        "oom_kill_disable",
        "At its memory limit it waits (cgroup v1)",
    ),
    ("--privileged/--no-privileged", "privileged", "Full rights on the node"),
    *flags_placement.SWITCHES,
    *edit_rollout.SWITCHES,
    *flags_endpoint.SWITCHES,
)
REFUSED = (
    ("credential-spec", "it is for Windows"),
    ("isolation", "it is for Windows"),
    ("ip", "addresses come from the node's block"), ("uts", "containers have a host name of their own"),
    ("cgroupns", "containers see their own control group"),
)  # fmt: skip
REFUSED_SWITCHES = (("no-resolve-image", "the managers pin the image's digest"),)


def service_flags(*, update: bool) -> Decorator[Any]:
    """All of them; --name, --mode and the arguments are the commands' own."""
    suffixes = ("add", "rm") if update else ("add",)
    made: list[Callable[[Any], Any]] = [
        list_option(flag, suffix, update) for flag in LISTS for suffix in suffixes
    ]
    made += [
        click.option(f"--{name}", type=kind, multiple=True, help=text) for name, kind, text in PLAIN_LISTS
    ]
    made += [
        click.option("-w", "--workdir", help="Directory the command starts in"),
        click.option("-u", "--user", help="User[:group] the command runs as"),
        click.option("-t", "--tty/--no-tty", "tty", default=None, help="Give the container a terminal"),
    ]
    made += [click.option(f"--{name}", type=kind, help=text) for name, kind, text in SCALARS]
    made += [
        click.option(names, dest, is_flag=True, default=None, help=text) for names, dest, text in SWITCHES
    ]
    for name, why in REFUSED:
        also = [f"--{name}-add", f"--{name}-rm"] if update else []
        made.append(refused(f"--{name}", *also, why=why))
    made += [refused(f"--{name}", why=why, switch=True) for name, why in REFUSED_SWITCHES]
    made.append(
        click.option(
            "--with-registry-auth", is_flag=True, expose_value=False,
            help="Nothing to say: nodes are given what `registry login` keeps anyway",
        )
    )  # fmt: skip
    return lambda function: reduce(lambda inner, option: option(inner), reversed(made), function)


def list_option(flag: ListFlag, suffix: str, update: bool) -> Callable[[Any], Any]:
    """One half of a list flag."""
    dest = f"{flag.name.replace('-', '_')}_{suffix}"
    names = (
        [f"--{flag.name}-{suffix}"] if update else [f"--{flag.name}", *([flag.short] if flag.short else [])]
    )
    text = flag.help if suffix == "add" else f"Take away what --{flag.name}-add gave"
    kind = flag.add if suffix == "add" else flag.rm
    return click.option(*names, dest, type=kind, multiple=True, help=text)
