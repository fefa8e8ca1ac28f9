"""The wiring of a node: the supervisor and the three roles it runs.

The supervisor (`swarmpy daemon`) is a dumb parent: standard library only, one thread. It
starts the roles, starts a dead one again (at once, then with growing pauses while it keeps
dying), and ends them when it is told to end. SIGHUP: read node.json again, because the
node's role changed. Containers belong to their monitors and outlive all of this.

A build that the cluster sent is tried here (node/builds): its roles under the daemon at hand first, then
all of it. What is not healthy in time gives way to what ran before, with nobody asked.

The supervisor runs for as long as the machine and does next to nothing, so it imports next to
nothing: `swarmpy daemon` becomes this module (`take_over`), which leaves the command line's
imports behind.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from swarmpy.node import builds

RESTART_FIRST_S = 0.05
RESTART_MAX_S = 5.0
HEALTHY_AFTER_S = 10.0
STOP_TIMEOUT_S = 10.0
EXIT_REMOVED = 70
EXIT_BUSY = 71
PR_SET_PDEATHSIG = 1
LOG_NAME = "daemon.log"
LOG_BYTES_MAX = 32 * 1024 * 1024
LOG_CHECK_S = 60.0
TRIAL_CHECK_S = 0.25
# Two heaps a process, not eight a core: threads here wait more than they allocate.
ALLOCATOR = {"MALLOC_ARENA_MAX": "2"}


class Role:
    """One child process and its restart state; times are monotonic seconds."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.process: subprocess.Popen[bytes] | None = None
        self.started = 0.0
        self.due = 0.0
        self.pause = RESTART_FIRST_S


class Trial:
    """A build that has to prove itself; `until` is in monotonic seconds."""

    def __init__(self, record: builds.Record) -> None:
        self.record = record
        self.until = time.monotonic() + record.patience_s
        self.ends = 0  # of its roles


