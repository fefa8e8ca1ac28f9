"""Three virtual machines with a cluster on them: brought up by Vagrant, set back to a snapshot, and hurt.

Commands go over one ssh connection a machine that is kept open; everything else by virsh. Snapshots hold memory
too, and are taken and set back while all machines stand still: no connection between two of them is older on one
side than on the other.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from vagrant.lab import URI, Lab, LabError

HERE = Path(__file__).resolve().parent
DIST = HERE.parent / "dist"
BOX = "swarmpy/bookworm"
NODES = ("node1", "node2", "node3")
STEP_S = 180
UP_S = 2400
UP_TRIES = 3
PATIENCE = 3  # where the processor is emulated


class Machines:
    """Three machines and what can be done to them."""

    def __init__(self, lab: Lab, cache: Path) -> None:
        self._lab, self._cache = lab, cache
        self.patience = PATIENCE  # by what a story's time limits are multiplied
        self.env = {
            "VAGRANT_HOME": str(cache / "vagrant-home"), "VAGRANT_DOTFILE_PATH": str(cache / "vagrant-dot"),
            "VAGRANT_CWD": str(HERE), "VAGRANT_DEFAULT_PROVIDER": "libvirt", "VAGRANT_NO_COLOR": "1",
            "SWARMPY_BOX": BOX, "SWARMPY_EMULATED": "1", "SWARMPY_KVM": "0", "NODES": str(len(NODES)),
        }  # fmt: skip
        self._config = cache / "ssh-config"
        self._kept = cache / "kept.json"

    def vagrant(self, *argv: str, timeout_s: float) -> str:
        done = self._lab.run(["vagrant", *argv], timeout_s, self.env)
        return done.stdout

    def up(self, box: Path, *, kvm: bool) -> None:
        """Boot, provision, join, and take the snapshot. Raises LabError."""
        if kvm:
            self.env["SWARMPY_KVM"], self.patience = "1", 1
        self.add(box)
        for tries_left in range(UP_TRIES)[::-1]:
            try:
                self.vagrant("up", "--parallel", timeout_s=UP_S)
                break
            except LabError:  # machines that are up stay so, and what was not done is done the next time
                if not tries_left:
                    raise
        self._config.write_text(
            self.vagrant("ssh-config", timeout_s=120) + "\nHost *\n  ConnectTimeout 10\n  ServerAliveInterval 5\n"
            f"  ControlMaster auto\n  ControlPersist yes\n  ControlPath {self._cache}/ssh-%n\n"
        )  # fmt: skip
        self.wait_ready()
        self.snapshot()

    def add(self, box: Path) -> None:
        """Give Vagrant the box. Our own libvirtd finds its disk in place: sending it there takes minutes."""
        version = f"1.{int(box.stem.rpartition('-')[2][:7], 16)}"
        catalog = self._cache / "box.json"
        provider = {"name": "libvirt", "url": box.as_uri()}
        catalog.write_text(
            json.dumps({"name": BOX, "versions": [{"version": version, "providers": [provider]}]})
        )
        self.vagrant("box", "add", "--force", str(catalog), timeout_s=300)
        if self._lab.own:
            name = BOX.replace("/", "-VAGRANTSLASH-")
            home = self._cache / "vagrant-home/boxes" / name / version / "libvirt"
            name = f"{name}_vagrant_box_image_{version}_box.img"
            self._lab.place(home / "box.img", name)
            for old in home.parent.parent.iterdir():
                if old.is_dir() and old.name != version:
                    shutil.rmtree(old)

    def kept(self, tree: str) -> bool:
        """Whether an earlier command left machines of this tree (image.stamp); others are removed."""
        if not self._kept.exists():
            return False
        self._lab.keep()  # whatever happens now, they are not to be lost by it
        left = json.loads(self._kept.read_text())
        running = self.virsh("list", "--name").split()
        if left["tree"] == tree and {f"lab-{node}" for node in NODES} <= {*running}:
            self.patience = left.get("patience", PATIENCE)
            return True
        own = self._lab.own
        self.destroy()
        self._lab.keep(False)
        if own:
            self._lab.start()
        return False

    def keep(self, tree: str) -> None:
        """Leave them to the next command. Says which build of swarmpy is in their snapshot."""
        self._kept.write_text(json.dumps({"tree": tree, "dist": digest(DIST), "patience": self.patience}))
        self._lab.keep()

    def renew(self) -> bool:
        """Install what is in dist/ now and take the snapshot anew, if that is not what the kept machines have."""
        if json.loads(self._kept.read_text())["dist"] == digest(DIST):
            return False
        self.back_to_snapshot()
        archive = subprocess.run(["tar", "-c", "-C", str(DIST), "."], capture_output=True, check=True).stdout
        put = "rm -rf /opt/swarmpy-dist/* && tar -x --no-same-owner -C /opt/swarmpy-dist"
        provision = (HERE / "provision.sh").read_text() + "systemctl restart swarmpy\n"

        def install(node: str) -> None:
            argv = ["ssh", "-F", str(self._config), node, "sudo", "sh", "-c", f"'{put}'"]
            subprocess.run(
                self._lab.wrapped(argv), input=archive, check=True, timeout=STEP_S, capture_output=True
            )
            done = self.ssh(node, provision, 2 * STEP_S)
            if done.returncode:
                raise LabError(f"the new build cannot be installed on {node}: {done.stderr[-1500:]}")

        at_once(install)
        self.wait_ready()
        at_once(lambda node: self.virsh("snapshot-delete", f"lab-{node}", "clean"))
        self.snapshot()
        return True

    def destroy(self) -> None:
        self._kept.unlink(missing_ok=True)
        if self._lab.own:  # everything goes with its namespace
            self._lab.stop()
            shutil.rmtree(self._cache / "vagrant-dot", ignore_errors=True)
            return
        at_once(self.hang_up)
        self._lab.run(["vagrant", "destroy", "-f"], 300, self.env, check=False)

    def ssh(self, node: str, script: str, timeout_s: float) -> subprocess.CompletedProcess[str]:
        """Run a script as root there; 255 where the machine cannot be reached."""
        argv = ["ssh", "-F", str(self._config), node, "sudo", "sh", "-s"]
        return subprocess.run(
            self._lab.wrapped(argv), input="set -eu\n" + script + "\n", capture_output=True, text=True,
            timeout=timeout_s, check=False,
        )  # fmt: skip

    def hang_up(self, node: str) -> None:
        """Connections of before outlive their machine and would be tried first."""
        self._lab.run(["ssh", "-F", str(self._config), "-O", "exit", node], 20, check=False)
        (self._cache / f"ssh-{node}").unlink(missing_ok=True)

    def virsh(self, *argv: str, timeout_s: float = 120) -> str:
        return self._lab.run(["virsh", "-c", URI, "-q", *argv], timeout_s).stdout

    def act(self, verb: str, node: str) -> None:
        """What a story may do to a machine. Raises LabError."""
        if verb not in ACTS:
            raise LabError(f"a story asks for {verb!r}: known are {', '.join(ACTS)}")
        ACTS[verb](self, node)

    def power_cut(self, node: str) -> None:
        self.hang_up(node)
        self.virsh("destroy", f"lab-{node}")

    def reboot(self, node: str) -> None:
        """Returns when ssh answers again, from the next boot."""
        booted = self.ssh(node, "cat /proc/sys/kernel/random/boot_id; systemctl reboot", 60).stdout
        self.hang_up(node)
        deadline = time.monotonic() + STEP_S
        while self.ssh(node, "cat /proc/sys/kernel/random/boot_id", 60).stdout in {"", booted}:
            self.hang_up(node)
            if time.monotonic() > deadline:
                raise LabError(f"{node} is not there again {STEP_S} s after it was rebooted")
            time.sleep(1)

    def carry(self, path: str, node: str, to: str) -> None:
        read = self.ssh(node, f"base64 {path}", 60)
        if (
            read.returncode
            or self.ssh(to, f"umask 077; base64 -d >{path} <<'END'\n{read.stdout}END", 60).returncode
        ):
            raise LabError(f"{path} could not be carried from {node} to {to}: {read.stderr}")

    def cable(self, node: str, state: str) -> None:
        """Of the private network only: ssh goes over the other card."""
        rows = [line.split() for line in self.virsh("domiflist", f"lab-{node}").splitlines()]
        mac = next(row[4] for row in rows if len(row) >= 5 and row[2] == "lab-swarmpy")
        self.virsh("domif-setlink", f"lab-{node}", mac, state)

    def snapshot(self) -> None:
        """Of all machines at one moment: no connection between them is older on one side than on the other."""
        at_once(lambda node: self.virsh("suspend", f"lab-{node}"))
        at_once(lambda node: self.virsh("snapshot-create-as", f"lab-{node}", "clean", timeout_s=300))
        at_once(lambda node: self.virsh("resume", f"lab-{node}"))

    def back_to_snapshot(self) -> None:
        at_once(self.hang_up)
        at_once(lambda node: self.virsh("snapshot-revert", f"lab-{node}", "clean", "--paused", timeout_s=300))
        at_once(lambda node: self.cable(node, "up"))
        at_once(lambda node: self.virsh("resume", f"lab-{node}"))
        at_once(self.set_clock)
        self.wait_ready()

    def set_clock(self, node: str) -> None:
        if self.ssh(node, f"date -s @{time.time():.0f}", 120).returncode:
            raise LabError(f"{node} does not answer after it was set back")

    def wait_ready(self) -> None:
        """Until every node is ready and the leader can write."""
        ready = f"test \"$(swarmpy status --format '{{{{.NodesReady}}}}')\" = {len(NODES)}"
        deadline = time.monotonic() + 2 * STEP_S
        while self.ssh(NODES[0], ready, STEP_S).returncode:
            if time.monotonic() > deadline:
                raise LabError(f"the cluster does not find itself within {2 * STEP_S} s")
            time.sleep(2)


ACTS: dict[str, Callable[[Machines, str], object]] = {
    "power-cut": Machines.power_cut,
    "start": lambda machines, node: machines.virsh("start", f"lab-{node}"),
    "reboot": Machines.reboot,
    "suspend": lambda machines, node: machines.virsh("suspend", f"lab-{node}"),
    "resume": lambda machines, node: machines.virsh("resume", f"lab-{node}"),
    "cable-pull": lambda machines, node: machines.cable(node, "down"),
    "cable-in": lambda machines, node: machines.cable(node, "up"),
}


def at_once(act: Callable[[str], object]) -> None:
    """Do something with every machine beside each other; raises the first error."""
    with ThreadPoolExecutor(len(NODES)) as pool:
        list(pool.map(act, NODES))


def digest(directory: Path) -> str:
    """Of the contents of the files that machines get. A wheel is the same bytes when nothing has changed."""
    hashes = [
        hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(directory.glob("*.[wt][ha][lr]"))
    ]
    return hashlib.sha256(" ".join(hashes).encode()).hexdigest()
