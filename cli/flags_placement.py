"""The flags of `service create` and `update` that say where tasks go: rows for the tables in flags.py."""

from __future__ import annotations

from typing import Any

import click
from swarmpy.cli import edit_rollout, parse_placement
from swarmpy.cli.options import Value

TEXT = Value(str, "text")
PREFERENCE = Value(parse_placement.preference, "pref")
TOLERATION = Value(parse_placement.toleration, "taint")
AFFINITY = Value(parse_placement.affinity, "rule")
# name, form of --NAME-add, form of --NAME-rm, help
LISTS = (
    ("placement-pref", PREFERENCE, PREFERENCE,
     "Spread over a label: spread=node.labels.zone[:east=60%,west=40%][,max-skew=1]"),
    ("generic-resource", Value(parse_placement.generic_resource, "kind=n"), TEXT, "Needs of a node: gpu=2"),
    ("toleration", TOLERATION, TOLERATION, "Accept tainted nodes: KEY[=VALUE][:EFFECT], * = all"),
    ("affinity", AFFINITY, TEXT, "Near a service: service==NAME[,topology=node.labels.rack][,soft=50]"),
    ("anti-affinity", AFFINITY, TEXT, "Away from a service: as --affinity"),
)  # fmt: skip
SCALARS: tuple[tuple[str, Any, str], ...] = (
    (
        "strategy",
        click.Choice(["spread", "binpack", "random", *edit_rollout.STRATEGIES]),
        "How nodes are chosen (the cluster's: spread); or how updates go: rolling, blue-green",
    ),
    ("enforce", click.Choice(["now", "drain", "ignore"]),
     "When a node does not fit any more: stop its tasks, one by one, or never (now)"),
    ("on-partition", Value(parse_placement.on_partition, "policy"),
     "When a task's node has no manager: keep, stop-after=TIME, or fence[=TIME]: never two of a slot (keep)"),
    ("priority", click.IntRange(0, 100), "0 to 100: higher goes first (50)"),
    ("min-available", Value(parse_placement.available, "n|%"), "So many tasks keep running when others are stopped"),
)  # fmt: skip
SWITCHES = (("--preempt/--no-preempt", "preempt", "May push out tasks of a priority lower by 10"),)