class Supervisor:
    """Keeps the roles of one node running."""

    def __init__(self, state_dir: Path, log_level: str = "INFO") -> None:
        self._state_dir = state_dir
        self._log_level = log_level
        self._build = os.environ.get(builds.BUILD_VARIABLE, "")
        self._program = sys.executable
        self._environment = dict(os.environ)
        self._trial: Trial | None = None
        self._roles: dict[str, Role] = {}
        self._stopping = False
        self._exit_code = 0
        self._signals: list[int] = []

    def run(self) -> int:
        """Returns the exit code: 0, EXIT_REMOVED, or EXIT_BUSY when another one runs."""
        lock = self._lock()
        if lock is None:
            say(f"swarmpy already runs with the state directory {self._state_dir}")
            return EXIT_BUSY
        self._notify = notify = Notifier(
            os.environ.pop("NOTIFY_SOCKET", ""), os.environ.pop("WATCHDOG_USEC", "")
        )
        self._environment = dict(os.environ)
        reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, lambda received, _frame: self._signals.append(received))
        self._reload()
        while not self._stopping:
            self._start_due()
            notify.ready()
            longest = LOG_CHECK_S if self._trial is None else TRIAL_CHECK_S
            select.select([reader], [], [], min(self._until_due(), longest, notify.period_s))
            bound_log(self._state_dir / LOG_NAME)
            self._drain(reader)
            self._handle_signals()
            self._reap()
            self._prove()
        notify.say("STOPPING=1")
        self._stop_all()
        os.close(lock)
        return self._exit_code

    def _lock(self) -> int | None:
        """One supervisor a state directory; the lock dies with the process."""
        path = self._state_dir / "run" / "daemon.pid"
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(lock)
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                return None
            raise
        os.ftruncate(lock, 0)
        os.write(lock, f"{os.getpid()}\n".encode())
        return lock

    def _reload(self) -> None:
        wanted = ["dns", "agent"]
        try:
            config = json.loads((self._state_dir / "node.json").read_text())
            if config.get("role") == "manager":
                wanted.append("manager")
        except (OSError, ValueError) as error:
            say(f"node.json cannot be read, roles stay as they are: {error}")
            return
        for name in wanted:
            self._roles.setdefault(name, Role(name))
        for name in [name for name in self._roles if name not in wanted]:
            self._stop(self._roles.pop(name))
        self._try_build()

    # -- another build

    def _try_build(self) -> None:
        """Begin, or go on with, what the record says is to be tried."""
        record = builds.load(self._state_dir)
        if self._trial is not None or record.trial is None:
            return
        builds.ready_file(self._state_dir).unlink(missing_ok=True)
        if record.stage == builds.ROLES and record.trial != self._build:
            within_bounds = record.starts_again()
            if not self._kept(record) or not within_bounds:
                say(f"the build on trial is not started: {record.failed or 'see above'}")
                return
            say(
                f"trying build {record.trial[:12] or 'as installed'}: its roles, within {record.patience_s:g} s"
            )
            self._stop_all()
            program = str(builds.launcher(self._state_dir, record.trial)) if record.trial else ""
            self._run_roles(program or record.interpreter, builds.environment(self._state_dir))
        elif record.stage != builds.DAEMON or record.trial != self._build:
            return
        self._trial = Trial(record)

    def _kept(self, record: builds.Record) -> bool:
        """Write the record; a full disk must not end what keeps the node running."""
        try:
            builds.save(self._state_dir, record)
        except OSError as error:
            say(f"the record of builds cannot be written: {error}")
            return False
        return True

    def _run_roles(self, program: str, environment: dict[str, str]) -> None:
        self._program, self._environment = program, environment
        for role in self._roles.values():
            role.due, role.pause = 0.0, RESTART_FIRST_S

    def _prove(self) -> None:
        """Whether the build on trial is healthy, as its agent says, or out of time."""
        if (trial := self._trial) is None or self._stopping:
            return
        record, path = trial.record, builds.ready_file(self._state_dir)
        assert record.trial is not None
        try:
            is_ready = path.read_text() == builds.ready_text(record.trial, record)
        except OSError:
            is_ready = False
        if is_ready:
            record.proved()
            if not self._kept(record):  # looked at again, until time is out
                trial.record = builds.load(self._state_dir)
                return
            path.unlink(missing_ok=True)
            self._trial = None
            if record.trial is not None:
                say("the roles of the build on trial are healthy: it takes over")
                self._hand_over(record)
            else:
                builds.point(self._state_dir, record.current)
                say("the build on trial is healthy: it stays")
        elif trial.ends >= builds.ROLE_ENDS_MAX:
            self._refuse(trial, f"its processes ended {trial.ends} times")
        elif time.monotonic() > trial.until:
            self._refuse(trial, f"it was not healthy within {record.patience_s:g} s")

    def _refuse(self, trial: Trial, reason: str) -> None:
        """Back to the build before."""
        say(f"the build on trial is given up: {reason}")
        self._trial = None
        trial.record.refused(reason)
        self._kept(trial.record)
        if trial.record.stage == builds.DAEMON:
            self._hand_over(trial.record)
        self._stop_all()
        self._run_roles(sys.executable, dict(os.environ))

    def _hand_over(self, record: builds.Record) -> None:
        """Let what is installed start the build that counts now, in this process: same pid, for systemd too."""
        self._stop_all()
        arguments = ["--state-dir", str(self._state_dir), "--log-level", self._log_level]
        arguments += ["--log-format", os.environ.get("SWARMPY_LOG_FORMAT", "text")]
        try:
            builds.become_installed(self._state_dir, record, arguments, self._notify.variables)
        except OSError as error:
            say(f"{record.interpreter} cannot be started, this daemon goes on: {error}")
            record.refused(f"{record.interpreter} cannot be started: {error}")
            self._kept(record)
            self._run_roles(sys.executable, dict(os.environ))

    def _start_due(self) -> None:
        now = time.monotonic()
        for role in self._roles.values():
            if role.process is None and role.due <= now:
                command = [
                    self._program, "-P", "-m", "swarmpy.node.daemon_roles", role.name,
                    "--state-dir", str(self._state_dir), "--log-level", self._log_level,
                ]  # fmt: skip
                environment = {
                    **self._environment,
                    "SWARMPY_SUPERVISOR": str(os.getpid()),
                    "GRPC_ENABLE_FORK_SUPPORT": "0",
                }
                role.started = now
                try:
                    role.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, env=environment)
                except OSError as error:  # a build that is no program, a full process table
                    self._ended(role, f"did not start: {error}")

    def _until_due(self) -> float:
        due = [role.due for role in self._roles.values() if role.process is None]
        return max(0.0, min(due) - time.monotonic()) if due else LOG_CHECK_S

    @staticmethod
    def _drain(reader: int) -> None:
        try:
            while os.read(reader, 512):
                pass
        except BlockingIOError:
            return

    def _handle_signals(self) -> None:
        received, self._signals = self._signals, []
        if signal.SIGTERM in received or signal.SIGINT in received:
            self._stopping = True
        elif signal.SIGHUP in received:
            self._reload()

    def _reap(self) -> None:
        for role in self._roles.values():
            if role.process is None or (code := role.process.poll()) is None:
                continue
            role.process = None
            if code == EXIT_REMOVED:
                self._exit_code = EXIT_REMOVED
                self._stopping = True
                return
            self._ended(role, f"ended code={code}")

    def _ended(self, role: Role, how: str) -> None:
        now = time.monotonic()
        if now - role.started > HEALTHY_AFTER_S:
            role.pause = RESTART_FIRST_S
        role.due = now + role.pause
        say(f"{role.name} {how}, starting it again in {role.pause:.2f} s")
        role.pause = min(role.pause * 2, RESTART_MAX_S)
        if self._trial is not None:
            self._trial.ends += 1

    def _stop_all(self) -> None:
        """Managers first: they hand the lead over while their agent still heartbeats."""
        for name in ("manager", "agent", "dns"):
            if name in self._roles:
                self._notify.say("WATCHDOG=1")  # each may take its time, and this process is well
                self._stop(self._roles[name])

    @staticmethod
    def _stop(role: Role) -> None:
        if role.process is None:
            return
        role.process.terminate()
        try:
            role.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            role.process.kill()
            role.process.wait()
        role.process = None


