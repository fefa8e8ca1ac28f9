"""The real images one by one, without a cluster: the secure defaults, a strict umask, volumes, a read-only root.

Slow: `make test-images`; the images are made once (tests/real_images.py).
"""

from __future__ import annotations

import asyncio
import os
import time
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from swarmpy.node.image.store import ImageStore
from swarmpy.node.runtime import ContainerRequest, Runtime
from swarmpy.proto import types_pb2

from tests import real_images
from tests.integration.cluster import missing

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(900)]
READY = {
    "redis": "Ready to accept connections",
    "postgres": "ready to accept connections",
    "webapp": "Booting worker",
}
VOLUMES = {"redis": "/data", "postgres": "/var/lib/postgresql/data"}


def specification(name: str) -> types_pb2.ContainerSpec:
    spec = types_pb2.ContainerSpec()
    if name in VOLUMES:
        spec.mounts.add(type=types_pb2.MOUNT_VOLUME, source="kept", target=VOLUMES[name])
    if name == "postgres":
        spec.env.append("POSTGRES_PASSWORD=secret")
    if name == "webapp":
        spec.read_only = True
        spec.mounts.add(type=types_pb2.MOUNT_TMPFS, target="/tmp")
    return spec


@pytest.mark.parametrize("name", sorted(READY))
def test_it_runs_unmodified(name: str, tmp_path: Path) -> None:
    if reason := real_images.missing() or missing():
        pytest.skip(reason)
    archive = real_images.archive(name)
    volume = tmp_path / "volume" / "data"
    volume.mkdir(parents=True)
    volume.chmod(0o755)

    async def run() -> None:
        store = ImageStore(tmp_path / "store")
        await store.open()
        runtime = Runtime(
            state_dir=tmp_path / "state", run_dir=tmp_path / "run", log_dir=tmp_path / "logs",
            owner="test" + uuid.uuid4().hex[:8], runtime="auto",
        )  # fmt: skip
        await runtime.open()
        try:
            (image,) = await store.load(archive)
            layers = await store.unpack(image.digest)
            request = ContainerRequest(
                id="c", spec=specification(name), resources=types_pb2.ResourceRequirements(pids_limit=64),
                image_config=image.config["config"], hostname="box", layers=layers, netns=None,
                volumes={"kept": volume},
            )  # fmt: skip
            await runtime.create(request)
            await runtime.start("c")
            deadline = time.monotonic() + 60
            while not any([READY[name] in line async for line in lines(runtime)]):
                assert time.monotonic() < deadline, [line async for line in lines(runtime)]
                await asyncio.sleep(0.2)
            if name in VOLUMES:
                assert any(volume.iterdir())
                assert volume.stat().st_uid != 0, "it belongs to the image's user"
        finally:
            await runtime.destroy()
            await runtime.close()
            await store.close()

    before = os.umask(0o077)  # as the agent has it
    try:
        asyncio.run(run())
    finally:
        os.umask(before)


async def lines(runtime: Runtime) -> AsyncIterator[str]:
    async for line in runtime.logs("c", follow=False, tail=-1, since_ms=0, until_ms=0):
        yield line.line.decode(errors="replace")
