"""Probes of real containers in network namespaces of their own, asked from outside as the agent does."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from swarmpy.node.agent.health import Prober
from swarmpy.node.agent.probes import Check
from swarmpy.node.runtime import Runtime
from swarmpy.overlay import namespaces

from tests.integration.test_runtime_containers import BUSYBOX, RUNTIMES, Box, opened, run

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it makes namespaces, mounts and cgroups"),
    pytest.mark.skipif(
        BUSYBOX is None or not RUNTIMES or not shutil.which("conmon"),
        reason="needs busybox-static, conmon and crun or runc: apt-get install busybox-static conmon crun",
    ),
]
# Answers Check as the real library does: serving overall and "db", not serving "slow", knows no other.
GRPC_SERVER = """
import sys, time
from concurrent import futures
import grpc

def check(request, context):
    name = request[2:].decode()
    if name not in ("", "db", "slow"):
        context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
    return b"\\x08\\x02" if name == "slow" else b"\\x08\\x01"

server = grpc.server(futures.ThreadPoolExecutor(2))
handler = grpc.unary_unary_rpc_method_handler(check)
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("grpc.health.v1.Health", {"Check": handler}),))
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("other.Service", {"Call": handler}),))
server.add_insecure_port("127.0.0.1:" + sys.argv[1])
server.start()
print("up", flush=True)
time.sleep(60)
"""


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    yield from opened(tmp_path, "auto")


@pytest.fixture
def netns(tmp_path: Path) -> Iterator[Path]:
    """A network of its own with only loopback."""
    directory = tmp_path / "netns"
    namespaces.prepare_directory(directory)
    try:
        namespaces.pin(directory / "pod")
        yield directory / "pod"
    finally:
        namespaces.unpin(directory / "pod")
        namespaces.remove_directory(directory)


def with_prober(box: Box, story: Callable[[Runtime, Prober], Awaitable[None]]) -> None:
    async def whole(runtime: Runtime) -> None:
        prober = Prober(runtime)
        try:
            await story(runtime, prober)
        finally:
            prober.close()

    run(box, whole)


async def answered(prober: Prober, check: Check, address: str = "") -> str:
    """The first good answer, or the last bad one: what is asked may need a moment to come up."""
    for _ in range(100):
        said = await prober.ask("a", check, address)
        if not said:
            return ""
        await asyncio.sleep(0.05)
    return said


def test_http_and_tcp_are_asked_inside_the_network_of_the_container(box: Box, netns: Path) -> None:
    script = (
        "while :; do printf 'HTTP/1.1 200 OK\\r\\n\\r\\n' | nc -l -p 8080; "
        "printf 'HTTP/1.1 503 Busy\\r\\n\\r\\n' | nc -l -p 8081; done"
    )

    async def story(runtime: Runtime, prober: Prober) -> None:
        await runtime.create(box.request("a", "sh", "-c", script, netns=netns))
        await runtime.start("a")
        assert await answered(prober, Check(http=":8080/healthz")) == ""
        assert await prober.ask("a", Check(http=":8080/"), "") == "http :8080/: Connection refused"
        for _ in range(100):  # until it listens there
            said = await prober.ask("a", Check(http=":8081/x"), "")
            if "refused" not in said:
                break
            await asyncio.sleep(0.05)
        assert said == "HTTP answer 503 Busy on 127.0.0.1:8081/x"
        assert await answered(prober, Check(tcp=":8080"), "127.0.0.1") == ""
        assert "refused" in await prober.ask("a", Check(tcp="127.0.0.1:9"), "")
        assert "No such process" not in await prober.ask("a", Check(tcp="[::1]:9"), "")
        unreachable = await prober.ask("a", Check(tcp="192.0.2.1:80"), "")
        assert "unreachable" in unreachable

    with_prober(box, story)


def test_what_does_not_answer_in_time_is_said_and_leaves_nothing(box: Box, netns: Path) -> None:
    async def story(runtime: Runtime, prober: Prober) -> None:
        await runtime.create(box.request("a", "sh", "-c", "sleep 60 | nc -l -p 8080", netns=netns))
        await runtime.start("a")
        check = Check(http=":8080/", timeout_ms=300)
        for _ in range(100):
            said = await prober.ask("a", check, "")
            if "refused" not in said:
                break
            await asyncio.sleep(0.05)
        assert said == "http :8080/: no answer within 300 ms"
        code = await prober.ask("a", Check(argv=("sh", "-c", "echo broken; exit 3")), "")
        assert code == "the check exited with 3: broken"
        late = await prober.ask("a", Check(argv=("sleep", "60"), timeout_ms=300), "")
        assert late == "the check did not end within 300 ms"
        assert await prober.ask("a", Check(argv=("true",)), "") == ""

    with_prober(box, story)


def test_a_container_on_the_nodes_network_is_asked_on_its_loopback(box: Box) -> None:
    async def story(runtime: Runtime, prober: Prober) -> None:
        await runtime.create(box.request("a", "sh", "-c", "while :; do nc -l -p 48123 </dev/null; done"))
        await runtime.start("a")
        assert await answered(prober, Check(tcp=":48123")) == ""

    with_prober(box, story)


def test_grpc_health_is_asked_of_a_real_server(box: Box, netns: Path) -> None:
    argv = ["nsenter", f"--net={netns}", sys.executable, "-c", GRPC_SERVER, "9000"]
    server = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)

    async def story(runtime: Runtime, prober: Prober) -> None:
        await runtime.create(box.request("a", "sleep", "60", netns=netns))
        await runtime.start("a")
        assert await answered(prober, Check(grpc=":9000")) == ""
        assert await prober.ask("a", Check(grpc=":9000/db"), "") == ""
        assert (
            await prober.ask("a", Check(grpc=":9000/slow"), "") == "slow on 127.0.0.1:9000: it is NOT_SERVING"
        )
        unknown = await prober.ask("a", Check(grpc=":9000/other"), "")
        assert unknown == "other on 127.0.0.1:9000: gRPC status 5: it knows no such service"
        assert "refused" in await prober.ask("a", Check(grpc=":9001"), "")

    try:
        assert server.stdout is not None
        assert server.stdout.readline() == "up\n"
        with_prober(box, story)
    finally:
        server.kill()
        server.communicate()


def test_a_check_of_http_and_grpc_says_when_the_other_side_speaks_something_else(
    box: Box, netns: Path
) -> None:
    async def story(runtime: Runtime, prober: Prober) -> None:
        script = "while :; do echo hello there | nc -l -p 8080; done"
        await runtime.create(box.request("a", "sh", "-c", script, netns=netns))
        await runtime.start("a")
        expected = {
            "http": "127.0.0.1:8080 does not speak HTTP",
            "grpc": "grpc :8080: the answer is not HTTP/2",
        }
        for kind, said in expected.items():
            for _ in range(100):
                found = await prober.ask("a", Check(**{kind: ":8080"}), "")
                if "refused" not in found:
                    break
                await asyncio.sleep(0.05)
            assert found == said

    with_prober(box, story)
