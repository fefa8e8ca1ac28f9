"""`token …` and `swarm join-token …` against a Control server: temporary tokens are made, listed and removed."""

from __future__ import annotations

import json

from tests.contract.cli_double import Double
from tests.contract.test_cli_commands import Run, double, golden, run, server, short_dir

__all__ = ["double", "run", "server", "short_dir"]
AHEAD_MS = 10**13  # the double's clock: long after ours


def test_made_listed_removed(run: Run, double: Double) -> None:
    double.now_ms = AHEAD_MS
    shown = []
    for command in (
        "token worker --ttl 1h",
        "token manager --uses 0 -q",
        "swarm join-token worker --uses 3 --labels zone=a --label disk=ssd",
        "token ls",
        "token ls -f role=manager -q",
        "token ls --format json",
    ):
        result = run(*command.split())
        shown.append(f"$ swarmpy {command}\n{result.output}[{result.exit_code}]\n")
    golden("tokens", "\n".join(shown))
    first, second, _ = sorted(double.objects["token"])
    assert run("token", "rm", first, second).stdout == f"{first}\n{second}\n"
    assert len(double.objects["token"]) == 1
    assert run("token", "rm", first).exit_code == 4


def test_one_flag_is_enough_and_the_others_have_defaults(run: Run, double: Double) -> None:
    made = json.loads(run("token", "worker", "--labels", "a=b", "--format", "json").stdout)["made"]
    (stored,) = double.objects["token"].values()
    assert (made["uses_max"], made["labels"]) == (1, {"a": "b"})
    assert stored.expires_ms - double.now_ms == 24 * 3_600_000
    assert run("token", "worker").exit_code == 0
    assert len(double.objects["token"]) == 1, "the permanent one is only shown"


def test_what_became_of_one(run: Run, double: Double) -> None:
    run("token", "worker", "--ttl", "1h")
    run("token", "worker", "--ttl", "1h", "--uses", "2")
    first, second = (double.objects["token"][key] for key in sorted(double.objects["token"]))
    first.uses = 1
    double.put(first)
    states = run("token", "ls", "--format", "{{.State}} {{.Uses}}").stdout.splitlines()
    assert sorted(states) == ["expired 0/2", "used up 1/1"]
    assert second.expires_ms
