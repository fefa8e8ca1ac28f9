"""Progress of images on their way: a line for each layer, redrawn in place on a terminal."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable

import click

CHUNK_BYTES = 1024 * 1024
BAR_WIDTH = 24
UP, CLEAR = "\x1b[{}A", "\x1b[K"


class Lines:
    """What is known of each blob; on a terminal the last lines of it, else one line per news."""

    def __init__(self, *, terminal: bool) -> None:
        self._terminal = terminal
        self._lines: dict[str, str] = {}
        self._drawn = 0
        self._said: set[str] = set()

    def tell(self, blob: str, status: str, done: int, total: int) -> None:
        from swarmpy.cli.output import size_word

        name = blob.removeprefix("sha256:")[:12]
        text = ": ".join(part for part in (name, status) if part)
        if not text:
            return
        if not self._terminal:
            if text not in self._said:
                self._said.add(text)
                click.echo(text, err=True)
            return
        if status in {"downloading", "loading"} and total:
            filled = min(done * BAR_WIDTH // total, BAR_WIDTH)
            text += f" [{'=' * filled}{' ' * (BAR_WIDTH - filled)}] {size_word(done)}/{size_word(total)}"
        self._lines[name] = text
        self._draw()

    def _draw(self) -> None:
        width, height = shutil.get_terminal_size()
        shown = [line[: width - 1] for line in self._lines.values()][-(height - 1) :]
        click.echo(
            (UP.format(self._drawn) if self._drawn else "") + "\n".join(line + CLEAR for line in shown),
            err=True,
            color=True,
        )
        self._drawn = len(shown)


def show(progress: Iterable[object], *, quiet: bool) -> list[str]:
    """Progress on standard error; the names of the images that the last message brings."""
    lines = Lines(terminal=sys.stderr.isatty())
    names: list[str] = []
    for step in progress:
        names += [found.meta.name or found.digest for found in getattr(step, "images", ())]
        if not quiet:
            lines.tell(
                getattr(step, "blob", ""), getattr(step, "status", ""),
                getattr(step, "done_bytes", 0), getattr(step, "total_bytes", 0),
            )  # fmt: skip
    return names
