"""The flags of how an update goes: its steps, its gate (canary, blue-green) and who promotes it.

--update-parallelism 2|25%            --update-progress-deadline 10m        (and --rollback-…)
--strategy rolling|blue-green         --keep-old 10m
--canary 1|10%|0                      --auto-promote
--analysis failures<1%,latency<300ms,window=2m
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import click
from swarmpy.cli import parse
from swarmpy.cli.options import MILLISECONDS, Value

STRATEGIES = ("rolling", "blue-green")


@dataclass(frozen=True)
class Rules:
    """One --analysis; a window of 0 is the default."""

    max_failure_ratio: float = 0.0
    max_probe_ms: int = 0
    window_ms: int = 0


def part(text: str) -> float:
    """`1%` -> 0.01; a ratio stays."""
    number, percent, rest = text.partition("%")
    if percent and not rest:
        return (
            parse.ratio(str(float(number) / 100))
            if re.fullmatch(r"\d+(\.\d+)?", number)
            else parse.ratio(text)
        )
    return parse.ratio(text)


def analysis(text: str) -> Rules:
    """`failures<1%,latency<300ms,window=2m`; an empty text means the defaults."""
    found: dict[str, Any] = {}
    for piece in filter(None, (piece.strip() for piece in text.split(","))):
        match = re.fullmatch(r"(failures|latency|window)\s*(<=|<|=)\s*(\S+)", piece)
        if match is None or (match[1] == "window") != (match[2] == "="):
            raise ValueError(
                f"{piece!r} is no rule: write failures<1%, latency<300ms (of health checks) or window=2m"
            )
        if match[1] == "failures":
            found["max_failure_ratio"] = part(match[3])
        else:
            found["max_probe_ms" if match[1] == "latency" else "window_ms"] = parse.duration_ms(match[3])
    return Rules(**found)


def parallelism(text: str) -> tuple[int, int]:
    """`2` -> (2, 0), `25%` -> (0, 25): a number of tasks, or a part of them."""
    match = re.fullmatch(r"(\d{1,9})(%?)", text)
    if match is None or (match[2] and not 1 <= int(match[1]) <= 100):
        raise ValueError(f"{text!r} is neither a number of tasks such as 2 nor a part such as 25%")
    return (0, int(match[1])) if match[2] else (int(match[1]), 0)


def share(text: str) -> str:
    """`1`, `10%`; `0` and nothing mean none."""
    count, percent = parallelism(text or "0")
    return text if count or percent else ""


PARALLELISM = Value(parallelism, "number|percent")
SHARE = Value(share, "number|percent")
SCALARS: tuple[tuple[str, Any, str], ...] = (
    ("update-parallelism", PARALLELISM, "Tasks updated at once: a number, or a part like 25% (1, 0 = all)"),
    ("rollback-parallelism", PARALLELISM, "Tasks rolled back at once: a number, or a part (1, 0 = all)"),
    ("update-progress-deadline", MILLISECONDS, "A new task that does not run by then has failed (10m)"),
    ("rollback-progress-deadline", MILLISECONDS, "The same for a rollback (10m)"),
    ("update-strategy", click.Choice(STRATEGIES), "The same as --strategy rolling|blue-green"),
    ("canary", SHARE, "Updates stop after so many tasks and wait for promotion: 1, 10%; 0 = none"),
    ("analysis", Value(analysis, "rules"), "What a promotion takes: failures<1%,latency<300ms,window=2m"),
    ("history-limit", click.IntRange(1, 50), "Earlier revisions kept to roll back to (10)"),
    ("keep-old", MILLISECONDS, "Blue-green: how long the old tasks run on after the switch (10m)"),
)
SWITCHES = (
    (
        "--prefetch/--no-prefetch",
        "prefetch",
        "Updates first get the image on the nodes that run the service",
    ),
    (
        "--auto-promote/--no-auto-promote",
        "auto_promote",
        "Promote when the analysis holds, roll back when not",
    ),
)


def edit(spec: Any, flags: Mapping[str, Any]) -> None:
    """The flags of this module into spec.update and spec.rollback."""
    for prefix in ("update", "rollback"):
        config = getattr(spec, prefix)
        if (given := flags.get(f"{prefix}_parallelism")) is not None:
            config.ClearField("parallelism")
            count, config.parallelism_percent = given
            if not config.parallelism_percent:
                config.parallelism = count
        if (deadline_ms := flags.get(f"{prefix}_progress_deadline")) is not None:
            config.progress_deadline_ms = deadline_ms
    if flags.get("history_limit") is not None:
        spec.history_limit = flags["history_limit"]
    config = spec.update
    for name in ("strategy", "update_strategy"):  # --strategy also takes how nodes are chosen
        if flags.get(name) in STRATEGIES:
            config.strategy = STRATEGIES.index(flags[name])
    for name, field in (
        ("canary", "canary"),
        ("keep_old", "keep_old_ms"),
        ("auto_promote", "auto_promote"),
        ("prefetch", "prefetch"),
    ):
        if flags.get(name) is not None:
            setattr(config, field, flags[name])
    if (rules := flags.get("analysis")) is not None:
        for name in ("max_failure_ratio", "max_probe_ms", "window_ms"):
            setattr(config.analysis, name, getattr(rules, name))
    if config.HasField("analysis") and not config.analysis.ByteSize():
        config.ClearField("analysis")
