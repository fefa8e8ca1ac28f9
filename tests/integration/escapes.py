"""What a hostile root tries from inside a container: run there by the node's own Python.

One line of JSON: name of the attempt -> "DONE", or the name of the error that stopped it, or what was seen.
Uses nothing but the standard library, and no code of ours: it is mounted alone.
"""

import ctypes
import errno
import json
import os
import socket
import stat
import sys

libc = ctypes.CDLL(None, use_errno=True)
CALLS = {
    "x86_64": {
        "mount": 165, "umount2": 166, "pivot_root": 155, "unshare": 272, "setns": 308, "keyctl": 250,
        "add_key": 248, "request_key": 249, "bpf": 321, "perf_event_open": 298, "userfaultfd": 323,
        "io_uring_setup": 425, "init_module": 175, "finit_module": 313, "kexec_load": 246, "reboot": 169,
        "swapon": 167, "open_by_handle_at": 304, "settimeofday": 164, "sethostname": 170, "iopl": 172,
        "acct": 163, "fsopen": 430, "open_tree": 428, "move_mount": 429, "mount_setattr": 442, "clone3": 435,
        "process_vm_writev": 311, "quotactl": 179, "syslog": 103, "lookup_dcookie": 212, "nfsservctl": 180,
        "ptrace": 101, "chroot": 161,
    },
    "aarch64": {
        "mount": 40, "umount2": 39, "pivot_root": 41, "unshare": 97, "setns": 268, "keyctl": 219,
        "add_key": 217, "request_key": 218, "bpf": 280, "perf_event_open": 241, "userfaultfd": 282,
        "io_uring_setup": 425, "init_module": 105, "finit_module": 273, "kexec_load": 104, "reboot": 142,
        "swapon": 224, "open_by_handle_at": 265, "settimeofday": 170, "sethostname": 161, "acct": 89,
        "fsopen": 430, "open_tree": 428, "move_mount": 429, "mount_setattr": 442, "clone3": 435,
        "quotactl": 60, "syslog": 116, "ptrace": 117, "chroot": 51,
    },
}[os.uname().machine]  # fmt: skip
CLONE_NEWUSER, CLONE_NEWNS, CLONE_NEWCGROUP = 0x10000000, 0x00020000, 0x02000000
found = {}


def attempt(name, function, *arguments):
    try:
        result = function(*arguments)
    except OSError as error:
        found[name] = errno.errorcode.get(error.errno, str(error.errno))
    else:
        found[name] = "DONE" if result is None else result


def call(name, *arguments):
    if name not in CALLS:
        return
    values = [ctypes.c_char_p(a) if isinstance(a, bytes) else ctypes.c_long(a) for a in arguments]

    def do():
        if libc.syscall(ctypes.c_long(CALLS[name]), *values) < 0:
            raise OSError(ctypes.get_errno(), "")

    attempt(name, do)


def write(path, text):
    def do():
        fd = os.open(path, os.O_WRONLY)
        try:
            os.write(fd, text.encode())
        finally:
            os.close(fd)

    attempt("write " + path, do)


def system_calls():
    call("mount", b"none", b"/tmp", b"tmpfs", 0, 0)
    call("umount2", b"/proc", 2)
    call("pivot_root", b"/tmp", b"/tmp")
    call("unshare", CLONE_NEWUSER | CLONE_NEWNS)
    for name in ("fsopen", "open_tree", "move_mount", "mount_setattr"):
        call(name, b"tmpfs", 0, 0, 0, 0)
    call("keyctl", 0, -3, 1)
    call("add_key", b"user", b"a", b"b", 1, -3)
    call("request_key", b"user", b"a", 0, -3)
    for name in ("bpf", "perf_event_open", "userfaultfd", "io_uring_setup", "kexec_load", "init_module",
                 "finit_module", "quotactl", "lookup_dcookie", "nfsservctl"):  # fmt: skip
        call(name, 0, 0, 0, 0, 0)
    call("reboot", 0xFEE1DEAD, 672274793, 0x89ABCDEF, 0)
    call("swapon", b"/tmp/x", 0)
    call("open_by_handle_at", -100, b"\0" * 32, 0)
    call("settimeofday", b"\0" * 16, 0)
    call("sethostname", b"owned", 5)
    call("iopl", 3)
    call("acct", b"/tmp/x")
    call("syslog", 3, b"\0" * 64, 64)
    call("clone3", b"\0" * 88, 88)
    for kind in ("mnt", "net", "pid", "user", "cgroup"):

        def enter(kind=kind):
            fd = os.open(f"/proc/1/ns/{kind}", os.O_RDONLY)
            failed, number = libc.setns(fd, 0), ctypes.get_errno()
            os.close(fd)
            if failed:
                raise OSError(number, "")

        attempt("setns " + kind, enter)


