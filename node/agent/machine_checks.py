"""What of this machine a node needs, looked at one by one: `swarmpy doctor` before and after `init`.

Every check answers with what is there and, where that is not enough, with what to do. Nothing is changed.
"""

from __future__ import annotations

import os
import platform
import re
import resource
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from swarmpy.overlay import namespaces, sealing
from swarmpy.overlay.errors import OverlayError
from swarmpy.overlay.kernel import Kernel

OK, WARNING, FAILED = "ok", "warning", "failed"
KERNEL_MIN = (5, 10)
RUNC_FIXED = ((1, 2, 8), (1, 3, 3))  # the fixes of CVE-2025-31133, -52565, -52881, by release line
DISK_FREE_MIN_BYTES, DISK_FREE_WARN_BYTES = 1 << 30, 5 << 30
FILES_MIN = 65_536
TOOL_TIMEOUT_S = 5
TCP_PORTS = (7376, 7377, 7378, 7379)
UDP_PORT = 4790


@dataclass(frozen=True)
class Finding:
    """One check's answer."""

    name: str
    result: str
    found: str
    advice: str = ""


def findings(state_dir: Path, *, running: bool) -> list[Finding]:
    """All checks; `running`: a node of ours runs here, so that its ports are taken by itself."""
    checks: list[Callable[[], Iterable[Finding]]] = [
        kernel, modules, programs, seccomp, user_namespaces, cgroups, lambda: disk(state_dir), files, clock,
    ]  # fmt: skip
    if not running:
        checks.append(ports)
    return [finding for check in checks for finding in check()]


def kernel() -> Iterator[Finding]:
    release = platform.release()
    numbers = tuple(int(number) for number in re.findall(r"\d+", release)[:2])
    if numbers < KERNEL_MIN:
        yield Finding("kernel", FAILED, release, "use Linux 5.10 or later")
    else:
        yield Finding("kernel", OK, release)
    if os.geteuid() != 0:
        yield Finding(
            "root", WARNING, f"user {os.geteuid()}", "a node runs as root: use sudo, also for all checks"
        )


def modules() -> Iterator[Finding]:
    """As root everything is tried, in a network namespace that is gone afterwards; else looked for."""
    known = _modules_on_disk()
    encryption: tuple[str, ...] = ()
    if os.geteuid() == 0:
        try:
            encryption = _tried()
            yield Finding("vxlan, veth, nftables", OK, "tried")
        except OverlayError as error:
            yield Finding("vxlan, veth, nftables", FAILED, str(error), "`modprobe vxlan`, or another kernel")
    else:
        needed = {
            "vxlan": "the overlay",
            "veth": "containers' links",
            "nf_tables": "isolation and virtual IPs",
        }
        yield from (_module(module, purpose, known) for module, purpose in needed.items())
        encryption = tuple(name for name in ("wireguard", "esp4") if _has_module(name, known))
    if "\toverlay\n" in _text("/proc/filesystems") or "/overlay.ko" in known:
        yield Finding("overlayfs", OK, "there")
    else:
        yield Finding(
            "overlayfs", FAILED, "not there", "containers need it: `modprobe overlay`, or another kernel"
        )
    if encryption:
        yield Finding("encryption", OK, " ".join(encryption))
    else:
        advice = "only networks with --opt encrypted need it: `modprobe wireguard`, or another kernel"
        yield Finding("encryption", WARNING, "neither WireGuard nor ESP", advice)


def _tried() -> tuple[str, ...]:
    """How this kernel can encrypt. Raises OverlayError when it cannot carry the overlay."""
    with namespaces.own_namespace_restored():
        result = namespaces.libc.unshare(namespaces.CLONE_NEWNET)
        namespaces.call("make a network namespace", result)
        kernel = Kernel()
        try:
            kernel.check("doctor")
            return sealing.methods(kernel.route)
        finally:
            kernel.close()


