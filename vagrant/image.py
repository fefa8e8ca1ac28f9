"""Builds the box for machines without KVM: a small Debian 12 as a libvirt box, from Debian's packages only.

No loop device, no mount: mmdebstrap makes the tree, mke2fs puts it on a disk without partitions, qemu-img
writes that as qcow2, and kernel and initial RAM disk stay beside it, because libvirt boots them directly. The
tree without swarmpy and the box are kept in the cache, each named by a hash of everything that went in: a new
build of swarmpy costs seconds, and less than installing it in every machine.

    python -m vagrant.image [--cache DIR] WHEEL [FILE…]     # prints the path of the box
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
DEFAULT_CACHE = Path(os.environ.get("SWARMPY_VM_CACHE", HERE / ".cache"))
SUITE = "bookworm"
PYTHON = "3.11"  # of that suite
PLATFORMS = (*(f"manylinux_2_{minor}_x86_64" for minor in range(36, 16, -1)), "manylinux2014_x86_64")
PACKAGES = (
    "busybox-static", "ca-certificates", "conmon", "crun", "curl", "dbus", "iproute2", "iputils-ping", "kmod",
    "nfs-kernel-server", "nftables", "openssh-server", "procps", "python3", "python3-venv", "rsync", "runc", "samba",
    "sudo", "systemd", "systemd-sysv", "tcpdump", "tini", "udev", "wireguard-tools", "xfsprogs",
)  # fmt: skip
KERNEL_META = "linux-image-cloud-amd64"
BOOT_MODULES = ("virtio_pci", "virtio_blk", "virtio_net", "virtio_rng", "ext4")
MASKED = (
    "systemd-networkd-wait-online.service", "apt-daily.timer", "apt-daily-upgrade.timer", "e2scrub_all.timer",
    "systemd-journal-flush.service", "fstrim.timer", "dpkg-db-backup.timer", "e2scrub_reap.service",
    "ldconfig.service", "systemd-update-utmp.service", "systemd-logind.service", "systemd-binfmt.service",
    "systemd-pstore.service", "modprobe@drm.service", "modprobe@efi_pstore.service", "modprobe@dm_mod.service",
    "modprobe@configfs.service", "modprobe@fuse.service", "sys-kernel-debug.mount", "sys-kernel-tracing.mount",
    "sys-kernel-config.mount", "sys-fs-fuse-connections.mount", "dev-hugepages.mount", "getty.target",
    "serial-getty@ttyS0.service", "systemd-ask-password-wall.path", "systemd-ask-password-console.path",
)  # fmt: skip
# Stories start these where they need them; at boot they would only cost time.
DISABLED = (
    "nfs-kernel-server", "nfs-blkmap", "nfs-client.target", "rpcbind.service", "rpcbind.socket", "smbd", "nmbd",
    "samba-ad-dc",
)  # fmt: skip
DISK_BYTES = 6 << 30
LEFT_OUT = ("man", "doc", "locale", "info")

NETWORK = """[Match]
Name=eth0
[Network]
DHCP=ipv4
[DHCPv4]
ClientIdentifier=mac
"""
# Without PAM a login starts no session of systemd, and the cheapest handshake is the first one offered.
SSHD = """UseDNS no
UsePAM no
KexAlgorithms ^curve25519-sha256
HostKey /etc/ssh/ssh_host_ed25519_key
PermitRootLogin prohibit-password
"""
# The second card's address and the name come from the kernel's command line: asking for them by ssh costs
# half a minute a machine where the processor is emulated.
LAB_UNIT = """[Unit]
Description=Address of the private network, from the kernel's command line
DefaultDependencies=no
After=systemd-udevd.service sys-subsystem-net-devices-eth1.device
Wants=sys-subsystem-net-devices-eth1.device
Before=network.target swarmpy.service
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/local/sbin/lab-network
[Install]
WantedBy=multi-user.target
"""
LAB_SCRIPT = """#!/bin/sh
for word in $(cat /proc/cmdline); do
    case $word in lab.address=*) ip address replace "${word#lab.address=}" dev eth1 ;; esac
