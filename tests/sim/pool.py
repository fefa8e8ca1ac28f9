"""Histories on all processors: a seed is a history, and a failure names its seed.

Each worker is a fresh interpreter. Garbage is not collected in it: messages have no cycles, and the
collector would look at the whole store again and again.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor

CHUNK = 10


def run_seeds(history: Callable[[int], object], first: int, last: int) -> list[str]:
    """Run `history` for every seed from `first` to before `last`; returns what failed."""
    chunks = [range(start, min(start + CHUNK, last)) for start in range(first, last, CHUNK)]
    workers = min(os.cpu_count() or 1, len(chunks))
    if workers <= 1:
        return [problem for chunk in chunks for problem in _run(history, chunk)]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=gc.disable) as pool:
        found = [pool.submit(_run, history, chunk) for chunk in chunks]
        return [problem for future in found for problem in future.result()]


def _run(history: Callable[[int], object], seeds: Sequence[int]) -> list[str]:
    problems = []
    for seed in seeds:
        try:
            history(seed)
        except AssertionError as error:
            problems.append(str(error) or f"seed {seed}: an assertion of the code itself failed")
    gc.collect()
    return problems
