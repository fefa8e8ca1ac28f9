"""The roles of a node as programs: what `swarmpy agent`, `swarmpy manager` and `swarmpy dns` run.

Exit codes: 0 told to end, 1 broken (the supervisor starts it again), 70 the node was removed
from the cluster (the supervisor ends too), 72 its loop hung (started again).
The supervisor runs `python -m` on this module.
"""

from __future__ import annotations

import logging
import os
import resource
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from swarmpy.node import config as node_config
from swarmpy.node import log as node_log
from swarmpy.node.daemon import EXIT_REMOVED, die_with_parent
from swarmpy.node.metrics import Family, Page, Registry, Server, by_label, gauge
from swarmpy.node.watchdog import watched

if TYPE_CHECKING:
    from swarmpy.overlay.dns import DnsServer

log = logging.getLogger(__name__)
UMASK = 0o077
FILES_WANTED = 65_536  # an agent has some twenty open for a container: one is watched, its numbers are read


def run_agent(state_dir: Path, level: str) -> int:
    """The agent role."""
    from swarmpy.node.agent.process import AgentProcess
    from swarmpy.node.agent.session import Removed
    from swarmpy.node.ca import tls
    from swarmpy.node.image.errors import ImageError
    from swarmpy.node.runtime.errors import ContainerError
    from swarmpy.overlay.errors import OverlayError

    paths = _prepare("agent", state_dir, level)
    allow_files()
    tls.use_profile(node_config.load(paths).raft_profile)
    paths.run.mkdir(mode=0o700, parents=True, exist_ok=True)

    async def main() -> None:
        await AgentProcess(paths).run()

    return _run("agent", main, (ContainerError, OverlayError, ImageError), (Removed,))


def allow_files() -> None:
    """A shell gives 1024 files and lets programs ask for more. Containers have a limit of their own."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = FILES_WANTED if hard == resource.RLIM_INFINITY else min(FILES_WANTED, hard)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))


def run_manager(state_dir: Path, level: str) -> int:
    """The manager role."""
    from swarmpy.node.ca import tls
    from swarmpy.node.ca.errors import CaError
    from swarmpy.node.manager.process import Fatal, ManagerProcess
    from swarmpy.raft.log import LogError

    paths = _prepare("manager", state_dir, level)
    tls.use_profile(node_config.load(paths).raft_profile)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # its memory holds every secret of the cluster
    paths.run.mkdir(mode=0o700, parents=True, exist_ok=True)

    async def main() -> None:
        await ManagerProcess(paths).run()

    return _run("manager", main, (Fatal, CaError, LogError), ())


def run_dns(state_dir: Path, level: str) -> int:
    """The DNS role. It speaks no TLS: asyncio does without where there is no OpenSSL, which saves 4 MB."""
    sys.modules.setdefault("ssl", None)  # type: ignore[arg-type]
    import asyncio

    from swarmpy.overlay import dns, precedence

    paths = _prepare("dns", state_dir, level)
    paths.dns_table.parent.mkdir(parents=True, exist_ok=True)

    async def main() -> None:
        server = dns.DnsServer(paths.dns_table)
        registry = Registry()
        registry.collect(lambda: _dns_numbers(server))

        async def page() -> Page:
            return Page(registry.text())

        shown = Server({"/metrics": page})
        try:
            paths.dns_metrics.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            await shown.start_unix(paths.dns_metrics)
        except OSError as error:
            log.error("no metrics path=%s error=%s", paths.dns_metrics, error)
        ahead = asyncio.ensure_future(precedence.keep())
        try:
            await dns.serve(server)
        finally:
            ahead.cancel()
            await shown.stop()

    return _run("dns", main, (OSError,), ())


def _dns_numbers(server: DnsServer) -> Iterator[Family]:
    yield by_label(
        "swarmpy_dns_queries_total",
        "counter",
        "Questions to this node's resolver.",
        "result",
        vars(server.counts),
    )
    yield gauge("swarmpy_dns_services", "Services whose names it knows.", len(server.services))


def _prepare(process: str, state_dir: Path, level: str) -> node_config.Paths:
    die_with_parent()
    os.umask(UMASK)
    paths = node_config.Paths(state_dir)
    node_log.setup(process, node_config.load(paths).hostname, level)
    return paths


def _run(
    name: str,
    main: Callable[[], Awaitable[None]],
    known: tuple[type[Exception], ...],
    removed: tuple[type[Exception], ...],
) -> int:
    """Run until SIGTERM; known errors become one line, anything else a traceback."""
    import asyncio

    async def with_signals() -> int:
        task = asyncio.ensure_future(main())
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, task.cancel)
        with watched(name):
            await asyncio.wait({task})
        if task.cancelled():
            return 0
        error = task.exception()
        if error is None:
            return 0
        leaves = list(_leaves(error))
        if any(isinstance(leaf, removed) for leaf in leaves):
            log.error("node removed reason=%s", leaves[0])
            return EXIT_REMOVED
        if all(isinstance(leaf, known) for leaf in leaves):
            for leaf in leaves:
                log.critical("%s", leaf)
            return 1
        raise error

    return asyncio.run(with_signals())


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error


ROLES = {"agent": run_agent, "manager": run_manager, "dns": run_dns}

if __name__ == "__main__":
    _, given_role, _, given_state_dir, _, given_level = sys.argv
    sys.exit(ROLES[given_role](Path(given_state_dir), given_level))
