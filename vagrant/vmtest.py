"""Runs stories on virtual machines: `make vm-test`.

A story is a Markdown file: prose for people, and code blocks that are run as they stand. A comment in front
of a block says where, and how long it may take to come true:

    <!-- on node1 -->             a block ```sh, run by root on that machine with `set -eu`; must succeed
    <!-- on node2 until 60s -->   the same, repeated until it succeeds
    <!-- on all -->               on every machine, one after the other
    <!-- lab: power-cut node3 --> something done to a machine: power-cut, start, reboot, suspend, resume,
                                  cable-pull, cable-in
    <!-- carry /root/token from node1 to node3 -->   a small file goes from one machine to another

Each story begins with the same three machines: they are set back to a snapshot of the cluster as `vagrant up`
left it. The runbooks of docs/operating.md are stories, too.

    python -m vagrant.vmtest [STORY…] [--keep] [--list]
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from vagrant import image
from vagrant.lab import URI, Lab, LabError, kvm_works

HERE = Path(__file__).resolve().parent
TOP = HERE.parent
STORIES = (*sorted((HERE / "scenarios").glob("*.md")), TOP / "docs" / "operating.md")
BOX = "swarmpy/bookworm"
NODES = ("node1", "node2", "node3")
ON = re.compile(r"<!-- on (?P<node>\w+)(?: until (?P<until>\d+)s)?(?: within (?P<within>\d+)s)? -->")
LAB = re.compile(r"<!-- lab: (?P<verb>[a-z-]+) (?P<node>\w+) -->")
CARRY = re.compile(r"<!-- carry (?P<path>\S+) from (?P<node>\w+) to (?P<to>\w+) -->")
STEP_S = 180
UP_S = 900


class StoryFailed(Exception):
    """A step did not come true; says which and what was seen."""


@dataclass(frozen=True)
class Step:
    """One block or one act. `until_s` > 0: repeat until it succeeds. `line` is in the story's file."""

    line: int
    node: str
    script: str = ""
    act: str = ""
    until_s: int = 0
    within_s: int = STEP_S


@dataclass(frozen=True)
class Story:
    name: str
    title: str
    steps: tuple[Step, ...]


def stories_of(path: Path) -> Iterator[Story]:
    """A file is one story, or one for each heading of the second level that has steps."""
    lines = path.read_text().splitlines()
    title, steps, several = path.stem, [], path.parent.name == "docs"
    number = 0
    while number < len(lines):
        line = lines[number]
        heading = re.match(r"(#+) (.*)", line)
        if heading and (len(heading[1]) == 1 or (several and len(heading[1]) == 2)):
            if steps:
                yield Story(name_of(path, title, several), title, tuple(steps))
            title, steps = heading[2], []
        elif found := LAB.fullmatch(line.strip()):
            steps.append(Step(number + 1, found["node"], act=found["verb"]))
        elif found := CARRY.fullmatch(line.strip()):
            steps.append(Step(number + 1, found["node"], found["path"], act=f"carry to {found['to']}"))
        elif found := ON.fullmatch(line.strip()):
            script, end = block_after(lines, number + 1, path)
            until_s, within_s = int(found["until"] or 0), int(found["within"] or STEP_S)
            for node in NODES if found["node"] == "all" else (found["node"],):
                steps.append(Step(number + 1, node, script, until_s=until_s, within_s=within_s))
            number = end
        number += 1
    if steps:
        yield Story(name_of(path, title, several), title, tuple(steps))


def name_of(path: Path, title: str, several: bool) -> str:
    return f"{path.stem}: {title}" if several else path.stem


def block_after(lines: Sequence[str], start: int, path: Path) -> tuple[str, int]:
    """The code block that follows, and the number of its last line."""
    while start < len(lines) and not lines[start].strip():
        start += 1
    if start >= len(lines) or not lines[start].startswith("```"):
        raise LabError(f"{path}:{start + 1}: no code block follows the comment")
    end = next((i for i in range(start + 1, len(lines)) if lines[i].startswith("```")), None)
    if end is None:
        raise LabError(f"{path}:{start + 1}: the code block does not end")
    return "\n".join(lines[start + 1 : end]), end


