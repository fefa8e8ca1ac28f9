"""A process whose loop hangs is ended; one that was only stopped for a while is not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from swarmpy.node.watchdog import EXIT_WEDGED

SOURCE = Path(__file__).resolve().parents[2] / ".src"
HANGS = """
import asyncio, time
from swarmpy.node.watchdog import Watchdog

def stuck_in_a_planner():
    time.sleep(60)

async def main():
    Watchdog("manager", 0.6, 0.1).start()
    await asyncio.sleep(0.3)
    print("turning", flush=True)
    stuck_in_a_planner()

asyncio.run(main())
"""
TURNS = """
import asyncio, sys
from swarmpy.node.watchdog import Watchdog

async def main():
    watchdog = Watchdog("manager", 0.6, 0.1)
    watchdog.start()
    print("turning", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    await asyncio.sleep(0.5)
    watchdog.stop()

asyncio.run(main())
"""


def start(program: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": str(SOURCE)}, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def test_a_loop_that_hangs_ends_the_process_and_says_where() -> None:
    process = start(HANGS)
    said, errors = process.communicate(timeout=30)
    assert said == "turning\n"
    assert process.returncode == EXIT_WEDGED
    assert "the loop of manager has not turned" in errors
    assert "stuck_in_a_planner" in errors


def test_a_stopped_process_is_not_hanging() -> None:
    process = start(TURNS)
    assert process.stdout is not None
    assert process.stdout.readline() == "turning\n"
    process.send_signal(signal.SIGSTOP)
    time.sleep(2)
    process.send_signal(signal.SIGCONT)
    _, errors = process.communicate("\n", timeout=30)
    assert process.returncode == 0, errors
