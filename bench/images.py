"""Images: pull with verification and unpacking beside `docker pull`, and an image for five nodes at once.

The image is made of this machine's own /usr: six layers, gzip, about 400 MB unpacked. Both sides pull it from the
same docker-registry on the loopback of one sandbox; a round is one whole command, ours Python's start included,
until the layers are unpacked; before it everything of the round before is removed.

Fan-out: ours is loaded into a cluster of six nodes once, then a global service needs it everywhere; the time is
until the other five run it, the bytes are what left the source's interface; one round, whatever --rounds says.
Docker's five engines pull it at the same time from a registry on a sixth.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from swarmpy.cli.client import Client
from swarmpy.node import demo_net
from swarmpy.node.image import manifest
from swarmpy.node.image.manifest import Descriptor

from bench import docker, harness
from bench.service_start import running

LAYERS = 6
UNPACKED_BYTES = 400_000_000
REGISTRY_PORT = 5000
REPOSITORY = "bench/image"
NODES = 5
TIMEOUT_S = 300.0
CONFIG = """version: 0.1
storage: {{filesystem: {{rootdirectory: {storage}}}}}
http: {{addr: '{address}'}}
log: {{level: error}}
"""
TOOLS = ("docker-registry", "gzip")


def make_image(directory: Path) -> tuple[Path, int, int]:
    """An OCI layout, with its compressed and unpacked sizes in bytes."""
    harness.say("making an image of /usr")
    blobs = directory / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    layers: list[Descriptor] = []
    diff_ids: list[str] = []
    unpacked = 0
    for number, files in enumerate(shares()):
        raw = directory / "layer.tar"
        with tarfile.open(raw, "w") as tar:
            if number == 0:
                tar.add("/bin/busybox", "bin/busybox")
            for above in sorted({str(up) for path in files for up in Path(path).parents} - {"/"}):
                tar.add(above, above.lstrip("/"), recursive=False)  # as real layers have them
            for path in files:
                tar.add(path, path.lstrip("/"), recursive=False)
        unpacked += raw.stat().st_size
        diff_ids.append(digest_of(raw))
        subprocess.run(["gzip", "-n", "-6", str(raw)], check=True)
        packed = directory / "layer.tar.gz"
        layers.append(Descriptor(digest_of(packed), packed.stat().st_size, manifest.layer_media_type("gzip")))
        packed.rename(blobs / layers[-1].digest.removeprefix("sha256:"))
    platform = manifest.host_platform()
    config = manifest.canonical_json(
        {
            "architecture": platform.architecture,
            "os": platform.os,
            "config": {"Cmd": ["/bin/busybox", "sleep", "100000"]},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        }
    )
    document = manifest.make_manifest(config, layers)
    for data in (config, document):
        (blobs / manifest.sha256(data).removeprefix("sha256:")).write_bytes(data)
    entry = {"mediaType": manifest.OCI_MANIFEST, "digest": manifest.sha256(document), "size": len(document)}
    (directory / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    (directory / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    return directory, sum(layer.size for layer in layers), unpacked


def shares() -> Iterator[list[str]]:
    """Files of /usr, so many for each layer, without those that would make it too large."""
    share: list[str] = []
    size = given = 0
    for base, directories, names in os.walk("/usr"):
        directories[:] = sorted(name for name in directories if name not in {"local", "src"})
        for name in sorted(names):
            path = os.path.join(base, name)
            if os.path.isfile(path) and not os.path.islink(path):
                share.append(path)
                size += os.path.getsize(path)
            if size >= UNPACKED_BYTES // LAYERS:
                yield share
                share, size, given = [], 0, given + 1
            if given == LAYERS:
                return
    if share:
        yield share


def digest_of(path: Path) -> str:
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def start_registry(box: harness.Sandbox, address: str, layout: Path) -> str:
    """docker-registry in the sandbox, with the image; the image's reference."""
    config = box.directory / "registry.yml"
    storage = box.directory / "registry"
    storage.mkdir()
    config.write_text(CONFIG.format(storage=storage, address=address))
    box.start(["docker-registry", "serve", str(config)])
    time.sleep(1)
    push = [sys.executable, "-m", "bench.image_client", "push", address, REPOSITORY, str(layout)]
    harness.command(box.inside_network(push))
    return f"{address}/{REPOSITORY}:1"


def pulls(rounds: int, layout: Path, with_peer: bool) -> tuple[list[float], list[float]]:
    ours: list[float] = []
    peers: list[float] = []
    with contextlib.ExitStack() as stack:
        box = stack.enter_context(harness.sandbox("registry"))
        engine = stack.enter_context(docker.engine("registry", box)) if with_peer else None
        reference = start_registry(box, f"127.0.0.1:{REGISTRY_PORT}", layout)
        store = box.directory / "store"
        command = [sys.executable, "-m", "bench.image_client", "pull", reference, str(store)]
        for number in range(rounds + 1):  # the first warms the page cache up, for both
            os.sync()
            began = time.monotonic()
            harness.command(box.inside_network(command))
            ours_s, peer_s = time.monotonic() - began, 0.0
            shutil.rmtree(store)
            os.sync()
            if engine is not None:
                began = time.monotonic()
                engine.cli("pull", "-q", reference)
                peer_s = time.monotonic() - began
                engine.cli("rmi", reference)
                peers += [peer_s] if number else []
            ours += [ours_s] if number else []
            harness.say(
                f"pull: swarmpy {ours_s:.2f} s, docker {peer_s:.2f} s{'' if number else ' (warm-up)'}"
            )
    return ours, peers