class Machines:
    """Three machines and what can be done to them."""

    def __init__(self, lab: Lab, cache: Path, *, kvm: bool) -> None:
        self._lab, self._cache = lab, cache
        self.env = {
            "VAGRANT_HOME": str(cache / "vagrant-home"), "VAGRANT_DOTFILE_PATH": str(cache / "vagrant-dot"),
            "VAGRANT_CWD": str(HERE), "VAGRANT_DEFAULT_PROVIDER": "libvirt", "VAGRANT_NO_COLOR": "1",
            "SWARMPY_BOX": BOX, "SWARMPY_EMULATED": "1", "SWARMPY_KVM": "1" if kvm else "0", "NODES": str(len(NODES)),
        }  # fmt: skip
        self._config = cache / "ssh-config"

    def vagrant(self, *argv: str, timeout_s: float) -> str:
        done = self._lab.run(["vagrant", *argv], timeout_s, self.env)
        return done.stdout

    def up(self, box: Path) -> None:
        """Boot, provision and join. Raises LabError."""
        self.add(box)
        self.vagrant("up", "--parallel", timeout_s=UP_S)
        self._config.write_text(
            self.vagrant("ssh-config", timeout_s=120) + "\nHost *\n  ConnectTimeout 10\n  ServerAliveInterval 5\n"
            f"  ControlMaster auto\n  ControlPersist yes\n  ControlPath {self._cache}/ssh-%n\n"
        )  # fmt: skip

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
            home = (
                self._cache
                / "vagrant-home"
                / "boxes"
                / BOX.replace("/", "-VAGRANTSLASH-")
                / version
                / "libvirt"
            )
            name = f"{BOX.replace('/', '-VAGRANTSLASH-')}_vagrant_box_image_{version}_box.img"
            self._lab.place(home / "box.img", name)

    def destroy(self) -> None:
        for node in NODES:
            self.hang_up(node)
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
        domain = f"lab-{node}"
        acts: dict[str, Callable[[], object]] = {
            "power-cut": lambda: (self.hang_up(node), self.virsh("destroy", domain)),
            "start": lambda: self.virsh("start", domain),
            "reboot": lambda: (self.ssh(node, "systemctl reboot", 60), self.hang_up(node)),
            "suspend": lambda: self.virsh("suspend", domain),
            "resume": lambda: self.virsh("resume", domain),
            "cable-pull": lambda: self.cable(domain, "down"),
            "cable-in": lambda: self.cable(domain, "up"),
        }
        if verb not in acts:
            raise LabError(f"a story asks for {verb!r}: known are {', '.join(acts)}")
        acts[verb]()

    def carry(self, path: str, node: str, to: str) -> None:
        read = self.ssh(node, f"base64 {path}", 60)
        if (
            read.returncode
            or self.ssh(to, f"umask 077; base64 -d >{path} <<'END'\n{read.stdout}END", 60).returncode
        ):
            raise LabError(f"{path} could not be carried from {node} to {to}: {read.stderr}")

    def cable(self, domain: str, state: str) -> None:
        """Of the private network only: ssh goes over the other card."""
        rows = [line.split() for line in self.virsh("domiflist", domain).splitlines()]
        mac = next(row[4] for row in rows if len(row) >= 5 and row[2] == "lab-swarmpy")
        self.virsh("domif-setlink", domain, mac, state)

    def snapshot(self) -> None:
        for node in NODES:
            self.virsh("snapshot-create-as", f"lab-{node}", "clean", timeout_s=300)

    def back_to_snapshot(self) -> None:
        for node in NODES:
            self.hang_up(node)
            self.virsh("snapshot-revert", f"lab-{node}", "clean", timeout_s=300)
        for node in NODES:
            self.cable(f"lab-{node}", "up")
            now = f"date -s @{time.time():.0f}"
            if self.ssh(node, now, 120).returncode:
                raise LabError(f"{node} does not answer after it was set back")
        ready = f"test \"$(swarmpy status --format '{{{{.NodesReady}}}}')\" = {len(NODES)}"
        deadline = time.monotonic() + STEP_S
        while self.ssh(NODES[0], ready, STEP_S).returncode:
            if time.monotonic() > deadline:
                raise LabError(f"the cluster does not find itself within {STEP_S} s after it was set back")
            time.sleep(2)