def _text(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def _modules_on_disk() -> str:
    root = f"/lib/modules/{platform.release()}"
    return _text(f"{root}/modules.builtin") + _text(f"{root}/modules.dep")


def _has_module(name: str, known: str) -> bool:
    return (Path("/sys/module") / name).exists() or f"/{name}.ko" in known


def _module(name: str, purpose: str, known: str) -> Finding:
    if _has_module(name, known):
        return Finding(name, OK, "there")
    if not known:
        # A kernel without modules on disk may have it built in; `init` tries it for real.
        return Finding(name, WARNING, "cannot be told from /sys and /lib/modules", "`swarmpy init` tries it")
    return Finding(name, FAILED, "not there", f"{purpose} need it: `modprobe {name}`, or another kernel")


def programs() -> Iterator[Finding]:
    crun, runc = version_of("crun"), version_of("runc")
    if crun:
        yield Finding("crun", OK, crun)
    elif not runc:
        yield Finding("crun", FAILED, "neither crun nor runc", "apt-get install crun")
    if runc:
        numbers = numbers_of(runc)
        if is_fixed(numbers):
            yield Finding("runc", OK, runc)
        else:
            used = "it is used, because there is no crun" if not crun else "crun is preferred to it"
            yield Finding(
                "runc", FAILED if not crun else WARNING,
                f"{runc}: without the fixes of CVE-2025-31133, CVE-2025-52565 and CVE-2025-52881; {used}",
                "install crun, or runc 1.2.8, 1.3.3 or later; a distribution may have patched an older number",
            )  # fmt: skip
    for program, package in (("conmon", "conmon"), ("nft", "nftables")):
        version = version_of(program)
        if version:
            yield Finding(program, OK, version)
        else:
            yield Finding(program, FAILED, "not installed", f"apt-get install {package}")


def version_of(program: str) -> str:
    """The first version number a program gives, "" where there is none."""
    if shutil.which(program) is None:
        return ""
    try:
        done = subprocess.run(
            [program, "--version"], capture_output=True, text=True, timeout=TOOL_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    match = re.search(r"\d+\.\d+(\.\d+)?\S*", done.stdout)
    return match.group().rstrip(",;") if match else "unknown version"


def numbers_of(version: str) -> tuple[int, ...]:
    return tuple(
        int(number) for number in re.findall(r"\d+", version.partition("-")[0].partition("+")[0])[:3]
    )


def is_fixed(numbers: tuple[int, ...]) -> bool:
    """Whether this runc has the fixes: of its own line, or a later line."""
    for fixed in RUNC_FIXED:
        if numbers[:2] == fixed[:2]:
            return numbers >= fixed
    return numbers > RUNC_FIXED[-1]


def seccomp() -> Iterator[Finding]:
    if "errno" in _text("/proc/sys/kernel/seccomp/actions_avail"):
        yield Finding("seccomp", OK, "with filters")
    else:
        yield Finding("seccomp", FAILED, "no filters", "use a kernel with CONFIG_SECCOMP_FILTER")


def user_namespaces() -> Iterator[Finding]:
    try:
        most = int(Path("/proc/sys/user/max_user_namespaces").read_text())
    except (OSError, ValueError):
        most = 0
    if most > 0:
        yield Finding("user namespaces", OK, f"up to {most}")
    else:
        yield Finding("user namespaces", WARNING, "none allowed", "sysctl user.max_user_namespaces=15000")


def cgroups() -> Iterator[Finding]:
    root = Path("/sys/fs/cgroup")
    if (root / "cgroup.controllers").exists():
        found = set((root / "cgroup.controllers").read_text().split())
        layout = "version 2"
    else:
        found = {path.name for path in root.iterdir() if path.is_dir()} if root.is_dir() else set()
        layout = "version 1, hybrid" if (root / "unified").is_dir() else "version 1"
    missing = sorted(name for name in ("cpu", "memory", "pids") if not any(name in entry for entry in found))
    if missing:
        advice = (
            f"enable {', '.join(missing)} (for memory: cgroup_enable=memory on the kernel's command line)"
        )
        yield Finding("cgroups", FAILED, f"{layout}, without {', '.join(missing)}", advice)
    else:
        yield Finding("cgroups", OK, layout)


def disk(state_dir: Path) -> Iterator[Finding]:
    path = state_dir
    while not path.exists():
        path = path.parent
    status = os.statvfs(path)
    free, total = status.f_bavail * status.f_frsize, status.f_blocks * status.f_frsize
    found = f"{free / 2**30:.1f} of {total / 2**30:.1f} GiB free at {path}"
    if free < DISK_FREE_MIN_BYTES:
        yield Finding("disk", FAILED, found, "free at least 5 GiB: `swarmpy image prune`, or a larger disk")
    elif free < DISK_FREE_WARN_BYTES:
        yield Finding("disk", WARNING, found, "images and logs need room: keep 5 GiB free")
    else:
        yield Finding("disk", OK, found)


def files() -> Iterator[Finding]:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < FILES_MIN:
        yield Finding(
            "file descriptors",
            WARNING,
            f"at most {hard}",
            f"raise it: `ulimit -Hn {FILES_MIN}` or LimitNOFILE",
        )
    else:
        yield Finding(
            "file descriptors", OK, "unlimited" if hard == resource.RLIM_INFINITY else f"at most {hard}"
        )


def clock() -> Iterator[Finding]:
    """Certificates and encryption keys go by the clock; Raft does not."""
    now_s = time.time()
    if now_s < 1_735_689_600:  # 2025
        yield Finding(
            "clock", FAILED, time.strftime("%F %T", time.gmtime(now_s)), "set the clock: certificates fail"
        )
    else:
        yield Finding("clock", OK, time.strftime("%F %TZ", time.gmtime(now_s)))


def ports() -> Iterator[Finding]:
    """Those a node listens on; asked only where none of ours runs."""
    kinds = [(socket.SOCK_STREAM, "tcp", port) for port in TCP_PORTS] + [(socket.SOCK_DGRAM, "udp", UDP_PORT)]
    taken = []
    for kind, word, port in kinds:
        with socket.socket(socket.AF_INET, kind) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind(("0.0.0.0", port))
            except OSError:
                taken.append(f"{port}/{word}")
    if taken:
        advice = "end the program that has them (`ss -lntup`), or give the node other ports"
        yield Finding("ports", FAILED, f"taken: {', '.join(taken)}", advice)
    else:
        yield Finding("ports", OK, "7376-7379/tcp and 4790/udp are free")
