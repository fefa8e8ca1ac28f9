"""The child process that unpacks one layer: `python -m swarmpy.node.image.unpack JSON`.

It starts as root, opens what it needs, and then gives up everything else: no
network (own empty namespace), no view of the file system (chroot into the layer's
directory), five capabilities, no new privileges, limits on memory, CPU time and
file size. Descriptor 0 is a socket whose other end the parent holds: over it come the
directories of the layers below, once they are made, and when it closes, the child ends.
Most layers never look below themselves, so those of an image are unpacked side by side.
The child answers one JSON line on stdout:
{"ok": {...}} or {"error": CLASS, "message": TEXT}.
"""

from __future__ import annotations

import json
import os
import resource
import socket
import sys
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from swarmpy.node.image import compression, kernel
from swarmpy.node.image.errors import (
    FULL_DISK,
    ArchiveHostile,
    DigestMismatch,
    ImageError,
    NoSpace,
)  # fmt: skip
from swarmpy.node.image.extract import Extractor, Unpacked
from swarmpy.node.image.limits import Limits
from swarmpy.node.image.tar import TarReader

KEPT = frozenset(
    {kernel.CAP_CHOWN, kernel.CAP_DAC_OVERRIDE, kernel.CAP_FOWNER, kernel.CAP_FSETID, kernel.CAP_SETFCAP}
)
MEMORY_BYTES_MAX = 1 << 30
OPEN_FILES_MAX = 2048
FDS_AT_ONCE = 100


@dataclass(frozen=True)
class Order:
    """What the parent asks for, as JSON on the command line."""

    blob: str
    target: str
    parents: int  # layers below it
    diff_id: str
    what: str
    limits: Limits


def run(order: Order) -> Unpacked:
    parents = Parents(order.parents)
    with open(order.blob, "rb") as blob:
        size = os.fstat(blob.fileno()).st_size
        with compression.opened(blob, order.what) as stream:
            confine(order)
            parents.start()
            root = os.open("/", os.O_RDONLY | os.O_DIRECTORY)
            metered = compression.MeteredStream(stream, order.what, order.limits.layer_stream_bytes_max(size))
            reader = TarReader(metered, order.what, entries_max=order.limits.entries_max)
            result = Extractor(root, parents.wait, order.what, bytes_max=order.limits.layer_bytes_max).run(
                reader
            )
            if (digest := metered.digest()) != order.diff_id:
                raise DigestMismatch(
                    f"{order.what}: its content is {digest}, but the image says {order.diff_id}; "
                    "the image was built wrongly or changed, pull or load it anew"
                )
    return result


class Parents:
    """The directories that come over descriptor 0; its end is the child's end."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._fds: list[int] = []
        self._here = threading.Event()

    def start(self) -> None:
        threading.Thread(target=self._receive, daemon=True).start()

    def wait(self) -> Sequence[int]:
        self._here.wait()
        return self._fds

    def _receive(self) -> None:
        with socket.socket(fileno=0) as line:
            while True:
                if len(self._fds) >= self._count:
                    self._here.set()
                data, fds, _, _ = socket.recv_fds(line, 1, FDS_AT_ONCE)
                if not data:
                    os._exit(1)
                self._fds += fds


def confine(order: Order) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for limit, value in (
        (resource.RLIMIT_AS, MEMORY_BYTES_MAX),
        (resource.RLIMIT_CPU, order.limits.cpu_s),
        (resource.RLIMIT_FSIZE, order.limits.layer_bytes_max),
        (resource.RLIMIT_NOFILE, OPEN_FILES_MAX),
    ):
        _, hard = resource.getrlimit(limit)
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(limit, (value, value))
    os.umask(0)
    kernel.unshare(kernel.CLONE_NEWNET | kernel.CLONE_NEWIPC | kernel.CLONE_NEWUTS)
    os.chroot(order.target)
    os.chdir("/")
    kernel.no_new_privileges()
    kernel.keep_only(KEPT)


def main(argument: str) -> int:
    fields = json.loads(argument)
    order = Order(**{**fields, "limits": Limits(**fields["limits"])})
    answer: dict[str, Any]
    try:
        answer = {"ok": asdict(run(order))}
    except ImageError as error:
        answer = {"error": type(error).__name__, "message": str(error)}
    except OSError as error:
        full = error.errno in FULL_DISK
        text = f"no space left to unpack {order.what}" if full else f"cannot unpack {order.what}: {error}"
        answer = {"error": (NoSpace if full else ImageError).__name__, "message": text}
    except MemoryError:
        answer = {
            "error": ArchiveHostile.__name__,
            "message": f"{order.what}: needs too much memory to unpack",
        }
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()
    return 0


if __name__ == "__main__":
    status = main(sys.argv[1])
    os._exit(status)  # no waiting for the thread that watches the parent