def play(machines: Machines, story: Story, say: Callable[[str], None]) -> None:
    """Raises StoryFailed or LabError."""
    for step in story.steps:
        if step.act:
            say(f"  {step.line}: {step.act} {step.node}")
            if step.act.startswith("carry to "):
                machines.carry(step.script, step.node, step.act.removeprefix("carry to "))
            else:
                machines.act(step.act, step.node)
            continue
        began = time.monotonic()
        done = attempt(machines, step)
        while done.returncode and time.monotonic() - began < step.until_s:
            time.sleep(1)
            done = attempt(machines, step)
        took = time.monotonic() - began
        say(f"  {step.line}: {step.node} {step.script.splitlines()[0][:70]}  {took:.0f} s")
        if done.returncode:
            said = (done.stdout[-1500:] + done.stderr[-1500:]).strip()
            raise StoryFailed(
                f"line {step.line}, on {step.node}, exit code {done.returncode}:\n{step.script}\n{said}"
            )


def attempt(machines: Machines, step: Step) -> subprocess.CompletedProcess[str]:
    try:
        return machines.ssh(step.node, step.script, step.within_s)
    except subprocess.TimeoutExpired as error:
        said = (
            error.stdout.decode(errors="replace") if isinstance(error.stdout, bytes) else error.stdout or ""
        )
        return subprocess.CompletedProcess([], 124, said, f"not done within {step.within_s} s")


def prepare(cache: Path) -> Path:
    """The box, the wheel, and an image to run. Raises ImageError."""
    box = image.build(cache)
    dist = TOP / "dist"
    for old in dist.glob("swarmpy-*.whl"):
        old.unlink()
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel"], cwd=TOP, check=True, capture_output=True
    )
    web = "from swarmpy.node.image import build; from pathlib import Path; import sys; "
    web += "build.build_busybox_image(Path(sys.argv[1]), reference='web:1', web=True)"
    env = {**os.environ, "PYTHONPATH": str(TOP / ".src")}
    subprocess.run([sys.executable, "-c", web, str(dist / "web.tar")], env=env, check=True)
    return box


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stories", nargs="*", help="only those whose name holds one of these")
    parser.add_argument(
        "--keep", action="store_true", help="leave the machines running until Enter is pressed"
    )
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--cache", type=Path, default=image.DEFAULT_CACHE)
    options = parser.parse_args()
    known = [story for path in STORIES if path.exists() for story in stories_of(path)]
    wanted = [s for s in known if not options.stories or any(word in s.name for word in options.stories)]
    if options.list or not wanted:
        print("\n".join(f"{story.name}  ({len(story.steps)} steps)  {story.title}" for story in known))
        return 0 if options.list else 2

    def say(line: str) -> None:
        print(f"{time.strftime('%H:%M:%S')} {line}", flush=True)

    try:
        failed = run(wanted, options.cache.resolve(), keep=options.keep, say=say)
    except (LabError, image.ImageError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", None)
        say(f"vm-test: {error}" + (f": {said}" if said else ""))
        return 1
    print(f"{len(wanted) - failed} passed, {failed} failed")
    return 1 if failed else 0


def run(wanted: Sequence[Story], cache: Path, *, keep: bool, say: Callable[[str], None]) -> int:
    """How many stories failed."""
    say("building what is needed")
    box = prepare(cache)
    failed = 0
    with Lab(cache) as lab:
        kvm = kvm_works(box, cache)
        machines = Machines(lab, cache, kvm=kvm)
        say(f"vagrant up, {len(NODES)} machines, {'KVM' if kvm else 'software emulation'}")
        try:
            machines.up(box)
            say("the cluster is up; taking snapshots")
            machines.snapshot()
            for number, story in enumerate(wanted):
                say(f"{story.name}: {story.title}")
                try:
                    if number:
                        machines.back_to_snapshot()
                    play(machines, story, say)
                except (StoryFailed, LabError) as error:
                    failed += 1
                    say(f"FAILED {story.name}: {error}")
            if keep:
                input("The machines run; press Enter to remove them. ")
        finally:
            say("removing the machines")
            machines.destroy()
    return failed


if __name__ == "__main__":
    sys.exit(main())
