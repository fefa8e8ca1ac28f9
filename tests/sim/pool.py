"""Histories on all processors: a seed is a history, and a failure names its seed.

Each worker is a fresh interpreter. Garbage is not collected in it: messages have no cycles, and the
collector would look at the whole store again and again.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager

BLOCK = 50  # seeds of one test
CHUNK = 5  # seeds of one errand


def blocks(default: str) -> list[tuple[int, int]]:
    """The seeds to run, `SEEDS=FIRST:LAST` or the default, in blocks."""
    first, last = (int(part) for part in os.environ.get("SEEDS", default).split(":"))
    return [(start, min(start + BLOCK, last)) for start in range(first, last, BLOCK)]


@contextmanager
def workers() -> Iterator[ProcessPoolExecutor]:
    """One interpreter for each processor."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(os.cpu_count(), mp_context=context, initializer=gc.disable) as pool:
        yield pool


def check(pool: ProcessPoolExecutor, history: Callable[[int], object], first: int, last: int) -> None:
    """Run `history` for every seed from `first` to before `last`."""
    chunks = [range(start, min(start + CHUNK, last)) for start in range(first, last, CHUNK)]
    found = [pool.submit(_run, history, chunk) for chunk in chunks]
    problems = [problem for future in found for problem in future.result()]
    assert not problems, "\n".join([f"{len(problems)} histories failed", *problems[:5]])


def _run(history: Callable[[int], object], seeds: Sequence[int]) -> list[str]:
    problems = []
    for seed in seeds:
        try:
            history(seed)
        except AssertionError as error:
            problems.append(str(error) or f"seed {seed}: an assertion of the code itself failed")
    gc.collect()
    return problems
