"""The flags of pods: --sidecar, --init-container, --pre-start, --pod, --share-pid."""

from __future__ import annotations

from typing import Any

import click
from swarmpy.cli import parse, parse_pods
from swarmpy.cli.options import Value

_NAME = Value(str, "name")
_CONTAINER = Value(parse_pods.container, "container")
# (name, type of the value, type of --NAME-rm, help), as flags.ListFlag has them.
LISTS = (
    ("sidecar", _CONTAINER, _NAME,
     "Container beside the main one: name=,image=,cmd=,env=… and other flags of one container"),
    ("init-container", _CONTAINER, _NAME,
     "Container that has to end well before the others start: name=,image=,cmd=…"),
    ("pre-start", Value(parse_pods.pre_start, "image command"), _NAME,
     "The same in short: 'IMAGE COMMAND…'"),
)  # fmt: skip
SCALARS: tuple[tuple[str, Any, str], ...] = (
    ("pod", click.Path(exists=True, dir_okay=False), "YAML file of all init containers and sidecars"),
    (
        "pod-limit-cpu",
        Value(parse.nano_cpus, "decimal"),
        "Most CPUs of all containers of a task together (0 = no limit)",
    ),
    (
        "pod-limit-memory",
        Value(parse.size_bytes, "bytes"),
        "Most memory of all containers of a task together (0 = no limit)",
    ),
    (
        "pod-limit-pids",
        click.IntRange(0),
        "Most processes of all containers of a task together (0 = no limit)",
    ),
)
SWITCHES = (
    ("--share-pid/--no-share-pid", "share_pid", "Sidecars see the main container's processes"),
)  # fmt: skip
