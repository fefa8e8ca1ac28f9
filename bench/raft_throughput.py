"""Committed writes per second and their latency: three managers of swarmpy and three members of etcd.

Through the API, with mutual TLS to the leader and between the members and an fsync on each, at several
numbers of writes in flight, 200 B and 4 KiB each, by the same client (bench/load.py): ours both by unary calls
and on one stream of writes, beside etcd's unary calls, the only kind it has. The clients take turns, load by
load. Below that the replica alone, without the API, and the store when 200 changes ride in one transaction
(bench/raft_member.py). All members run on this machine and share its cores and its disk.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from swarmpy.node import demo
from swarmpy.node.ca import authority, identity
from swarmpy.proto import types_pb2

from bench import etcd, harness

IN_FLIGHT = (1, 16, 64, 256)
SIZES = (200, 4096)
MEMBERS = tuple(f"m{number}".ljust(25, "0") for number in (1, 2, 3))
CLUSTER = "bench".ljust(25, "0")
ALONE_ROOT = Path("/var/lib/swarmpy-bench-raft")
PORT = 24790
ROOT = Path(__file__).resolve().parent.parent
Found = dict[str, float]
Key = tuple[int, int]


class Program:
    """A child that answers lines with lines of JSON."""

    def __init__(self, argv: Sequence[str], log: Path) -> None:
        self._log = log
        self._errors = log.open("w")
        self.process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True, cwd=ROOT
        )

    def line(self) -> str:
        assert self.process.stdout is not None
        text = self.process.stdout.readline()
        if not text:
            raise harness.BenchError(f"a program ended: {self._log.read_text()[-800:]}")
        return text.strip()

    def ask(self, question: str) -> Found:
        assert self.process.stdin is not None
        self.process.stdin.write(question + "\n")
        self.process.stdin.flush()
        found: Found = json.loads(self.line())
        return found

    def close(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()
        self._errors.close()


@contextlib.contextmanager
def program(argv: Sequence[str], log: Path) -> Iterator[Program]:
    made = Program(argv, log)
    try:
        yield made
    finally:
        made.close()


def certificates(directories: dict[str, Path]) -> None:
    """One authority and a manager's certificate in each directory, good for loopback by name."""
    now_ms = time.time_ns() // 1_000_000
    root = authority.new_root(CLUSTER, now_ms)
    for name, directory in directories.items():
        key, request = identity.new_key_and_csr()
        certificate = authority.issue(
            root, request, node_id=name, cluster_id=CLUSTER, role=types_pb2.ROLE_MANAGER, now_ms=now_ms,
            lifetime_ms=24 * 3600 * 1000,
        )  # fmt: skip
        identity.Identity.build(certificate, key, root.certificate_pem).save(directory)


def loads(
    clients: dict[str, Program], in_flights: Sequence[int], seconds: float, rounds: int = 1
) -> dict[str, dict[Key, list[Found]]]:
    """What each client found, round by round; they take turns, so that all meet the same machine."""
    found: dict[str, dict[Key, list[Found]]] = {kind: {} for kind in clients}
    for _, size, in_flight in itertools.product(range(rounds), SIZES, in_flights):
        harness.say(f"  {in_flight} in flight, {size} B")
        for kind, client in clients.items():
            answer = client.ask(f"{in_flight} {size} {seconds}")
            found[kind].setdefault((in_flight, size), []).append(answer)
    return found


def client_argv(kind: str, address: str, name: str, certs: Path) -> list[str]:
    return [sys.executable, "-m", "bench.load", kind, address, name, str(certs)]


def ours(stack: contextlib.ExitStack) -> dict[str, Program]:
    """Clients of a cluster of ours, by unary calls ("unary") and on a stream of writes ("stream")."""
    made = stack.enter_context(harness.cluster(3, 3, image=False))
    status = demo.cluster_status()
    leader = next(
        node for node in made.nodes if demo.node_config.load(node.paths).node_id == status["leader_id"]
    )
    config = demo.node_config.load(leader.paths)
    address = f"{config.advertise_addr}:{config.ports.manager}"
    clients = {}
    for kind in ("unary", "stream"):
        argv = client_argv(kind, address, f"{config.node_id}.node.swarmpy", leader.paths.certs)
        log = leader.state / f"load-{kind}.log"
        clients[kind] = stack.enter_context(program(demo.inside(leader, argv), log))
    return clients


def theirs(stack: contextlib.ExitStack) -> Program:
    """A client of a cluster of etcd."""
    harness.say("etcd: starting 3 members")
    box = stack.enter_context(harness.sandbox("etcd-throughput"))
    certs = {name: box.directory / name for name in MEMBERS}
    certificates(certs)
    for number, name in enumerate(MEMBERS):
        start_etcd(box, number, name, certs[name])
    leader = [0]

    def ready() -> bool:
        number = etcd_leader(box, certs[MEMBERS[0]])
        leader[0] = number if number is not None else 0
        return number is not None

    harness.wait_until(ready, 30, "etcd has a leader", 0.2)
    name = MEMBERS[leader[0]]
    argv = client_argv("etcd", f"127.0.0.1:{PORT + leader[0]}", f"{name}.node.swarmpy", certs[name])
    return stack.enter_context(program(box.inside_network(argv), box.directory / "load.log"))