done
ip link set eth1 up
"""
INIT = """#!/bin/busybox sh
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox mount -t proc proc /proc
for module in @MODULES@; do /bin/busybox insmod /lib/modules/$module || echo "no $module"; done
tries=0
while [ ! -b /dev/vda ] && [ $tries -lt 100 ]; do tries=$((tries+1)); /bin/busybox usleep 50000; done
/bin/busybox mount -t ext4 /dev/vda /root || exec /bin/busybox sh
/bin/busybox umount /proc
exec /bin/busybox switch_root /root /sbin/init
"""
VAGRANTFILE = """Vagrant.configure("2") do |config|
  config.ssh.insert_key = false
  config.vm.synced_folder ".", "/vagrant", disabled: true
  config.vm.provider :libvirt do |libvirt|
    libvirt.kernel = File.join(__dir__, "vmlinuz")
    libvirt.initrd = File.join(__dir__, "initrd.img")
  end
end
"""
# The public half of the key pair that Vagrant ships for boxes (its `keys/vagrant.pub`).
KEY_PLACES = (
    "/usr/share/rubygems-integration/all/gems/vagrant-*/keys/vagrant.pub",
    "/usr/share/vagrant/keys/vagrant.pub", "/opt/vagrant/embedded/gems/gems/vagrant-*/keys/vagrant.pub",
)  # fmt: skip


class ImageError(Exception):
    """The box cannot be built; the message says why and what to do."""


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def run(*argv: str | Path, cwd: Path | None = None, data: bytes | None = None) -> bytes:
    done = subprocess.run([*map(str, argv)], cwd=cwd, input=data, capture_output=True, check=False)
    if done.returncode:
        raise ImageError(
            f"{argv[0]} failed ({done.returncode}): {done.stderr.decode(errors='replace')[-800:]}"
        )
    return done.stdout


def stamp(*more: bytes) -> str:
    """What the tree depends on: this file, what is needed from PyPI, and the kernel that apt would give today."""
    text = (
        Path(__file__).read_bytes() + run("apt-cache", "depends", KERNEL_META) + repr(requirements()).encode()
    )
    return hashlib.sha256(b"".join((text, *more))).hexdigest()[:16]


def build(wheel: Path, files: Sequence[Path] = (), cache: Path = DEFAULT_CACHE) -> Path:
    """The path of the box with that build of swarmpy; made if it is not in the cache. Raises ImageError."""
    cache.mkdir(parents=True, exist_ok=True)
    box = cache / f"swarmpy-{SUITE}-{stamp(*(path.read_bytes() for path in (wheel, *files)))}.box"
    if box.exists():
        return box
    missing = [
        tool for tool in ("mmdebstrap", "mke2fs", "qemu-img", "dpkg-deb") if shutil.which(tool) is None
    ]
    if missing:
        raise ImageError(
            f"missing: {', '.join(missing)}: apt-get install mmdebstrap e2fsprogs qemu-utils dpkg"
        )
    work = cache / "work"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(mode=0o755)
    try:
        base = tree(work, cache)
        say("image: swarmpy and disk")
        run("tar", "-x", "--numeric-owner", "-C", work, "-f", base)
        install(work / "root", wheel, files)
        pack(work, work / "root", box)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    for old in cache.glob(f"swarmpy-{SUITE}-*.box"):
        if old != box:
            old.unlink()
    return box


def tree(work: Path, cache: Path) -> Path:
    """An archive of everything but swarmpy: root/, vmlinuz, initrd.img."""
    base = cache / f"base-{stamp()}.tar"
    if base.exists():
        return base
    root = work / "root"
    say(f"image: {SUITE} with {len(PACKAGES)} packages")
    run(
        "mmdebstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}", '--aptopt=Acquire::Languages "none"',
        *(f"--dpkgopt=path-exclude=/usr/share/{part}/*" for part in LEFT_OUT), SUITE, root,
    )  # fmt: skip
    say("image: kernel")
    release = kernel(work, root)
    configure(root)
    say("image: what swarmpy needs from PyPI")
    packages(root)
    initrd(root, release, work / "initrd.img")
    shutil.move(root / "boot" / f"vmlinuz-{release}", work / "vmlinuz")
    partial = base.with_suffix(".partial")
    run("tar", "-c", "--numeric-owner", "-C", work, "-f", partial, "root", "vmlinuz", "initrd.img")
    partial.rename(base)
    for name in ("vmlinuz", "initrd.img"):
        (work / name).unlink()
    shutil.rmtree(root)
    for old in cache.glob("base-*.tar"):
        if old != base:
            old.unlink()
    return base


def install(root: Path, wheel: Path, files: Sequence[Path]) -> None:
    """What Vagrant's synced folder and provision.sh do elsewhere: here they would cost half a minute a machine."""
    dist = root / "opt/swarmpy-dist"
    dist.mkdir()
    for path in (wheel, *files):
        shutil.copy(path, dist)
    chroot(
        root, "/opt/swarmpy/bin/pip", "install", "-q", "--disable-pip-version-check", "--no-index", "--no-deps",
        f"/opt/swarmpy-dist/{wheel.name}",
    )  # fmt: skip
    (root / "usr/local/bin/swarmpy").symlink_to("/opt/swarmpy/bin/swarmpy")


