"""A place for virtual machines: libvirt where it runs already, else one of our own in namespaces.

Our own libvirtd sees the machine's files but for its configuration, its state and its sockets, and has a
network of its own: its bridges, leases and firewall rules are nobody else's, and all of it is gone when the
namespaces are. `Lab.run` runs a command where the machines can be reached. A lab that is kept runs on after the
command that started it; the next one finds it by its namespace and its pid file.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

URI = "qemu:///system"
NAMESPACE = "swarmpy-lab"
PRIVATE = ("etc/libvirt", "var/lib/libvirt", "run/libvirt", "var/cache/libvirt", "var/log/libvirt")
QEMU_CONF = """user = "root"
group = "root"
dynamic_ownership = 0
remember_owner = 0
security_driver = "none"
namespaces = []
cgroup_controllers = []
stdio_handler = "file"
"""
LIBVIRTD_CONF = """auth_unix_ro = "none"
auth_unix_rw = "none"
listen_tls = 0
"""
START = """set -e
cd /
for part in {parts}; do mkdir -p /$part; mount --bind {root}/$part /$part; done
mkdir -p {root}/cgroup
mount --rbind /sys/fs/cgroup {root}/cgroup
exec nsenter --net=/run/netns/{name} sh -c '
mount -t sysfs sysfs /sys
mount --rbind {root}/cgroup /sys/fs/cgroup
ip link set lo up
exec libvirtd --pid-file {root}/libvirtd.pid'
"""
PROBE_S = 6.0
START_S = 60.0


class LabError(Exception):
    """No virtual machines here; the message says why and what to do."""


class Lab:
    """`with Lab(cache) as lab`. What it starts it ends, unless `keep` was called."""

    def __init__(self, cache: Path) -> None:
        self._root = cache / "libvirt"
        self._pid = 0  # of our own libvirtd
        self._kept = False

    @property
    def own(self) -> bool:
        """Whether libvirtd is ours, in namespaces."""
        return self._pid != 0

    def __enter__(self) -> Lab:
        if not libvirt_answers():
            self._pid = self._running()
            if not self._pid:
                self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if not self._kept:
            self.stop()

    def keep(self, kept: bool = True) -> None:
        """Let it run on when this command ends."""
        self._kept = kept

    def _running(self) -> int:
        """The pid of a libvirtd of ours that an earlier command kept; 0 if there is none."""
        try:
            pid = int((self._root / "libvirtd.pid").read_text())
        except (FileNotFoundError, ValueError):
            return 0
        return pid if pid in inside_namespace() else 0

    def wrapped(self, argv: list[str]) -> list[str]:
        """The command as it must be run to see the machines."""
        if not self._pid:
            return argv
        return ["nsenter", f"--target={self._pid}", "--mount", "--net", f"--wdns={os.getcwd()}", "--", *argv]

    def run(
        self, argv: list[str], timeout_s: float, env: Mapping[str, str] | None = None, *, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            self.wrapped(argv), capture_output=True, text=True, timeout=timeout_s, check=False,
            env={**os.environ, **(env or {})}, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        if check and done.returncode:
            raise LabError(
                f"{' '.join(argv[:4])} failed ({done.returncode}): {(done.stderr or done.stdout)[-1500:]}"
            )
        return done

    def start(self) -> None:
        """A libvirtd of our own. Raises LabError."""
        missing = [
            tool
            for tool in ("libvirtd", "virsh", "dnsmasq", "iptables", "ip", "nsenter")
            if not shutil.which(tool)
        ]
        if missing:
            raise LabError(
                f"missing: {', '.join(missing)}: apt-get install libvirt-daemon libvirt-daemon-driver-qemu "
                "libvirt-clients dnsmasq-base iptables iproute2 qemu-system-x86"
            )
        self._clear()
        for part in PRIVATE:
            (self._root / part).mkdir(parents=True, exist_ok=True)
        (self._root / "etc/libvirt/qemu.conf").write_text(QEMU_CONF)
        (self._root / "etc/libvirt/libvirtd.conf").write_text(LIBVIRTD_CONF)
        user("libvirt-qemu")
        subprocess.run(["ip", "netns", "add", NAMESPACE], check=True)
        script = START.format(parts=" ".join(PRIVATE), root=self._root, name=NAMESPACE)
        with (self._root / "libvirtd.log").open("wb") as log:
            process = subprocess.Popen(
                ["unshare", "--mount", "--propagation", "private", "sh", "-c", script],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        self._pid = process.pid
        deadline = time.monotonic() + START_S
        while not self._answers():
            if process.poll() is not None or time.monotonic() > deadline:
                said = (self._root / "libvirtd.log").read_text(errors="replace")[-800:]
                self.stop()
                raise LabError(f"libvirtd does not answer: {said}")
            time.sleep(0.2)

    def _answers(self) -> bool:
        try:
            return self.run(["virsh", "-c", URI, "version"], START_S / 2, check=False).returncode == 0
        except subprocess.TimeoutExpired:
            return False

    def place(self, file: Path, name: str) -> None:
        """Make a file a volume of our own libvirtd's default pool."""
        images = self._root / "var/lib/libvirt/images"
        images.mkdir(parents=True, exist_ok=True)
        if not (images / name).exists():
            os.link(file, images / name)
        for argv in (
            ["pool-define-as", "default", "dir", "--target", "/var/lib/libvirt/images"],
            ["pool-start", "default"], ["pool-refresh", "default"],
        ):  # fmt: skip
            self.run(["virsh", "-c", URI, *argv], 60, check=argv[0] == "pool-refresh")

    def stop(self) -> None:
        """End every machine of our own libvirtd, it, and its namespace."""
        if self._pid:
            self._pid = 0
            self._clear()

    def _clear(self) -> None:
        """What this run or a killed one left: processes in the namespace, the namespace, the files."""
        if not Path("/run/netns", NAMESPACE).exists():
            shutil.rmtree(self._root, ignore_errors=True)
            return
        deadline = time.monotonic() + 10
        while pids := list(inside_namespace()):
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if time.monotonic() > deadline:
                raise LabError(f"processes in the namespace {NAMESPACE} do not end: {pids}")
            time.sleep(0.1)
        subprocess.run(["ip", "netns", "delete", NAMESPACE], check=False)
        shutil.rmtree(self._root, ignore_errors=True)