class Notifier:
    """Tells systemd that the daemon is up, and again and again that it is alive (sd_notify(3))."""

    def __init__(self, address: str, watchdog_us: str) -> None:
        given = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": watchdog_us}
        self.variables = {name: value for name, value in given.items() if value}
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self.period_s = int(watchdog_us) / 2e6 if watchdog_us.isdigit() and int(watchdog_us) else LOG_CHECK_S

    def ready(self) -> None:
        self.say("READY=1\nWATCHDOG=1")

    def say(self, state: str) -> None:
        if self._address:
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
                notify.settimeout(1)
                notify.sendto(state.encode(), self._address)


def bound_log(path: Path, bytes_max: int = LOG_BYTES_MAX) -> None:
    """Keep the log of a daemon in the background to two files: a full one moves on to `.1`.

    Its roles write to the same open file, so it is emptied and not renamed; a line of that moment may be lost.
    """
    try:
        log = os.fstat(2)
        if log.st_size <= bytes_max or not os.path.samestat(log, os.stat(path)):
            return
    except OSError:
        return
    try:
        with open(path, "rb") as full, open(f"{path}.1", "wb") as kept:
            while os.sendfile(kept.fileno(), full.fileno(), None, bytes_max):
                continue
    except OSError as error:
        say(f"the log {path} is not kept as {path.name}.1: {error}")
    os.truncate(path, 0)


def say(line: str) -> None:
    """One line of the supervisor's log. A full disk must not end what keeps the node running."""
    with contextlib.suppress(OSError):
        os.write(2, f"{time.strftime('%H:%M:%S')} supervisor {line}\n".encode())


def die_with_parent() -> None:
    """Have the kernel end this process when its supervisor dies, so that roles never double."""
    parent = int(os.environ.get("SWARMPY_SUPERVISOR", "0"))
    if not parent:
        return
    import ctypes

    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit(0)


def take_over(state_dir: Path, log_level: str = "INFO", log_format: str = "text") -> None:
    """Become the supervisor: same pid, none of the memory of before. Does not return."""
    from swarmpy.node import config, log

    given = ["--state-dir", str(state_dir.absolute()), "--log-level", log_level]
    builds.become_chosen(state_dir, [*given, "--log-format", log_format], config.release())
    os.environ[log.FORMAT_VARIABLE] = log_format
    os.environ[config.RELEASE_VARIABLE] = config.release()
    sys.stdout.flush()
    sys.stderr.flush()
    arguments = [sys.executable, "-P", "-m", "swarmpy.node.daemon", *given]
    os.execv(sys.executable, arguments)  # noqa: S606


if __name__ == "__main__":
    _, _, given_state_dir, _, given_level = sys.argv
    sys.exit(Supervisor(Path(given_state_dir), given_level).run())
