"""This terminal at a task's program: input, output, window size, keys to leave, exit code."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import sys
import termios
import threading
import tty
from types import FrameType
from typing import Any

import click
from swarmpy.cli.client import Client
from swarmpy.cli.errors import CliError, UsageRefused
from swarmpy.proto import tasks_pb2

READ_BYTES = 32 * 1024
QUEUE_MAX = 16
LEFT = 0


class Session:
    """One exec or attach; `run` gives the exit code, None when nobody knows it."""

    def __init__(
        self, client: Client, method: str, first: tasks_pb2.SessionInput, *, stdin: bool, keys: str
    ) -> None:
        self._client, self._method, self._first, self._stdin = client, method, first, stdin
        self._keys = Keys(detach_keys(keys))
        self._requests: queue.Queue[tasks_pb2.SessionInput | None] = queue.Queue(QUEUE_MAX)
        self._left = threading.Event()
        self._answers: Any = None
        self._before: Any = None  # what the terminal was

    def run(self) -> int | None:
        start = getattr(self._first, str(self._first.WhichOneof("message")))
        if size := terminal_size():
            start.size.CopyFrom(size)
        self._requests.put(self._first)
        code: int | None = None
        try:
            self._answers = self._client.tasks_call(self._method, iter(self._requests.get, None))
            for answer in self._client.answers(self._answers):
                code = self._show(answer, code)
        except CliError:  # our own cancelling
            if not self._left.is_set():
                raise
        finally:
            self._restore()
            with contextlib.suppress(queue.Full):
                self._requests.put_nowait(None)
            if self._answers is not None:
                self._answers.cancel()
        if self._left.is_set():
            click.echo("\nLeft the session.", err=True)
            return LEFT
        return code

    def _show(self, answer: tasks_pb2.SessionOutput, code: int | None) -> int | None:
        match answer.WhichOneof("message"):
            case "place":
                self._begin(answer.place.tty)
            case "stdout":
                write_all(1, answer.stdout)
            case "stderr":
                write_all(2, answer.stderr)
            case "exit":
                return None if answer.exit.unknown else answer.exit.code
        return code

    def _begin(self, with_terminal: bool) -> None:
        """The task has answered: from here on the keys are its own."""
        if with_terminal and self._stdin and os.isatty(0):
            self._before = termios.tcgetattr(0)
            tty.setraw(0, termios.TCSANOW)
        if with_terminal and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGWINCH, self._resized)
        if self._stdin:
            raw = self._before is not None
            threading.Thread(target=self._read, args=(raw,), name="input", daemon=True).start()

    def _resized(self, _number: int, _frame: FrameType | None) -> None:
        if size := terminal_size():
            with contextlib.suppress(queue.Full):
                self._requests.put_nowait(tasks_pb2.SessionInput(size=size))

    def _read(self, raw: bool) -> None:
        while True:
            try:
                data = os.read(0, READ_BYTES)
            except OSError:
                data = b""
            if not data:
                self._requests.put(tasks_pb2.SessionInput(stdin_end=True))
                return
            leave = False
            if raw:
                data, leave = self._keys.feed(data)
            if data:
                self._requests.put(tasks_pb2.SessionInput(stdin=data))
            if leave:
                self._left.set()
                self._answers.cancel()
                return

    def _restore(self) -> None:
        if self._before is not None:
            termios.tcsetattr(0, termios.TCSADRAIN, self._before)
            self._before = None
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGWINCH, signal.SIG_DFL)


class Keys:
    """Finds a sequence of keys in what is typed, and lets everything else pass."""

    def __init__(self, sequence: bytes) -> None:
        self._sequence = sequence
        self._held = b""

    def feed(self, data: bytes) -> tuple[bytes, bool]:
        """(what is for the program, whether the sequence is complete)."""
        passed = b""
        for position in range(len(data)):
            self._held += data[position : position + 1]
            while not self._sequence.startswith(self._held):
                passed, self._held = passed + self._held[:1], self._held[1:]
            if self._held and self._held == self._sequence:
                self._held = b""
                return passed, True
        return passed, False


def detach_keys(text: str) -> bytes:
    """`ctrl-p,ctrl-q` as bytes; "" = none."""
    result = b""
    for key in filter(None, text.split(",")):
        letter = key.removeprefix("ctrl-")
        if len(key) == 1 and key.isascii():
            result += key.encode()
        elif key != letter and len(letter) == 1 and letter.lower() in "abcdefghijklmnopqrstuvwxyz@[\\]^_":
            result += bytes([ord(letter.upper()) & 0x1F])
        else:
            raise UsageRefused(
                f"--detach-keys: {key!r} is no key: write letters or ctrl-LETTER, with commas."
            )
    return result


def terminal_size() -> tasks_pb2.TerminalSize | None:
    for fd in (1, 0, 2):
        with contextlib.suppress(OSError):
            size = os.get_terminal_size(fd)
            return tasks_pb2.TerminalSize(rows=size.lines, columns=size.columns)
    return None


def write_all(fd: int, data: bytes) -> None:
    """At once and unbuffered: a prompt has no line end."""
    (sys.stdout if fd == 1 else sys.stderr).flush()
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
