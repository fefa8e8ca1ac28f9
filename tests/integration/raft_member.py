"""One member as a process of its own: writes whenever it leads, notes each acknowledgement.

    raft_member.py DIRECTORY NAME PORT [--bootstrap NAME=PORT ...]

`acks.NAME` gets a line per acknowledged command (it survives a kill), `led.NAME` one per
leadership with the time it could write. SIGUSR1 stops the writing: from then on
`state.NAME` is the state as it is. SIGTERM ends it. `whole` says that all have a vote.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from pathlib import Path

from swarmpy.raft.log import LogError
from swarmpy.raft.replica import Limits, RaftNode

from tests.integration.raft_cluster import Ledger, common_name, context


async def main(directory: Path, name: str, port: int, others: dict[str, int]) -> None:
    ledger, ended = Ledger(), asyncio.Event()
    loop = asyncio.get_running_loop()
    node = RaftNode(
        node_id=name, address=f"127.0.0.1:{port}", listen=("127.0.0.1", port), directory=directory / name,
        state_machine=ledger, bootstrap=bool(others),
        server_ssl=lambda: context(directory, name, server=True),
        client_ssl=lambda: context(directory, name, server=False), peer_id=common_name,
        on_fatal=lambda reason: os._exit(3), limits=Limits(snapshot_entries=300, trailing_entries=100),
    )  # fmt: skip
    loop.add_signal_handler(signal.SIGTERM, ended.set)
    writing = True

    def quiet() -> None:
        nonlocal writing
        writing = False

    loop.add_signal_handler(signal.SIGUSR1, quiet)
    await node.start()
    with (directory / f"acks.{name}").open("ab", buffering=0) as acks:

        async def write(number: int) -> None:
            count = 0
            while True:
                await asyncio.sleep(0.005)
                if not writing or not node.status().is_leader:
                    continue
                count += 1
                command = f"{name}-{os.getpid()}-{number}-{count}"
                try:
                    await node.propose(command.encode())
                except LogError:
                    continue
                acks.write(f"{command} {time.time()}\n".encode())

        async def show() -> None:
            shown = -1
            while True:
                await asyncio.sleep(0.05)
                if not writing and len(ledger.commands) != shown:
                    shown = len(ledger.commands)
                    temporary = directory / f"state.{name}.tmp"
                    temporary.write_bytes(b"\n".join(ledger.commands))
                    temporary.rename(directory / f"state.{name}")

        writers = [asyncio.create_task(show())]
        writers += [asyncio.create_task(write(number)) for number in range(4)]
        for other, other_port in others.items():
            while not node.status().is_leader or other not in {m.node_id for m in node.status().members}:
                try:
                    await node.add_member(other, f"127.0.0.1:{other_port}")
                except LogError:
                    await asyncio.sleep(0.05)
        if others:
            (directory / "whole").touch()
        await ended.wait()
        for writer in writers:
            writer.cancel()
        await asyncio.gather(*writers, return_exceptions=True)
    await node.stop(transfer=False)


if __name__ == "__main__":
    peers = dict(argument.split("=") for argument in sys.argv[5:])
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), {k: int(v) for k, v in peers.items()}))