def start_etcd(box: harness.Sandbox, number: int, name: str, certs: Path) -> None:
    """Each member listens by its certificate's name, which /etc/hosts of the sandbox knows."""
    box.run("sh", "-c", f"echo 127.0.0.1 {name}.node.swarmpy >> /etc/hosts")
    data = box.directory / f"{name}.etcd"
    data.mkdir(mode=0o700)
    peers = ",".join(f"{m}=https://{m}.node.swarmpy:{PORT + 100 + i}" for i, m in enumerate(MEMBERS))
    files = [str(certs / "node.crt"), str(certs / "node.key"), str(certs / "ca.crt")]
    box.start(
        ["etcd", "--name", name, "--data-dir", str(data),
         "--listen-client-urls", f"https://127.0.0.1:{PORT + number}",
         "--advertise-client-urls", f"https://{name}.node.swarmpy:{PORT + number}",
         "--listen-peer-urls", f"https://127.0.0.1:{PORT + 100 + number}",
         "--initial-advertise-peer-urls", f"https://{name}.node.swarmpy:{PORT + 100 + number}",
         "--initial-cluster", peers, "--initial-cluster-state", "new", "--logger", "zap", "--log-level", "warn",
         "--cert-file", files[0], "--key-file", files[1], "--trusted-ca-file", files[2], "--client-cert-auth",
         "--peer-cert-file", files[0], "--peer-key-file", files[1], "--peer-trusted-ca-file", files[2],
         "--peer-client-cert-auth"]
    )  # fmt: skip


def etcd_leader(box: harness.Sandbox, certs: Path) -> int | None:
    endpoints = ",".join(f"https://{m}.node.swarmpy:{PORT + i}" for i, m in enumerate(MEMBERS))
    argv = [
        "env", "ETCDCTL_API=3", "etcdctl", "--endpoints", endpoints, "--cert", str(certs / "node.crt"),
        "--key", str(certs / "node.key"), "--cacert", str(certs / "ca.crt"), "endpoint", "status", "-w", "json",
    ]  # fmt: skip
    try:
        rows = json.loads(box.run(*argv))
    except (harness.BenchError, ValueError):
        return None
    leaders = {row["Status"]["leader"] for row in rows}
    if len(rows) != len(MEMBERS) or len(leaders) != 1:
        return None
    return next(i for i, row in enumerate(rows) if row["Status"]["header"]["member_id"] in leaders)


def alone(in_flights: Sequence[int], seconds: float) -> tuple[dict[Key, Found], Found]:
    """The replica without the API: by load, and changes per second when 200 ride in one transaction."""
    harness.say("swarmpy: three replicas without the API")
    shutil.rmtree(ALONE_ROOT, ignore_errors=True)
    try:
        certificates({name: ALONE_ROOT / name / "certs" for name in MEMBERS})
        pairs = [f"{name}={PORT + 200 + number}" for number, name in enumerate(MEMBERS)]
        with contextlib.ExitStack() as stack:
            members = [
                stack.enter_context(
                    program(
                        [sys.executable, "-m", "bench.raft_member", str(ALONE_ROOT), name, *pairs],
                        ALONE_ROOT / f"{name}.log",
                    )
                )
                for name in MEMBERS
            ]
            if members[0].line() != "ready":
                raise harness.BenchError("the replicas did not come up")
            found = loads({"alone": members[0]}, in_flights, seconds)["alone"]
            return {key: rounds[0] for key, rounds in found.items()}, members[0].ask(f"store {seconds}")
    finally:
        shutil.rmtree(ALONE_ROOT, ignore_errors=True)


TARGETS = {(64, "rate"): "≥ 0.6 × etcd", (1, "p50_ms"): "≤ 1.5 × etcd"}


def report(in_flights: Sequence[int], seconds: float, rounds: int, *, peer: bool) -> harness.Report:
    missing = harness.missing_tool(*etcd.TOOLS) if peer else "not asked for"
    with contextlib.ExitStack() as stack:
        clients = ours(stack)
        kinds = list(clients)
        if not missing:
            clients["etcd"] = theirs(stack)
        by_client = loads(clients, in_flights, seconds, rounds)
    by_replica, store = alone(in_flights, seconds)
    made = harness.Report("Committed writes, three members, mutual TLS, fsync", "etcd")
    for size, in_flight, kind in itertools.product(SIZES, in_flights, kinds):
        ours_found = by_client[kind][in_flight, size]
        others_found = [] if missing else by_client["etcd"][in_flight, size]
        for field, unit in (("rate", "/s"), ("p50_ms", "ms"), ("p99_ms", "ms")):
            made.rows.append(
                harness.Row(
                    f"{in_flight} in flight, {size} B, {kind}, {field.removesuffix('_ms')}", unit,
                    [found[field] for found in ours_found], [found[field] for found in others_found],
                    TARGETS.get((in_flight, field), ""), peer_missing=missing,
                )
            )  # fmt: skip
    for (in_flight, size), found in by_replica.items():
        target = "≥ 20,000 /s" if (in_flight, size) == (64, 200) else ""
        note = f"p50 {found['p50_ms']:.2f} ms, p99 {found['p99_ms']:.2f} ms"
        what = f"replica without the API, {in_flight} in flight, {size} B"
        made.rows.append(harness.Row(what, "/s", [found["rate"]], [], target, note))
    made.rows.append(
        harness.Row(
            "changes, 200 in one transaction, without the API", "/s", [store["rate"]], [], "≥ 20,000 /s"
        )
    )
    return made


def main() -> None:
    parser = harness.parser(__doc__, 3)
    parser.add_argument("--seconds", type=float, default=1.5, help="of each load (default 1.5)")
    parser.add_argument(
        "--in-flight", default=",".join(map(str, IN_FLIGHT)), metavar="N,…",
        help="so many writes at once (default %(default)s; the targets are those of 1 and 64)",
    )  # fmt: skip
    options = parser.parse_args()
    in_flights = [int(number) for number in options.in_flight.split(",")]
    harness.run(
        lambda: report(in_flights, options.seconds, options.rounds, peer=not options.no_peer), options.format
    )


if __name__ == "__main__":
    main()
