"""Requests against a URL, each on a new connection, counted. Standard library only: it runs as
`python -m swarmpy.node.demo_load URL SECONDS RATE` inside a demo node, and prints one JSON line
when it ends (also on SIGTERM): requests, failures, the longest gap between two answers, who answered.
"""

from __future__ import annotations

import http.client
import json
import signal
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from types import FrameType
from urllib.parse import urlsplit

TIMEOUT_S = 2.0


@dataclass
class Tally:
    """What was seen. Times in seconds."""

    requests: int = 0
    failures: int = 0
    longest_gap_s: float = 0.0
    first_failure: str = ""
    answered: Counter[str] = field(default_factory=Counter)


def load(url: str, seconds: float, rate: float, stop: list[bool]) -> Tally:
    """Send up to `rate` requests a second until the time is over or `stop` is filled."""
    parts = urlsplit(url)
    tally = Tally()
    begin = last = time.monotonic()
    due = begin
    while time.monotonic() - begin < seconds and not stop:
        time.sleep(max(0.0, due - time.monotonic()))
        due = max(due + 1 / rate, time.monotonic() - 1)
        tally.requests += 1
        try:
            tally.answered[_get(parts.hostname or "", parts.port or 80, parts.path or "/")] += 1
            tally.longest_gap_s = max(tally.longest_gap_s, time.monotonic() - last)
            last = time.monotonic()
        except (OSError, http.client.HTTPException) as error:
            tally.failures += 1
            tally.first_failure = tally.first_failure or f"{type(error).__name__}: {error}"
    return tally


def _get(host: str, port: int, path: str) -> str:
    connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        body = answer.read()
        if answer.status != 200:
            raise http.client.HTTPException(f"status {answer.status}")
        return body.decode(errors="replace").strip()
    finally:
        connection.close()


def main(arguments: list[str]) -> int:
    url, seconds, rate = arguments
    stop: list[bool] = []

    def ended(_number: int, _frame: FrameType | None) -> None:
        stop.append(True)

    signal.signal(signal.SIGTERM, ended)
    signal.signal(signal.SIGINT, ended)
    tally = load(url, float(seconds), float(rate), stop)
    report = {
        "requests": tally.requests, "failures": tally.failures, "longest_gap_s": round(tally.longest_gap_s, 3),
        "first_failure": tally.first_failure, "answered": dict(tally.answered),
    }  # fmt: skip
    sys.stdout.write(json.dumps(report) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
