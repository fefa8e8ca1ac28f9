"""What this machine is: reported to the managers when a session starts."""

from __future__ import annotations

import fcntl
import os
import platform
import socket
import struct
from collections.abc import Sequence
from pathlib import Path

from swarmpy.node.config import NodeConfig
from swarmpy.node.runtime import cgroups
from swarmpy.proto import objects_pb2
from swarmpy.raft.levels import LEVEL

SIOCGIFADDR = 0x8915
SIOCGIFMTU = 0x8921
DEFAULT_MTU = 1500
LABELS = "swarmpy.io"
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}


def describe(
    config: NodeConfig, version: str, runtime: str, runtimes: Sequence[str], gpus: bool
) -> objects_pb2.NodeDescription:
    """The node's description; memory and CPUs are the machine's."""
    address = config.data_path_addr or config.advertise_addr
    description = objects_pb2.NodeDescription(
        hostname=config.hostname, version=version, address=config.advertise_addr, data_path_address=address,
        agent_port=config.ports.agent, underlay_mtu=mtu_of(address), runtime=runtime,
        labels={**automatic_labels(), **config.labels}, runtimes=runtimes, gpus=gpus,
    )  # fmt: skip
    description.state_level = LEVEL
    description.kernel = platform.release()
    description.platform.os = "linux"
    description.platform.architecture = ARCHITECTURES.get(platform.machine(), platform.machine())
    description.resources.nano_cpus = (os.cpu_count() or 1) * 1_000_000_000
    description.resources.memory_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    host = config.advertise_addr
    description.manager.raft_address = f"{host}:{config.ports.raft}"
    description.manager.control_address = f"{host}:{config.ports.manager}"
    description.manager.join_address = f"{host}:{config.ports.join}"
    return description


def automatic_labels() -> dict[str, str]:
    """Engine labels that every node has: what else of the machine a constraint may ask for."""
    layout = cgroups.detect()
    found = {
        "arch": ARCHITECTURES.get(platform.machine(), platform.machine()),
        "kernel": platform.release(),
        "cgroup": "v2" if layout.pure_v2 else "hybrid" if layout.unified is not None else "v1",
        "cpu-model": cpu_model(),
    }
    return {f"{LABELS}/{name}": value for name, value in found.items() if value}


def cpu_model(path: Path = Path("/proc/cpuinfo")) -> str:
    """As the kernel calls it; "" where it has no name for it, as on most machines that are not x86."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    names = (line.partition(":")[2] for line in lines if line.startswith("model name"))
    return " ".join(next(names, "").split())[:128]


def mtu_of(address: str) -> int:
    """MTU of the interface that has the IPv4 `address`; 1500 where none has it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as probe:
        for _, name in socket.if_nameindex():
            request = struct.pack("16s16x8x", name.encode())
            try:
                answer = fcntl.ioctl(probe.fileno(), SIOCGIFADDR, request)
                if socket.inet_ntoa(answer[20:24]) == address:
                    answer = fcntl.ioctl(probe.fileno(), SIOCGIFMTU, request)
                    return int(struct.unpack_from("i", answer, 16)[0])
            except OSError:
                continue
    return DEFAULT_MTU


def address_of_default_route() -> str | None:
    """The IPv4 address this machine would use towards the outside; sends nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return None
        address = str(probe.getsockname()[0])
    return None if address.startswith("127.") else address


def upstream_resolvers(config: NodeConfig, path: Path = Path("/etc/resolv.conf")) -> tuple[str, ...]:
    """The node's own DNS servers, IPv4, three at most."""
    if config.upstreams is not None:
        return config.upstreams
    found = []
    try:
        for line in path.read_text().splitlines():
            words = line.split()
            if len(words) >= 2 and words[0] == "nameserver" and ":" not in words[1]:
                found.append(words[1])
    except OSError:
        return ()
    return tuple(found[:3])
