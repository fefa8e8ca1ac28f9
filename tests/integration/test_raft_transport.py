"""What the raft port refuses, and what the wire survives; real TLS on the loopback."""

from __future__ import annotations

import asyncio
import logging
import ssl
import struct
from pathlib import Path

import pytest
from swarmpy.proto import raft_pb2
from swarmpy.raft.transport import FRAME_BYTES_MAX, PROTOCOL, Transport

from tests.integration.raft_cluster import Authority, common_name, context, free_port, wait_for


class End:
    """One transport that notes what it hears."""

    def __init__(self, directory: Path, node_id: str, allowed: tuple[str, ...] = ("n1", "n2")) -> None:
        self.messages: list[raft_pb2.RaftMessage] = []
        self.connected: list[str] = []
        self.lost: list[str] = []
        self.port = free_port()
        self.transport = Transport(
            node_id, ("127.0.0.1", self.port), server_ssl=lambda: context(directory, node_id, server=True),
            client_ssl=lambda: context(directory, node_id, server=False), peer_id=common_name,
            is_allowed=lambda peer: peer in allowed, on_message=self.messages.append,
            on_connected=self.connected.append, on_lost=self.lost.append,
        )  # fmt: skip


def vote(sender: str, to: str, index: int = 0) -> raft_pb2.RaftMessage:
    return raft_pb2.RaftMessage(
        sender=sender, to=to, term=1, vote_request=raft_pb2.VoteRequest(last_index=index)
    )


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    authority = Authority(tmp_path)
    for name in ("n1", "n2", "n3"):
        authority.issue(name)
    return tmp_path


async def speak(end: End, directory: Path, name: str, frames: list[bytes], *, tls12: bool = False) -> bytes:
    """Connect by hand, write, and read until the other side closes."""
    client = context(directory, name, server=False)
    client.check_hostname = False
    if tls12:
        client.minimum_version = client.maximum_version = ssl.TLSVersion.TLSv1_2
    reader, writer = await asyncio.open_connection("127.0.0.1", end.port, ssl=client)
    try:
        for frame in frames:
            writer.write(struct.pack(">I", len(frame)) + frame)
        async with asyncio.timeout(3):
            return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()
        try:
            await writer.wait_closed()
        except (ConnectionError, ssl.SSLError):
            pass


def hello(name: str, protocol: int = PROTOCOL) -> bytes:
    return raft_pb2.RaftFrame(hello=raft_pb2.RaftHello(node_id=name, protocol=protocol)).SerializeToString()


def test_both_can_speak_over_one_connection_and_loss_is_told(directory: Path) -> None:
    async def main() -> None:
        one, two = End(directory, "n1"), End(directory, "n2")
        await one.transport.start()
        await two.transport.start()
        one.transport.set_peers({"n2": f"127.0.0.1:{two.port}"})
        await wait_for(lambda: one.connected == ["n2"] and two.connected == ["n1"])
        for index in range(100):
            assert one.transport.send(vote("n1", "n2", index))
            assert two.transport.send(vote("n2", "n1", index))
        await wait_for(lambda: len(one.messages) == len(two.messages) == 100)
        assert [m.vote_request.last_index for m in two.messages] == list(range(100))
        await two.transport.stop()
        await wait_for(lambda: one.lost == ["n2"])
        assert not one.transport.send(vote("n1", "n2"))
        await one.transport.stop()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("frames", "reason"),
    [
        ([hello("n1")], "says it is n1"),
        ([hello("n2", 99)], "speaks protocol 99"),
        ([b"\xff\xff\xff"], "not a raft message"),
        ([b"x" * 5000], "a frame of 5000 bytes"),
        ([raft_pb2.RaftFrame(message=vote("n2", "n1")).SerializeToString()], "out of order"),
        (
            [hello("n2"), raft_pb2.RaftFrame(message=vote("n3", "n1")).SerializeToString()],
            "in the name of n3",
        ),
        ([hello("n2"), hello("n2")], "out of order"),
    ],
)
def test_refused_by_what_it_says(
    directory: Path, caplog: pytest.LogCaptureFixture, frames: list[bytes], reason: str
) -> None:
    async def main() -> None:
        end = End(directory, "n1")
        await end.transport.start()
        await speak(end, directory, "n2", frames)
        assert end.messages == []
        await end.transport.stop()

    with caplog.at_level(logging.WARNING):
        asyncio.run(main())
    assert reason in caplog.text


def test_a_frame_over_the_limit_ends_the_connection(
    directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        end = End(directory, "n1")
        await end.transport.start()
        client = context(directory, "n2", server=False)
        client.check_hostname = False
        reader, writer = await asyncio.open_connection("127.0.0.1", end.port, ssl=client)
        writer.write(struct.pack(">I", len(hello("n2"))) + hello("n2"))
        await wait_for(lambda: end.connected == ["n2"])
        writer.write(struct.pack(">I", FRAME_BYTES_MAX + 1))
        try:
            async with asyncio.timeout(3):
                await reader.read()
        except ConnectionError:
            pass
        writer.close()
        try:
            await writer.wait_closed()
        except (ConnectionError, ssl.SSLError):
            pass
        await end.transport.stop()

    with caplog.at_level(logging.WARNING):
        asyncio.run(main())
    assert f"the limit is {FRAME_BYTES_MAX}" in caplog.text


def test_refused_by_who_it_is(directory: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        end = End(directory, "n1", allowed=("n2",))
        await end.transport.start()
        await speak(end, directory, "n3", [hello("n3")])
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await speak(end, directory, "n2", [hello("n2")], tls12=True)
        (directory / "other").mkdir()
        other = Authority(directory / "other")
        other.issue("n2")
        (directory / "other" / "ca.crt").write_bytes((directory / "ca.crt").read_bytes())
        try:
            await speak(end, directory / "other", "n2", [hello("n2")])
        except ssl.SSLError:
            pass
        assert end.connected == []
        assert end.messages == []
        await end.transport.stop()

    with caplog.at_level(logging.WARNING):
        asyncio.run(main())
    assert "not a manager of this cluster" in caplog.text


def test_an_address_of_another_node_is_noticed(directory: Path) -> None:
    """The certificate is checked against the id dialled, whoever answers."""

    async def main() -> None:
        one, two = End(directory, "n1"), End(directory, "n2")
        await one.transport.start()
        await two.transport.start()
        one.transport.set_peers({"n3": f"127.0.0.1:{two.port}"})
        await asyncio.sleep(0.3)
        assert not one.transport.is_connected("n3")
        assert not one.transport.is_connected("n2")
        await one.transport.stop()
        await two.transport.stop()

    asyncio.run(main())
