"""Damaged files are set aside, not removed: the member begins empty and the others fill it.

That is safe because an empty directory draws a new incarnation (raft/journal.py): the member
neither votes nor counts until the leader has taken the old one out and the new one in.
`damaged-N` keeps everything, the keys too; only the newest two are kept.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from swarmpy.raft.keyring import FILE_NAME
from swarmpy.raft.segment import sync_directory

PATTERNS = ("*.wal", "*.snapshot", "*.damaged", FILE_NAME)
KEPT = 2


def set_aside(directory: Path) -> Path:
    """Move the member's files into a directory of their own; says which. Blocks.

    The journal's oldest segments go first: killed in the middle, what is left is a whole log
    behind a snapshot, or damaged, and then it is set aside, too.
    """
    earlier = sorted(directory.glob("damaged-*"), key=number_of)
    aside = directory / f"damaged-{number_of(earlier[-1]) + 1 if earlier else 1}"
    aside.mkdir(mode=0o700)
    for pattern in PATTERNS:
        for path in sorted(directory.glob(pattern)):
            path.rename(aside / path.name)
    (directory / "spare").unlink(missing_ok=True)
    sync_directory(aside)
    sync_directory(directory)
    for old in earlier[: 1 - KEPT]:
        shutil.rmtree(old)
    return aside


def number_of(path: Path) -> int:
    text = path.name.rpartition("-")[2]
    return int(text) if text.isdigit() else 0