def files(canary):
    for path, text in (
        ("/proc/sys/kernel/core_pattern", "|/tmp/x"), ("/proc/sys/kernel/modprobe", "/tmp/x"),
        ("/proc/sys/vm/drop_caches", "1"), ("/proc/sysrq-trigger", "h"), ("/proc/sys/fs/binfmt_misc/register", ":"),
        ("/sys/kernel/uevent_helper", "/tmp/x"), ("/sys/fs/cgroup/release_agent", "/tmp/x"),
        ("/sys/fs/cgroup/memory/release_agent", "/tmp/x"), ("/sys/fs/cgroup/memory/notify_on_release", "1"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "-1"), ("/sys/fs/cgroup/pids/pids.max", "max"),
        ("/sys/fs/cgroup/memory.max", "max"), ("/sys/fs/cgroup/cgroup.procs", "1"),
        ("/proc/1/oom_score_adj", "-1000"),
    ):  # fmt: skip
        write(path, text)
    attempt("mknod block", os.mknod, "/tmp/disk", stat.S_IFBLK | 0o600, os.makedev(8, 0))
    attempt("mknod mem", os.mknod, "/tmp/mem", stat.S_IFCHR | 0o600, os.makedev(1, 1))
    for path in (
        canary,
        "/proc/1/root" + canary,
        "/proc/self/cwd/../../../../.." + canary,
        "/proc/1/cwd" + canary,
    ):
        attempt("read " + path.replace(canary, "CANARY"), lambda path=path: open(path).read())  # noqa: SIM115
    attempt("read kcore", lambda: len(open("/proc/kcore", "rb").read(16)))  # noqa: SIM115
    attempt(
        "devices",
        lambda: sorted(n for n in os.listdir("/dev") if not stat.S_ISLNK(os.lstat("/dev/" + n).st_mode)),
    )
    for family, kind in (("AF_INET", socket.SOCK_RAW), ("AF_PACKET", socket.SOCK_RAW),
                         ("AF_VSOCK", socket.SOCK_STREAM),
                         ("AF_ALG", socket.SOCK_SEQPACKET)):  # fmt: skip
        attempt(
            "socket " + family,
            lambda f=family, k=kind: socket.socket(
                getattr(socket, f), k, 255 if f == "AF_INET" else 0
            ).close(),
        )


def processes(host_pid):
    attempt("pids", lambda: max(int(n) for n in os.listdir("/proc") if n.isdigit()))
    attempt("kill host", os.kill, int(host_pid), 0)

    def trace():
        if libc.ptrace(16, int(host_pid), 0, 0) < 0:
            raise OSError(ctypes.get_errno(), "")

    attempt("ptrace host", trace)
    for pid in ("1", "self"):
        links = []
        for name in os.listdir(f"/proc/{pid}/fd"):
            try:
                links.append(os.readlink(f"/proc/{pid}/fd/{name}"))
            except OSError:
                continue
        found["fds " + pid] = [
            x for x in links if not x.startswith(("pipe:", "socket:", "/dev/null", "/proc/"))
        ]
    with open("/proc/self/status") as file:
        for line in file:
            key, _, value = line.partition(":")
            if key in {"NoNewPrivs", "Seccomp", "CapEff", "CapBnd", "CapInh", "CapAmb"}:
                found[key] = value.strip()


system_calls()
files(sys.argv[1])
processes(sys.argv[2])
print(json.dumps(found))