def kernel(work: Path, root: Path) -> str:
    """Unpack the kernel's package into the tree without its scripts; its release."""
    depends = run("apt-cache", "depends", KERNEL_META).decode().split()
    package = next(word for word in depends if word.startswith("linux-image-") and word != KERNEL_META)
    run("apt-get", "download", package, cwd=work)
    archive = next(work.glob("linux-image-*.deb"))
    # Not dpkg-deb -x: it would put a directory in the place of the link /lib.
    run("tar", "-x", "--keep-directory-symlink", "-C", root, data=run("dpkg-deb", "--fsys-tarfile", archive))
    archive.unlink()
    release = package.removeprefix("linux-image-")
    chroot(root, "depmod", release)
    return release


def configure(root: Path) -> None:
    """Users, network and services of the tree; nothing is started."""
    write(root / "etc/systemd/network/10-eth0.network", NETWORK)
    write(root / "etc/systemd/system/lab-network.service", LAB_UNIT)
    write(root / "usr/local/sbin/lab-network", LAB_SCRIPT, 0o755)
    write(root / "etc/fstab", "/dev/vda / ext4 defaults,noatime 0 1\n")
    write(root / "etc/machine-id", "")
    write(root / "etc/hosts", "127.0.0.1 localhost\n::1 localhost\n")
    write(root / "etc/ssh/sshd_config.d/lab.conf", SSHD)
    write(root / "etc/sysctl.d/60-lab.conf", "kernel.panic=5\n")
    # Emulated, on a busy host, the daemon may need longer than the 90 s that are the default.
    write(root / "etc/systemd/system.conf.d/lab.conf", "[Manager]\nDefaultTimeoutStartSec=600\n")
    key = vagrant_key()
    chroot(root, "useradd", "--create-home", "--shell", "/bin/bash", "--password", "*", "vagrant")
    for home in (root / "home/vagrant", root / "root"):
        write(home / ".ssh/authorized_keys", key, 0o600)
        (home / ".ssh").chmod(0o700)
    chroot(root, "chown", "-R", "vagrant:vagrant", "/home/vagrant/.ssh")
    write(root / "etc/sudoers.d/vagrant", "vagrant ALL=(ALL) NOPASSWD: ALL\n", 0o440)
    chroot(root, "ssh-keygen", "-A")
    chroot(root, "systemctl", "enable", "systemd-networkd", "ssh", "lab-network")
    chroot(root, "systemctl", "disable", *DISABLED)
    chroot(root, "systemctl", "mask", *MASKED)
    (root / "etc/resolv.conf").unlink(missing_ok=True)
    write(root / "etc/resolv.conf", "nameserver 192.168.121.1\n")


def packages(root: Path) -> None:
    """A virtual environment at /opt/swarmpy with everything but swarmpy itself."""
    wheels = root / "tmp/wheels"
    wheels.mkdir()
    names = requirements()
    pure = [name for name in names if name.startswith("pysyncobj")]  # there is only its source on PyPI
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    run(*pip, "wheel", "--no-deps", "-w", wheels, *pure)
    run(
        *pip, "download", "--only-binary=:all:", f"--python-version={PYTHON}", "--implementation=cp", "-d", wheels,
        *(f"--platform={name}" for name in PLATFORMS), *(name for name in names if name not in pure),
    )  # fmt: skip
    chroot(root, "python3", "-m", "venv", "/opt/swarmpy")
    chroot(
        root, "/opt/swarmpy/bin/pip", "install", "-q", "--disable-pip-version-check", "--no-index",
        "--find-links", "/tmp/wheels", *names,
    )  # fmt: skip
    shutil.rmtree(wheels)


