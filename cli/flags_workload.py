"""The flags of `service create` and `update` for jobs, dependencies and steps: rows for flags.py."""

from __future__ import annotations

import re
from typing import Any

import click
from swarmpy.cli import parse
from swarmpy.cli.options import MILLISECONDS, Value

MODES = ("replicated", "global", "ordered", "replicated-job", "global-job")
CONDITIONS = ("started", "healthy", "completed")
TEXT = Value(str, "text")


def dependency(text: str) -> tuple[str, str]:
    """`db=healthy`; a name alone means started."""
    name, equals, condition = text.partition("=")
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name):
        raise ValueError(f"{text!r} names no service: write SERVICE={'|'.join(CONDITIONS)}")
    return name, parse.one_of(condition if equals else "started", CONDITIONS, "condition")


def step(text: str) -> tuple[str, list[str]]:
    """`IMAGE COMMAND…`, or `. COMMAND…` with the service's own image."""
    words = parse.words(text)
    if not words:
        raise ValueError("the step is empty: write 'IMAGE COMMAND', or '. COMMAND' for the service's image")
    return "" if words[0] == "." else words[0], words[1:]


COUNT = click.IntRange(0, 10_000)
LISTS = (
    ("depends-on", Value(dependency, "svc=cond"), TEXT,
     "Start only when a service is: SERVICE=started|healthy|completed"),
)  # fmt: skip
SCALARS: tuple[tuple[str, Any, str], ...] = (
    ("restart-backoff", click.Choice(["exponential", "constant"]),
     "Whether the delay before a restart doubles as failures repeat (exponential)"),
    ("max-concurrent", COUNT, "Tasks of a job that run at once (all)"),
    ("backoff-limit", COUNT, "Failed attempts after which a job is given up (6)"),
    ("job-ttl", MILLISECONDS, "A job that ended is removed after this time (never)"),
    ("job-deadline", MILLISECONDS, "A job that takes longer is given up (never)"),
    ("pre-deploy", Value(step, "'image cmd'"),
     "Run once before tasks of a new version: 'IMAGE COMMAND', '. COMMAND' in the service's image"),
    ("pre-deploy-timeout", MILLISECONDS, "Time the step may take (5m)"),
)  # fmt: skip


def mode_value(_ctx: click.Context, _param: click.Parameter, value: str) -> str:
    """--mode of create."""
    if value not in MODES:
        raise click.BadParameter(f"{value!r} is not a mode: use {', '.join(MODES)}.")
    return value
