"""Runs stories on virtual machines: `make vm-test`.

A story is a Markdown file: prose for people, and code blocks that are run as they stand. A comment in front
of a block says where, and how long it may take to come true:

    <!-- on node1 -->             a block ```sh, run by root on that machine with `set -eu`; must succeed
    <!-- on node2 until 60s -->   the same, repeated until it succeeds
    <!-- on all -->               on every machine, one after the other
    <!-- lab: power-cut node3 --> something done to a machine: power-cut, start, reboot, suspend, resume,
                                  cable-pull, cable-in
    <!-- carry /root/token from node1 to node3 -->   a small file goes from one machine to another

Where the processor is emulated all time limits are three times as long.
Each story begins with the same three machines: they are set back to a snapshot of the cluster as `vagrant up`
left it. The runbooks of docs/operating.md are stories, too.

    python -m vagrant.vmtest [STORY…] [--keep | --remove] [--list]

--keep leaves the machines running; the next command uses them, and where the wheel has changed meanwhile installs
it in them and takes the snapshot anew: minutes less than booting them.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from vagrant import image
from vagrant.lab import Lab, LabError, kvm_works
from vagrant.machines import DIST, NODES, STEP_S, Machines

HERE = Path(__file__).resolve().parent
TOP = HERE.parent
STORIES = (*sorted((HERE / "scenarios").glob("*.md")), TOP / "docs" / "operating.md")
ON = re.compile(r"<!-- on (?P<node>\w+)(?: until (?P<until>\d+)s)?(?: within (?P<within>\d+)s)? -->")
LAB = re.compile(r"<!-- lab: (?P<verb>[a-z-]+) (?P<node>\w+) -->")
CARRY = re.compile(r"<!-- carry (?P<path>\S+) from (?P<node>\w+) to (?P<to>\w+) -->")


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
    steps: list[Step] = []
    title, several = path.stem, path.parent.name == "docs"
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
        began = asked = time.monotonic()
        done = attempt(machines, step)
        while done.returncode and time.monotonic() - began < step.until_s * machines.patience:
            time.sleep(max(1.0, time.monotonic() - asked))  # to ask must not be most of what the machine does
            asked = time.monotonic()
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
        return machines.ssh(step.node, step.script, step.within_s * machines.patience)
    except subprocess.TimeoutExpired as error:
        said = (
            error.stdout.decode(errors="replace") if isinstance(error.stdout, bytes) else error.stdout or ""
        )
        return subprocess.CompletedProcess(
            [], 124, said, f"not done within {step.within_s * machines.patience} s"
        )


def prepare() -> Path:
    """The wheel, and an image to run, in dist/; the path of the wheel."""
    for old in DIST.glob("swarmpy-*.whl"):
        old.unlink()
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel"], cwd=TOP, check=True, capture_output=True
    )
    web = "from swarmpy.node.image import build; from pathlib import Path; import sys; "
    web += "build.build_busybox_image(Path(sys.argv[1]), reference='web:1', web=True)"
    env = {**os.environ, "PYTHONPATH": str(TOP / ".src")}
    subprocess.run([sys.executable, "-c", web, str(DIST / "web.tar")], env=env, check=True)
    return next(DIST.glob("swarmpy-*.whl"))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stories", nargs="*", help="only those whose name holds one of these")
    parser.add_argument("--keep", action="store_true", help="leave the machines to the next command")
    parser.add_argument("--remove", action="store_true", help="remove the machines that were left")
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

    cache = options.cache.resolve()
    try:
        if options.remove:
            with Lab(cache) as lab:
                Machines(lab, cache).destroy()
            return 0
        failed = run(wanted, cache, keep=options.keep, say=say)
    except (LabError, image.ImageError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", None)
        say(f"vm-test: {error}" + (f": {said}" if said else ""))
        return 1
    print(f"{len(wanted) - failed} passed, {failed} failed")
    return 1 if failed else 0


def run(wanted: Sequence[Story], cache: Path, *, keep: bool, say: Callable[[str], None]) -> int:
    """How many stories failed. Says at the end where the time went."""
    phases: list[tuple[str, float]] = []
    began = time.monotonic()

    def phase(name: str) -> None:
        phases.append((name, time.monotonic() - began - sum(took_s for _, took_s in phases)))

    say("building what is needed")
    wheel = prepare()
    phase("wheel")
    failed = 0
    with Lab(cache) as lab:
        machines = Machines(lab, cache)
        try:
            if machines.kept(image.stamp()):
                clean = machines.renew()
                say("the machines that were kept" + (", now with this build" if clean else ""))
            else:
                box = image.build(wheel, [DIST / "web.tar"], cache)
                phase("box")
                kvm = kvm_works(box, cache)
                say(f"vagrant up, {len(NODES)} machines, {'KVM' if kvm else 'software emulation'}")
                machines.up(box, kvm=kvm)
                clean = True
            if keep:
                machines.keep(image.stamp())
            phase("machines")
            for story in wanted:
                failed += not told(machines, story, say, clean=clean)
                phase(story.name)
                clean = False
        finally:
            if not keep:
                machines.destroy()
                phase("removing them")
    for name, took_s in phases:
        say(f"{took_s:6.0f} s  {name}")
    say(f"{time.monotonic() - began:6.0f} s  altogether")
    return failed


def told(machines: Machines, story: Story, say: Callable[[str], None], *, clean: bool) -> bool:
    """Whether every step came true."""
    say(f"{story.name}: {story.title}")
    began = time.monotonic()
    try:
        if not clean:
            machines.back_to_snapshot()
            say(f"  set back  {time.monotonic() - began:.0f} s")
        play(machines, story, say)
    except (StoryFailed, LabError, subprocess.SubprocessError) as error:
        say(f"FAILED {story.name} after {time.monotonic() - began:.0f} s: {error}")
        return False
    say(f"passed {story.name}  {time.monotonic() - began:.0f} s")
    return True


if __name__ == "__main__":
    sys.exit(main())