def requirements() -> list[str]:
    with (HERE.parent / "pyproject.toml").open("rb") as file:
        return [str(name) for name in tomllib.load(file)["project"]["dependencies"]]


def vagrant_key() -> str:
    for place in KEY_PLACES:
        for path in sorted(Path("/").glob(place.lstrip("/"))):
            return path.read_text()
    raise ImageError("Vagrant's public key is not on this machine: apt-get install vagrant")


def write(path: Path, text: str, mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)


def chroot(root: Path, *argv: str) -> None:
    run("env", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "chroot", root, *argv)


def initrd(root: Path, release: str, target: Path) -> None:
    """busybox and the modules that it takes to find and mount the disk."""
    base = root / "lib/modules" / release
    wanted = list(ordered_modules(base))
    members: list[tuple[str, bytes, int]] = [("bin/busybox", (root / "bin/busybox").read_bytes(), 0o100755)]
    names = []
    for path in wanted:
        data = (base / path).read_bytes()
        if path.endswith(".xz"):
            data = run("xz", "-dc", base / path)
        name = Path(path).name.removesuffix(".xz")
        names.append(name)
        members.append((f"lib/modules/{name}", data, 0o100644))
    members.append(("init", INIT.replace("@MODULES@", " ".join(names)).encode(), 0o100755))
    directories = [
        (name, b"", 0o040755) for name in ("bin", "dev", "lib", "lib/modules", "proc", "root", "tmp")
    ]
    archive = b"".join(cpio(number, *member) for number, member in enumerate([*directories, *members], 1))
    target.write_bytes(run("gzip", "-1", data=archive + cpio(0, "TRAILER!!!", b"", 0)))


def ordered_modules(base: Path) -> Iterator[str]:
    """Files of BOOT_MODULES below `base`, each after what it needs; nothing for what is built in."""
    needs = {}
    for line in (base / "modules.dep").read_text().splitlines():
        path, _, others = line.partition(":")
        needs[path] = others.split()
    by_name = {Path(path).name.partition(".ko")[0].replace("-", "_"): path for path in needs}
    done: set[str] = set()

    def visit(path: str) -> Iterator[str]:
        if path not in done:
            done.add(path)
            for other in needs[path]:
                yield from visit(other)
            yield path

    for name in BOOT_MODULES:
        if name in by_name:
            yield from visit(by_name[name])
    for extra in ("crc32c_generic", "crc32c_intel"):
        if extra in by_name:
            yield from visit(by_name[extra])


def cpio(number: int, name: str, data: bytes, mode: int) -> bytes:
    """One entry of an archive in the format "newc", which the kernel unpacks."""
    fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0)
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + name.encode() + b"\0"
    return padded(head) + padded(data)


def padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)


def pack(work: Path, root: Path, box: Path) -> None:
    """The tree as a disk, the disk and what boots it as a box."""
    raw, image = work / "disk.raw", work / "box.img"
    with raw.open("wb") as disk:
        disk.truncate(DISK_BYTES)
    run("mke2fs", "-q", "-t", "ext4", "-d", root, "-E", "lazy_itable_init=1,lazy_journal_init=1", raw)
    shutil.rmtree(root)
    run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, image)
    raw.unlink()
    metadata = {"provider": "libvirt", "format": "qcow2", "virtual_size": DISK_BYTES >> 30}
    partial = box.with_suffix(".partial")
    with tarfile.open(partial, "w") as archive:
        for name, text in (("metadata.json", json.dumps(metadata)), ("Vagrantfile", VAGRANTFILE)):
            entry = tarfile.TarInfo(name)
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text.encode()))
        for name in ("box.img", "vmlinuz", "initrd.img"):
            archive.add(work / name, name)
    partial.rename(box)


def main(arguments: Iterable[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cache", type=Path, default=DEFAULT_CACHE)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("files", type=Path, nargs="*")
    options = parser.parse_args(None if arguments is None else list(arguments))
    try:
        print(build(options.wheel, options.files, options.cache))
    except ImageError as error:
        say(f"image: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
