"""A web server for `bench.zero_failed`: keep-alive, and a polite end. Standard library only; runs in a container.

On SIGTERM it answers what it has begun with `Connection: close`, closes idle connections, and ends.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import sys


class Server:
    def __init__(self) -> None:
        self.ending = asyncio.Event()
        self.idle: set[asyncio.StreamWriter] = set()
        self.busy = 0
        self.name = socket.gethostname().encode()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                self.idle.add(writer)
                asked = await reader.readuntil(b"\r\n\r\n")
                self.idle.discard(writer)
                self.busy += 1
                last = self.ending.is_set() or b"connection: close" in asked.lower()
                word = b"close" if last else b"keep-alive"
                head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: %s\r\n\r\n"
                writer.write(head % (len(self.name), word) + self.name)
                await writer.drain()
                self.busy -= 1
                if last:
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            self.idle.discard(writer)
            writer.close()

    async def run(self, port: int) -> None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self.ending.set)
        server = await asyncio.start_server(self.serve, "0.0.0.0", port, backlog=1024)
        await self.ending.wait()
        server.close()
        for writer in list(self.idle):
            writer.close()
        while self.busy:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.2)


if __name__ == "__main__":
    asyncio.run(Server().run(int(sys.argv[1])))
