"""Control groups in each layout, with files in a directory: pure v2 has no machine among those of the tests."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest
from swarmpy.node.runtime import RuntimeFailure, StartRejected, cgroups, spec_limits, system
from swarmpy.node.runtime.inside import Inside
from swarmpy.node.runtime.meters import AFRESH_EVERY, Meter
from swarmpy.node.runtime.oci import Oci
from swarmpy.proto import types_pb2

MEBIBYTE = 1 << 20
V1_FILES = {
    "cpu": {"cpu.cfs_period_us": "100000", "cpu.cfs_quota_us": "-1", "cpu.shares": "1024"},
    "cpuacct": {"cpuacct.usage": "5"},
    "memory": {
        "memory.limit_in_bytes": "9223372036854771712", "memory.memsw.limit_in_bytes": "9223372036854771712",
        "memory.soft_limit_in_bytes": "9223372036854771712", "memory.usage_in_bytes": str(40 * MEBIBYTE),
        "memory.stat": f"cache 1\ntotal_inactive_file {10 * MEBIBYTE}\n",
        "memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
    },
    "pids": {"pids.max": "max", "pids.current": "3"},
}  # fmt: skip
V2_FILES = {
    "cpu.max": "max 100000", "cpu.weight": "100", "cpu.stat": "usage_usec 7\nuser_usec 1\n",
    "memory.max": "max", "memory.low": "0", "memory.swap.max": "max", "memory.current": str(40 * MEBIBYTE),
    "memory.stat": f"anon 1\ninactive_file {10 * MEBIBYTE}\n", "memory.events": "low 0\noom 3\noom_kill 2\n",
    "pids.max": "max", "pids.current": "3", "io.stat": "8:0 rbytes=10 wbytes=20 rios=1\n",
    "cpu.pressure": "some avg10=0.00 total=4\nfull avg10=0.00 total=1\n",
    "memory.pressure": "some total=0\n", "io.pressure": "some total=0\n",
}  # fmt: skip


def fill(directory: Path, files: dict[str, str]) -> None:
    directory.mkdir(parents=True)
    for name, text in files.items():
        (directory / name).write_text(text)


def v2(tmp_path: Path) -> cgroups.Cgroup:
    fill(tmp_path / "swarmpy-x/a", V2_FILES)
    return cgroups.Cgroup(cgroups.Layout(tmp_path, {}), "/swarmpy-x/a")


def v1(tmp_path: Path, *, hybrid: bool = False) -> cgroups.Cgroup:
    for controller, files in V1_FILES.items():
        fill(tmp_path / controller / "swarmpy-x/a", files)
    (tmp_path / "memory/memory.memsw.limit_in_bytes").touch()
    unified = None
    if hybrid:
        unified = tmp_path / "unified"
        fill(unified / "swarmpy-x/a", {"cpu.pressure": "some total=4\n"})
    return cgroups.Cgroup(
        cgroups.Layout(unified, {name: tmp_path / name for name in V1_FILES}), "/swarmpy-x/a"
    )


def limits(memory_mib: int, **more: int | str | bool) -> types_pb2.ResourceRequirements:
    wanted = types_pb2.ResourceRequirements(**more)  # type: ignore[arg-type]
    wanted.limits.memory_bytes, wanted.limits.nano_cpus = memory_mib * MEBIBYTE, 500_000_000
    wanted.reservations.nano_cpus = 1_000_000_000
    return wanted


def read(group: cgroups.Cgroup, *names: str) -> list[str]:
    found = []
    for name in names:
        tree = (
            group.layout.unified if group.layout.pure_v2 else group.layout.controllers[name.partition(".")[0]]
        )
        assert tree is not None
        found.append((tree / group.path.strip("/") / name).read_text())
    return found


@pytest.mark.parametrize("layout", ["v1", "hybrid", "v2"])
def test_what_is_counted(layout: str, tmp_path: Path) -> None:
    group = v2(tmp_path) if layout == "v2" else v1(tmp_path, hybrid=layout == "hybrid")
    assert group.layout.pure_v2 == (layout == "v2")
    stats = group.stats()
    assert (stats.cpu_ns, stats.memory_bytes, stats.pids) == (7000 if layout == "v2" else 5, 30 * MEBIBYTE, 3)
    assert group.oom_kills() == 2
    started = system.start_time(os.getpid())
    assert started is not None
    inside = Inside("a", os.getpid(), started, False, tmp_path, group, Oci("crun", tmp_path))
    group.change(limits(100, pids_limit=50))
    meter = Meter(inside)
    try:
        sample = meter.sample()
    finally:
        meter.close()
    assert (sample.cpu_ns, sample.memory_bytes, sample.pids) == (stats.cpu_ns, stats.memory_bytes, 3)
    assert (sample.cpu_limit_nano, sample.memory_limit_bytes, sample.pids_limit) == (
        5 * 10**8,
        100 * MEBIBYTE,
        50,
    )
    assert sample.pressure == (layout != "v1")
    assert sample.cpu_pressure_ns == (0 if layout == "v1" else 4000)
    if layout == "v2":
        assert (sample.read_bytes, sample.written_bytes) == (10, 20)


@pytest.mark.parametrize("layout", ["v1", "v2"])
def test_kinds_of_memory_are_read_where_something_moved_and_now_and_then(layout: str, tmp_path: Path) -> None:
    group = v2(tmp_path) if layout == "v2" else v1(tmp_path)
    started = system.start_time(os.getpid())
    assert started is not None
    meter = Meter(Inside("a", os.getpid(), started, False, tmp_path, group, Oci("crun", tmp_path)))
    v2_names = ("memory.stat", "memory.current", "cpu.stat")
    v1_names = ("memory/swarmpy-x/a/memory.stat", "memory/swarmpy-x/a/memory.usage_in_bytes",
                "cpuacct/swarmpy-x/a/cpuacct.usage")  # fmt: skip
    kinds, used, cpu = (
        tmp_path / name for name in (v1_names if layout == "v1" else [f"swarmpy-x/a/{n}" for n in v2_names])
    )
    cache = "total_inactive_file" if layout == "v1" else "inactive_file"

    def seen_mib() -> int:
        return meter.sample().memory_bytes // MEBIBYTE

    try:
        assert seen_mib() == 30
        kinds.write_text(f"{cache} {4 * MEBIBYTE}\n")
        assert [seen_mib() for _ in range(AFRESH_EVERY)] == [30] * (AFRESH_EVERY - 1) + [36]
        kinds.write_text(f"{cache} {5 * MEBIBYTE}\n")
        cpu.write_text(str(10**9) if layout == "v1" else f"usage_usec {10**9}\n")
        assert seen_mib() == 35
        kinds.write_text(f"{cache} {6 * MEBIBYTE}\n")
        used.write_text(str(50 * MEBIBYTE))
        assert seen_mib() == 44
    finally:
        meter.close()


@pytest.mark.parametrize("layout", ["hybrid", "v2"])
def test_an_idle_containers_processes_are_counted_when_it_runs_or_waits(layout: str, tmp_path: Path) -> None:
    two = layout == "v2"
    group = v2(tmp_path) if two else v1(tmp_path, hybrid=True)
    started = system.start_time(os.getpid())
    assert started is not None
    own = tmp_path / ("swarmpy-x/a" if two else "unified/swarmpy-x/a")
    pids = own / "pids.current" if two else tmp_path / "pids/swarmpy-x/a/pids.current"
    cpu = own / "cpu.stat" if two else tmp_path / "cpuacct/swarmpy-x/a/cpuacct.usage"
    waits = own / "io.pressure"
    waits.write_text("some total=0\n")
    meter = Meter(Inside("a", os.getpid(), started, False, tmp_path, group, Oci("crun", tmp_path)))

    def run(total_ns: int) -> None:
        cpu.write_text(f"usage_usec {total_ns // 1000}\n" if two else str(total_ns))

    def seen(now: int) -> int:
        pids.write_text(str(now))
        return meter.sample().pids

    try:
        assert [seen(now) for now in (3, 4)] == [3, 3]
        run(10**12)
        assert [seen(now) for now in (7, 8, 9)] == [7, 8, 8], "one more look, then none"
        run(10**12 + 10)  # an init has looked for children
        assert seen(10) == 8
        for total in (5, 6):  # waits on and on without running
            waits.write_text(f"some total={total}\n")
            assert seen(total) == total
        (own / "cpu.pressure").write_text("some total=9\n")
        sample = meter.sample()
        assert (sample.cpu_pressure_ns, sample.io_pressure_ns) == (9000, 6000)
        for _ in range(AFRESH_EVERY):
            last = seen(11)
        assert last == 11
        if two:  # written back by the kernel, by nobody of the group
            (own / "io.stat").write_text("8:0 rbytes=10 wbytes=99\n")
            assert meter.sample().written_bytes == 99
    finally:
        meter.close()


def test_limits_are_changed_on_v2(tmp_path: Path) -> None:
    group = v2(tmp_path)
    wanted = limits(64, pids_limit=7, swap_bytes=MEBIBYTE)
    wanted.reservations.memory_bytes = 32 * MEBIBYTE
    group.change(wanted)
    names = ("cpu.max", "cpu.weight", "memory.max", "memory.low", "memory.swap.max", "pids.max")
    assert read(group, *names) == [
        "50000 100000",
        "39",
        str(64 * MEBIBYTE),
        str(32 * MEBIBYTE),
        str(MEBIBYTE),
        "7",
    ]
    group.change(types_pb2.ResourceRequirements(pids_limit=-1))
    assert read(group, *names) == ["max 100000", "100", "max", "0", "max", "max"]


def test_limits_are_changed_on_v1_in_the_order_the_kernel_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = v1(tmp_path)
    written: list[str] = []
    write = Path.write_text

    def noted(path: Path, text: str) -> int:
        written.append(path.name)
        return write(path, text)

    monkeypatch.setattr(Path, "write_text", noted)
    group.change(limits(64))
    assert read(group, "cpu.cfs_quota_us", "cpu.shares", "memory.memsw.limit_in_bytes", "pids.max") == [
        "50000", "1024", str(64 * MEBIBYTE), "4096",
    ]  # fmt: skip
    assert [name for name in written if "limit_in_bytes" in name and "soft" not in name] == [
        "memory.limit_in_bytes", "memory.memsw.limit_in_bytes",
    ]  # fmt: skip
    written.clear()
    group.change(limits(128))
    assert written.index("memory.memsw.limit_in_bytes") < written.index("memory.limit_in_bytes")
    written.clear()
    group.change(limits(96))
    assert written.index("memory.limit_in_bytes") < written.index("memory.memsw.limit_in_bytes")


@pytest.mark.parametrize("layout", ["v1", "v2"])
def test_a_limit_below_use_is_refused_and_changes_nothing(layout: str, tmp_path: Path) -> None:
    group = v2(tmp_path) if layout == "v2" else v1(tmp_path)
    with pytest.raises(RuntimeFailure, match="of 20 MiB is below the 30 MiB in use"):
        group.change(limits(20))
    untouched = (
        V2_FILES if layout == "v2" else {k: t for files in V1_FILES.values() for k, t in files.items()}
    )
    names = ("cpu.max", "memory.max", "pids.max") if layout == "v2" else ("cpu.cfs_quota_us", "pids.max")
    assert read(group, *names) == [untouched[name] for name in names]


@pytest.mark.parametrize("layout", ["v1", "v2"])
def test_a_weight_of_block_io_goes_where_the_kernel_has_one_and_is_refused_elsewhere(
    layout: str, tmp_path: Path
) -> None:
    group = v2(tmp_path) if layout == "v2" else v1(tmp_path)
    group.limit_io(types_pb2.ResourceRequirements(io_weight=0))
    with pytest.raises(
        StartRejected, match=r"io_weight: this node's control groups have neither (blk)?io.bfq.we"
    ):
        group.limit_io(types_pb2.ResourceRequirements(io_weight=300))
    wanted = types_pb2.ResourceRequirements(io_weight=300)
    with pytest.raises(RuntimeFailure, match="limits not changed: io_weight"):
        group.change(wanted)
    if layout == "v1":
        fill(tmp_path / "blkio/swarmpy-x/a", {"blkio.bfq.weight": "100"})
        group.layout.controllers["blkio"] = tmp_path / "blkio"
        names, expected = ["blkio.bfq.weight"], [["300"], ["1000"], ["100"]]
    else:
        names = ["io.bfq.weight", "io.weight"]
        for name in names:
            (tmp_path / "swarmpy-x/a" / name).write_text("default 100")
        expected = [["300", "2930"], ["1000", "10000"], ["100", "100"]]
    group.limit_io(types_pb2.ResourceRequirements(io_weight=300))
    assert read(group, *names) == expected[0]
    for weight, written in zip((1000, 0), expected[1:], strict=True):
        group.change(types_pb2.ResourceRequirements(io_weight=weight))
        assert read(group, *names) == written


def test_sets_of_cpus_change_in_place_and_go_back_to_the_parents(tmp_path: Path) -> None:
    group = v1(tmp_path / "old")
    with pytest.raises(RuntimeFailure, match=r"control groups have no cpuset\.cpus"):
        group.change(limits(100, cpuset_cpus="1"))
    assert read(group, "cpu.cfs_quota_us", "pids.max") == ["-1", "max"]  # taken back
    tree = group.layout.controllers["cpuset"] = tmp_path / "old/cpuset"
    fill(tree / "swarmpy-x", {"cpuset.cpus": "0-3\n", "cpuset.mems": "0\n"})
    fill(tree / "swarmpy-x/a", {"cpuset.cpus": "0-3\n", "cpuset.mems": "0\n"})
    (tmp_path / "old/memory/swarmpy-x/memory.swappiness").write_text("60\n")
    (tmp_path / "old/memory/swarmpy-x/a/memory.swappiness").write_text("60\n")
    wanted = limits(100, cpuset_cpus="1", swappiness=5, no_oom_kill=True)
    group.change(wanted)
    names = ("cpuset.cpus", "cpuset.mems", "memory.swappiness", "memory.oom_control")
    assert [text.strip() for text in read(group, *names)] == ["1", "0", "5", "1"]
    group.change(limits(100))
    assert [text.strip() for text in read(group, *names)] == ["0-3", "0", "60", "0"]
    group = v2(tmp_path / "new")
    for name in ("cpuset.cpus", "cpuset.mems"):
        (tmp_path / "new/swarmpy-x/a" / name).write_text("\n")
    for given, seen in (("1", "1"), ("", "")):
        group.change(limits(100, cpuset_cpus=given))
        assert [text.strip() for text in read(group, "cpuset.cpus", "cpuset.mems")] == [seen, ""]


def test_a_refused_file_takes_the_others_back(tmp_path: Path) -> None:
    group = v2(tmp_path)
    (tmp_path / "swarmpy-x/a/memory.max").unlink()
    (tmp_path / "swarmpy-x/a/memory.max").mkdir()  # cannot be written
    with pytest.raises(RuntimeFailure, match=r"memory\.max"):
        group.change(limits(64))
    assert read(group, "cpu.max", "pids.max") == ["max 100000", "max"]


def test_where_groups_are(tmp_path: Path) -> None:
    layout = cgroups.Layout(tmp_path, {}, "/system.slice/swarmpy.service")
    assert cgroups.path_for(layout, "x", "", "a") == "/system.slice/swarmpy.service/swarmpy-x/a"
    assert cgroups.path_for(cgroups.Layout(tmp_path, {}), "x", "", "a") == "/swarmpy-x/a"
    with pytest.raises(StartRejected, match="/apps does not exist on this node; mkdir"):
        cgroups.path_for(layout, "x", "/apps", "a")
    (tmp_path / "apps").mkdir()
    assert cgroups.path_for(layout, "x", "/apps", "a") == "/apps/swarmpy-x-a"


def test_only_a_delegated_subtree_with_us_in_its_leaf_is_ours(tmp_path: Path) -> None:
    unit = tmp_path / "system.slice/swarmpy.service"
    (unit / "daemon").mkdir(parents=True)
    own = "0::/system.slice/swarmpy.service/daemon\n"
    assert cgroups.delegated(tmp_path, own) == ""
    try:
        os.setxattr(unit, "user.delegate", b"1")
    except OSError as error:
        pytest.skip(f"needs extended attributes in {tmp_path}: {error.strerror}")
    assert cgroups.delegated(tmp_path, own) == "/system.slice/swarmpy.service"
    assert cgroups.delegated(tmp_path, "0::/system.slice/swarmpy.service\n") == ""
    assert cgroups.delegated(tmp_path, "0::/\n") == ""


def disk(tmp_path: Path, name: str, minor: int) -> types_pb2.DeviceLimits:
    """A disk by its number; nothing is ever asked of it."""
    path = tmp_path / name
    if not path.exists():
        os.mknod(path, 0o600 | stat.S_IFBLK, os.makedev(8, minor))
    return types_pb2.DeviceLimits(device=str(path))


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes device nodes")
@pytest.mark.parametrize("layout", ["v1", "v2"])
def test_limits_of_single_disks_are_lines_of_their_own(
    layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = v2(tmp_path) if layout == "v2" else v1(tmp_path)
    with pytest.raises(StartRejected, match=r"io_devices: this node's control groups have no "):
        group.limit_io(types_pb2.ResourceRequirements(io_devices=[disk(tmp_path, "sda", 0)]))
    names = spec_limits.throttle_files(layout == "v2")
    if layout == "v2":
        place = tmp_path / "swarmpy-x/a"
        (place / "io.max").write_text("8:16 rbps=7 wbps=max riops=max wiops=9\n")
    else:
        place = tmp_path / "blkio/swarmpy-x/a"
        fill(place, dict.fromkeys(names, ""))
        group.layout.controllers["blkio"] = tmp_path / "blkio"
        for name, rate in ((names[0], 7), (names[3], 9)):
            (place / name).write_text(f"8:16 {rate}\n")
    lines: list[tuple[str, str]] = []
    write = Path.write_text

    def noted(path: Path, text: str) -> int:
        lines.append((path.name, text))
        if text.startswith("8:48"):
            raise OSError(errno.ENODEV, "No such device")
        return write(path, text)

    monkeypatch.setattr(Path, "write_text", noted)
    first, part = disk(tmp_path, "sda", 0), disk(tmp_path, "sdd1", 48)
    first.read_bps, first.write_iops = 1 << 20, 50
    part.read_bps = 1
    group.limit_io(types_pb2.ResourceRequirements(io_devices=[first]))
    if layout == "v2":
        assert lines == [
            ("io.max", "8:0 rbps=1048576 wbps=max riops=max wiops=50"),
            ("io.max", "8:16 rbps=max wbps=max riops=max wiops=max"),
        ]
    else:
        assert lines == [
            (names[0], "8:0 1048576"), (names[0], "8:16 0"), (names[3], "8:0 50"), (names[3], "8:16 0"),
        ]  # fmt: skip
    for name in names:
        write(place / name, "")
    lines.clear()
    with pytest.raises(RuntimeFailure, match=r"limits not changed: .*8:48 .*name the whole disk"):
        group.change(types_pb2.ResourceRequirements(io_devices=[first, part]))
    back = [text for name, text in lines if name == names[0]][-1]
    assert back == ("8:0 rbps=max wbps=max riops=max wiops=max" if layout == "v2" else "8:0 0"), "taken back"
    nothing = types_pb2.ResourceRequirements(io_devices=[types_pb2.DeviceLimits(device="/dev/null")])
    with pytest.raises(StartRejected, match="/dev/null is no block device on this node"):
        group.limit_io(nothing)
