"""The flags of the three probes: what is asked, and how often. The same nine for each."""

from __future__ import annotations

from typing import Any

import click
from swarmpy.cli import parse_probes
from swarmpy.cli.options import MILLISECONDS, Value

COUNT = click.IntRange(0, 2**31 - 1)
# What a flag's help says of its probe.
WORDS = {
    "health": ("health: the task fails when it does", "the container is unhealthy"),
    "readiness": ("readiness: no traffic while it fails", "the task gets no traffic"),
    "startup": ("startup: the other checks wait for it", "the container is given up"),
}


def scalars(prefix: str) -> tuple[tuple[str, Any, str], ...]:
    """(name, type, help) of one probe's flags."""
    what, means = WORDS[prefix]
    return (
        (f"{prefix}-cmd", Value(str, "text"), f"Command that checks {what}"),
        (f"{prefix}-http", Value(parse_probes.http, "target"), f"HTTP check, {what}: :8080/healthz"),
        (f"{prefix}-tcp", Value(parse_probes.tcp, "target"), f"TCP check, {what}: :5432"),
        (f"{prefix}-grpc", Value(parse_probes.grpc, "target"), f"gRPC check, {what}: :9000[/SERVICE]"),
        (f"{prefix}-interval", MILLISECONDS, "Time between checks (10s)"),
        (f"{prefix}-timeout", MILLISECONDS, "Time a check may take (3s)"),
        (f"{prefix}-retries", COUNT, f"Failures in a row after which {means} (3)"),
        (f"{prefix}-start-period", MILLISECONDS, "Time to start, in which failures do not count (0s)"),
        (f"{prefix}-start-interval", MILLISECONDS, "Time between checks until the first success (1s)"),
    )


SCALARS = tuple(flag for prefix in WORDS for flag in scalars(prefix))
SWITCHES = (
    ("--no-healthcheck", "no_healthcheck", "No health check, whatever the image says"),
    ("--no-readiness", "no_readiness", "No readiness check"),
    ("--no-startup", "no_startup", "No startup check"),
)
