"""`python -m tests.chaos`: chaos for some minutes, then the figures. Exit code 1 on any anomaly."""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
from pathlib import Path
from typing import Any

DEFAULT_ROOT = "/var/lib/swarmpy-chaos"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=None, help="default: a random one, printed")
    parser.add_argument("--managers", type=int, default=5)
    parser.add_argument("--clients", type=int, default=6)
    parser.add_argument("--workers", type=int, default=1, help="of each client, on its one connection")
    parser.add_argument("--rate", type=float, default=0.0, help="operations a second, at most")
    parser.add_argument("--pace", type=float, default=1.0, help="faults so many times shorter")
    parser.add_argument(
        "--only", action="append", default=[], help="this kind of fault only; can be repeated"
    )
    parser.add_argument("--faults", type=int, default=0, help="end after so many faults, if time allows")
    parser.add_argument("--operations", type=int, default=0, help="and so many operations")
    parser.add_argument("--history", type=Path, default=None, help="write every operation to this file")
    parser.add_argument("--format", choices=["table", "json"], default="table")
    arguments = parser.parse_args()
    os.environ.setdefault("SWARMPY_DEMO_ROOT", DEFAULT_ROOT)
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from tests.chaos import runner
    from tests.chaos.cluster import ChaosError
    from tests.chaos.faults import FAULTS

    if unknown := set(arguments.only) - set(FAULTS):
        parser.error(f"no such fault: {', '.join(sorted(unknown))} (there are: {', '.join(FAULTS)})")
    if os.geteuid() != 0:
        parser.error("chaos makes network namespaces and mounts: run it as root")
    seed = random.SystemRandom().randrange(1 << 32) if arguments.seed is None else arguments.seed
    options = runner.Options(
        arguments.minutes, seed, arguments.managers, arguments.clients, only=tuple(arguments.only),
        faults_wanted=arguments.faults, operations_wanted=arguments.operations, history=arguments.history,
        workers=arguments.workers, rate=arguments.rate, pace=arguments.pace,
    )  # fmt: skip
    runner.say(f"seed {seed}")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # clean up then, too
    try:
        report = runner.run(options)
    except ChaosError as error:
        parser.exit(2, f"{error}\n")
    figures = runner.figures(report)
    print(json.dumps(figures, indent=1) if arguments.format == "json" else table(figures))
    return 0 if report.good else 1


def table(figures: dict[str, Any]) -> str:
    lines = [
        (
            f"seed {figures['seed']}, {figures['managers']} managers, {figures['clients']} clients with "
            f"{figures['workers']} workers, {figures['seconds']:.0f} s, judged in {figures['judged_s']:.0f} s"
        ),
        "",
        f"{'FAULT':24}{'COUNT':>6}{'MEDIAN GAP':>12}{'LONGEST GAP':>13}",
    ]
    for kind, row in figures["by_kind"].items():
        lines.append(f"{kind:24}{row['count']:6}{row['median_gap_s']:10.2f} s{row['longest_gap_s']:11.2f} s")
    lines += [
        "",
        f"faults                     {figures['faults']}",
        f"operations                 {figures['operations']} over {figures['keys']} keys",
        f"of unknown outcome         {figures['unknown']}",
        f"watched events             {figures['watched_events']}",
        f"lost acknowledged writes   {figures['lost_acknowledged_writes']}",
        f"anomalies                  {len(figures['anomalies'])}",
    ]
    for title in ("anomalies", "undecided", "problems"):
        lines += [f"{title}: {text[:1500]}" for text in figures[title]]
    for name in ("operations_by_outcome", "errors"):
        lines += [
            "",
            name.replace("_", " "),
            *(f"  {count:8} {what}" for what, count in figures[name].items()),
        ]
    for name, ends in figures["tracebacks"].items():
        lines += [f"traceback in {name}: {count} × {text}" for text, count in ends.items()]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