def inside_namespace() -> Iterator[int]:
    """Processes whose network is the lab's: only what a lab started can be there."""
    done = subprocess.run(["ip", "netns", "pids", NAMESPACE], capture_output=True, text=True, check=False)
    yield from (int(word) for word in done.stdout.split())


def libvirt_answers() -> bool:
    if shutil.which("virsh") is None:
        return False
    return subprocess.run(["virsh", "-c", URI, "version"], capture_output=True, check=False).returncode == 0


def user(name: str) -> None:
    """libvirt's QEMU driver looks user and group up even where it does not use them."""
    if subprocess.run(["getent", "group", name], capture_output=True, check=False).returncode:
        subprocess.run(["groupadd", "--system", name], check=True)
    if subprocess.run(["id", name], capture_output=True, check=False).returncode:
        subprocess.run(
            ["useradd", "--system", "--no-create-home", "--gid", name, "--shell", "/usr/sbin/nologin", name],
            check=True,
        )


def kvm_works(box: Path, cache: Path) -> bool:
    """Boot the box's kernel with KVM: that /dev/kvm can be written, or a boot sector runs, proves nothing."""
    if not os.access("/dev/kvm", os.W_OK) or shutil.which("qemu-system-x86_64") is None:
        return False
    with tarfile.open(box) as archive, tempfile.TemporaryDirectory(dir=cache) as directory:
        archive.extract("vmlinuz", directory, filter="data")
        argv = [
            "qemu-system-x86_64", "-accel", "kvm", "-cpu", "max", "-machine", "q35", "-m", "256", "-nodefaults",
            "-display", "none", "-serial", "stdio", "-no-reboot", "-kernel", f"{directory}/vmlinuz",
            "-append", "console=ttyS0 panic=-1",
        ]  # fmt: skip
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        try:
            said, _ = process.communicate(timeout=PROBE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            said, _ = process.communicate()
    return b"Linux version" in said