def fan_out(rounds: int, layout: Path) -> tuple[list[float], list[float]]:
    """Seconds and MB from the source."""
    times: list[float] = []
    sent: list[float] = []
    with harness.cluster(NODES + 1, 1, image=False) as cluster:
        source = cluster.nodes[0]
        client = harness.client(source)
        for number in range(rounds):
            harness.cli("image", "push", "-q", str(layout), "-t", f"bench-fan:{number}")
            before = sent_bytes(source.name)
            began = time.monotonic()
            harness.cli("service", "create", "-d", "-q", "--mode", "global", "--stop-grace-period", "0s",
                        "--name", f"fan{number}", f"bench-fan:{number}")  # fmt: skip
            end = harness.wait_until(
                partial(all_run, client, f"fan{number}", NODES + 1), TIMEOUT_S, "all run"
            )
            times.append(end - began)
            sent.append((sent_bytes(source.name) - before) / 1e6)
            harness.say(f"fan-out: swarmpy {times[-1]:.2f} s, {sent[-1]:.0f} MB from the source")
            harness.cli("service", "rm", f"fan{number}")
            harness.wait_until(partial(all_run, client, f"fan{number}", 0), TIMEOUT_S, "none runs")
            harness.cli("image", "prune", "-a", "-f", "--keep-revisions", "0")
        client.close()
    return times, sent


def all_run(client: Client, service: str, count: int) -> bool:
    return running(client, service) == count


def sent_bytes(node: str) -> int:
    path = demo_net.namespace_path(node)
    text = harness.command(["nsenter", f"--net={path}", "--", "cat", "/proc/net/dev"])
    return received_and_sent(text)


def received_and_sent(text: str) -> int:
    line = next(line for line in text.splitlines() if line.strip().startswith("eth0:"))
    return int(line.partition(":")[2].split()[8])


def peer_fan_out(rounds: int, layout: Path) -> tuple[list[float], list[float]]:
    times: list[float] = []
    sent: list[float] = []
    with contextlib.ExitStack() as stack:
        switch = stack.enter_context(harness.switch())
        source = stack.enter_context(harness.sandbox("source"))
        address = f"{switch.plug(source, 100)}:{REGISTRY_PORT}"
        reference = start_registry(source, address, layout)
        engines = []
        for number in range(1, NODES + 1):
            box = stack.enter_context(harness.sandbox(f"docker{number}"))
            switch.plug(box, number)
            engines.append(stack.enter_context(docker.engine(f"docker{number}", box, insecure=address)))
        for _ in range(rounds):
            before = received_and_sent(source.run("cat", "/proc/net/dev"))
            began = time.monotonic()
            running_ = [
                subprocess.Popen(["docker", "-H", f"unix://{made.socket}", "pull", "-q", reference],
                                 stdout=subprocess.DEVNULL)
                for made in engines
            ]  # fmt: skip
            if any(process.wait(TIMEOUT_S) for process in running_):
                raise harness.BenchError("docker pull failed")
            times.append(time.monotonic() - began)
            sent.append((received_and_sent(source.run("cat", "/proc/net/dev")) - before) / 1e6)
            harness.say(f"fan-out: docker {times[-1]:.2f} s, {sent[-1]:.0f} MB from the source")
            for made in engines:
                made.cli("rmi", reference)
    return times, sent


def main(rounds: int, with_peer: bool, only: str) -> harness.Report:
    if missing := harness.missing_tool(*TOOLS):
        raise harness.BenchError(f"{missing}: apt-get install docker-registry gzip")
    missing = harness.missing_tool(*docker.TOOLS) if with_peer else "--no-peer"
    directory = Path("/var/tmp/swarmpy-bench-image")
    shutil.rmtree(directory, ignore_errors=True)
    try:
        layout, packed, unpacked = make_image(directory)
        title = f"an image of {packed / 1e6:.0f} MB gzip, {unpacked / 1e6:.0f} MB unpacked"
        report = harness.Report(title, "Docker")
        if only in {"", "pull"}:
            ours, peers = pulls(rounds, layout, not missing)
            report.rows.append(
                harness.Row("pull, verify, unpack", "s", ours, peers, "ratio ≤ 0.6", peer_missing=missing)
            )
        if only in {"", "fan-out"}:
            # Once: what a node has had it keeps for a while, so a second round would measure nothing.
            times, sent = fan_out(1, layout)
            peer_times, peer_sent = peer_fan_out(1, layout) if not missing else ([], [])
            report.rows += [
                harness.Row("for five nodes", "s", times, peer_times, peer_missing=missing),
                harness.Row(
                    "from the source",
                    "MB",
                    sent,
                    peer_sent,
                    f"≤ {2 * packed / 1e6:.0f} MB",
                    peer_missing=missing,
                ),
            ]
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    return report


if __name__ == "__main__":
    arguments = harness.parser(__doc__, rounds=3)
    arguments.add_argument("--only", choices=["pull", "fan-out"], default="")
    given = arguments.parse_args()
    harness.run(lambda: main(given.rounds, not given.no_peer, given.only), given.format)
