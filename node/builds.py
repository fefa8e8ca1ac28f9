"""Which build of swarmpy a node runs: the record on its disk, and how a build is started.

`STATE/builds/DIGEST/swarmpy` starts a build that the cluster sent here; "" stands for what is installed
on the machine (package, pip, single file). `STATE/builds/record.json` says which one counts:

    current ──begin──▶ trial, stage "roles": the daemon of `current` runs the roles of the new build
                         │ healthy                         │ not in time, ended thrice, begun too often
                         ▼                                 ▼
                       stage "daemon": the new build runs as a whole ──▶ failed: `current` as before
                         │ healthy
                         ▼
                       settled: it is `current`, the one before is `previous`

The record changes only by writing it anew (tmp, fsync, rename), before what it describes begins. So a
node that is killed or loses power at any step comes up with a build that was healthy before, or tries
the new one again, START_TRIES times at most. Whoever starts a node starts what is installed, which looks
here and becomes the chosen build (`choose`); what an init system has in its configuration stays right.
Somebody who installs another version by hand wins: the record then no longer counts.

One writer at a time: the agent while there is no trial, the supervisor while there is one, what is
installed while neither runs. Standard library only, and little of it: the supervisor imports this.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

START_TRIES = 3
ROLE_ENDS_MAX = 3
PATIENCE_S = 60.0
ROLES, DAEMON = "roles", "daemon"
BUILD_VARIABLE = "SWARMPY_BUILD"  # the digest of the build that a process is of; set by what starts it
INSTALLED_VARIABLE = "SWARMPY_INSTALLED"  # how to start what is installed, for commands of another build
OWN_VARIABLES = (BUILD_VARIABLE, "SWARMPY_UNPACK_DIR", "SWARMPY_RELEASE", "SWARMPY_BINARY")


class Record:
    """The contents of record.json; `trial` is None where nothing is being tried."""

    def __init__(self) -> None:
        self.current = ""
        self.previous = ""
        self.trial: str | None = None
        self.stage = ROLES
        self.starts = 0
        self.attempt = 0  # the newest wish of the cluster that was acted upon
        self.patience_s = PATIENCE_S
        self.failed = ""  # why that attempt failed
        self.installed = ""  # the version that was installed when the first build came
        self.interpreter = ""  # what starts it

    def began(self, build: str, attempt: int, patience_s: float) -> None:
        self.trial, self.attempt, self.patience_s = build, attempt, patience_s
        self.stage, self.starts, self.failed = ROLES, 0, ""

    def proved(self) -> None:
        """The stage at hand is passed."""
        assert self.trial is not None
        if self.stage == ROLES:
            self.stage, self.starts = DAEMON, 0
        else:
            self.previous, self.current, self.trial = self.current, self.trial, None

    def refused(self, reason: str) -> None:
        self.trial, self.failed = None, reason

    def starts_again(self) -> bool:
        """Count one more start of what is on trial; False, and it is refused, after too many."""
        if self.starts >= START_TRIES:
            self.refused(f"it was started {START_TRIES} times and was never healthy")
            return False
        self.starts += 1
        return True


def directory(state: Path) -> Path:
    return state / "builds"


def launcher(state: Path, build: str) -> Path:
    return directory(state) / build / "swarmpy"


def current_link(state: Path) -> Path:
    """Leads to the directory of the build that the node runs, for the command line."""
    return directory(state) / "current"


def ready_file(state: Path) -> Path:
    """Written by the agent of a build on trial once the node is healthy."""
    return directory(state) / "ready"


def ready_text(build: str, record: Record) -> str:
    return f"{build} {record.attempt} {record.stage}\n"


def load(state: Path) -> Record:
    """The record; a fresh one where there is none or it is damaged: what is installed then runs."""
    record = Record()
    try:
        values = json.loads((directory(state) / "record.json").read_text())
        for name, default in vars(Record()).items():
            value = values.get(name, default)
            if type(value) is type(default) or (name == "trial" and isinstance(value, str)):
                setattr(record, name, value)
    except (OSError, ValueError, AttributeError):
        return Record()
    return record


def save(state: Path, record: Record) -> None:
    place = directory(state)
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    fresh = place / "record.json.new"
    with fresh.open("w") as file:
        json.dump(vars(record), file)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(place / "record.json")
    descriptor = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def point(state: Path, build: str) -> None:
    """Let `current` lead to the build; to nothing where what is installed runs."""
    link = current_link(state)
    if not build:
        link.unlink(missing_ok=True)
        return
    fresh = link.with_name("current.new")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(build)
    fresh.replace(link)


def choose(state: Path, record: Record, installed: str) -> str:
    """The build whose daemon is to run, as decided by what is installed; changes the record."""
    used = record.current or record.trial is not None
    if used and record.installed != installed:
        record.refused(f"version {installed} was installed on the machine by hand")
        record.current = record.previous = ""
    record.installed = installed
    if record.trial is not None and record.stage == DAEMON and record.starts_again():
        chosen = record.trial
    else:
        chosen = record.current
    if chosen and not os.access(launcher(state, chosen), os.X_OK):
        record.refused(f"build {chosen[:12]} is not on this node's disk any more")
        record.current = chosen = ""
    return chosen


def become_chosen(state: Path, arguments: list[str], installed: str) -> None:
    """Called by what is installed: run the daemon of the chosen build in this process; returns if that is itself."""
    if os.environ.get(BUILD_VARIABLE):
        return  # it is the chosen one
    record = load(state)
    if not record.attempt:
        return  # the cluster never sent one
    interpreter = os.environ.get("SWARMPY_BINARY") or sys.executable
    record.interpreter = interpreter
    chosen = choose(state, record, installed)
    save(state, record)
    point(state, record.current)
    if chosen:
        program = str(launcher(state, chosen))
        os.execve(program, daemon_command(program, arguments), environment(state))  # noqa: S606


def become_installed(state: Path, record: Record, arguments: list[str], extra: dict[str, str]) -> None:
    """Called by a daemon: give the process to what is installed, which chooses again. Raises OSError."""
    command = daemon_command(record.interpreter, arguments)
    os.execve(record.interpreter, command, {**environment(state), **extra})  # noqa: S606


def daemon_command(program: str, arguments: list[str]) -> list[str]:
    return [program, "-P", "-m", "swarmpy.cli.main", "daemon", *arguments]


def environment(state: Path) -> dict[str, str]:
    """This process's environment without what says which build it is of."""
    kept = {name: value for name, value in os.environ.items() if name not in OWN_VARIABLES}
    own = str(directory(state)) + "/"
    paths = [path for path in kept.pop("PYTHONPATH", "").split(":") if path and not path.startswith(own)]
    if paths:
        kept["PYTHONPATH"] = ":".join(paths)
    kept["PYINSTALLER_RESET_ENVIRONMENT"] = "1"  # a packed program is not the child of another one
    return kept
