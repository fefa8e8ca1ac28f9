"""Commands and flags that people know, from Docker or from what is planned, and that are not here.

Each is refused by name, with what to use instead where there is something; none is ignored, and none looks like
a typing error. A test goes through Docker's flags. Imports nothing: every command line loads it only when refused.
"""

from __future__ import annotations

MANIFESTS = "`swarmpy stack deploy -c compose.yml` reads compose files; other manifests are not read yet"
LAYER_7 = "HTTP routes and certificates are not built: run a proxy as a service with `--publish`"
TENANTS = "there is one kind of user, root on a manager; no users, roles, namespaces, quotas or audit log"
STATS = "use `swarmpy stats` or `swarmpy top`"
EXPLAIN = "use `swarmpy explain TASK|SERVICE`"
PAYLOADS = "the content of a {} cannot change: create another one, then `service update --{}-rm … --{}-add …`"
SNAPSHOTS = "managers take snapshots by the size of their log"
OUTSIDE = "certificates come from the cluster's own authority only"

COMMANDS = {
    "node top": STATS,
    "node doctor": "use `swarmpy doctor`",
    "service explain": EXPLAIN,
    "service top": STATS,
    "service canary": "use `swarmpy service update --canary 10%`",
    "service recommend": "reservations are not recommended yet; `swarmpy stats` shows what tasks use",
    "task explain": EXPLAIN,
    "stack diff": "use `swarmpy stack deploy --plan`",
    "stack plan": "use `swarmpy stack deploy --plan`",
    **{f"secret {verb}": PAYLOADS.format(*["secret"] * 3) for verb in ("update", "versions", "rotate")},
    **{f"config {verb}": PAYLOADS.format(*["config"] * 3) for verb in ("update", "versions", "rotate")},
    "secret get": "nothing shows the content of a secret; the task that uses it has it as a file",
    "volume snapshot": "use `swarmpy volume backup`",
    "volume replicate": "a volume has one home: `swarmpy volume mv` and `volume backup` copy it by hand",
    "system info": "use `swarmpy status`",
    "info": "use `swarmpy status`",
    "system gc": "use `swarmpy system prune`",
    "plan": "use --plan with the command itself",
    "diff": "use --plan with the command itself, or `swarmpy service diff`",
    "history": "use `swarmpy service history` or `swarmpy task history`",
    "snapshot": "use `swarmpy backup create`",
    "run": "a single container is a job: `swarmpy job run IMAGE`",
    "build": "use `swarmpy image build`",
    "pull": "use `swarmpy image pull`",
    "push": "use `swarmpy image push`",
    "images": "use `swarmpy image ls`",
    "ps": "use `swarmpy task ls` or `swarmpy service ps`",
    "apply": MANIFESTS,
    "delete": MANIFESTS,
    "convert": MANIFESTS,
    "get": MANIFESTS,
    **dict.fromkeys(("route", "ingress", "cert"), LAYER_7),
    **dict.fromkeys(("ns", "user", "role", "quota", "audit"), TENANTS),
    "login": "for a registry use `swarmpy registry login`; managers have no logins, root's socket is the only way in",
    "logout": "use `swarmpy registry logout`",
    "debug": "use `swarmpy exec`, or a sidecar with the tools",
    "simulate": "the simulation is part of the tests, not of the command: see CONTRIBUTING.md",
    "bench": "benchmarks are run from a clone with `make bench`",
    **dict.fromkeys(("ui", "tui"), "there is no user interface but this one and the metrics"),
}  # fmt: skip

_NO_TRUST = {"--disable-content-trust": "signatures are not checked, digests always are"}
_PLATFORM = {"--platform": "each node holds the image for its own platform"}
FLAGS: dict[str, dict[str, str]] = {
    "init": {
        "--default-addr-pool-mask-length": "every node gets blocks as large as it needs",
        "--external-ca": OUTSIDE, "--max-snapshots": SNAPSHOTS, "--snapshot-interval": SNAPSHOTS,
        "--force-new-cluster": "use `swarmpy recover` on a manager whose majority is lost",
        "--qr": "the join command is shown as text",
    },
    "join": {"--ssh": "run the command that `swarmpy token worker` shows on the machine itself"},
    "swarm update": {
        "--external-ca": OUTSIDE, "--max-snapshots": SNAPSHOTS, "--snapshot-interval": SNAPSHOTS,
        "--managers": "managers are promoted by hand: `swarmpy node promote`",
    },
    "node update": {"--advertise-addr": "a node keeps the address that it joined with: join it again"},
    "node ls": {"--no-resolve": "there is nothing to resolve here"},
    "node drain": {
        "--force": "without --deadline and --parallelism everything stops at once",
        "--ignore-global": "tasks of global services stop with the others",
    },
    "service create": {
        "--namespace": TENANTS, "-n": TENANTS,
        "--autoscale": "use `swarmpy service autoscale` afterwards",
        "--overcommit": "it is a node's: `swarmpy node update --overcommit 1.5 NODE`",
        "--pool": "use --constraint node.labels.…",
        "--dns-order": "addresses are shuffled; --prefer-local prefers those on the same node",
        "--template-driver": "placeholders are filled in by themselves in --env, --hostname and --mount",
    },
    "service update": {
        "--pause": "use `swarmpy service pause`",
    },
    "service autoscale": {
        "--p95": "latency is not measured; use --rps, --connections or --prometheus",
        "--idle": "services are not scaled to zero",
    },
    "stack deploy": {
        "--var": "set it in the environment, or in a file for --env-file",
        "--vars-from": "use --env-file",
        "--lenient": "an unknown key is always refused",
    },
    "network connect": {"--gw-priority": "the first network with a way out has it"},
    "network inspect": {"--verbose": "everything is shown without it"},
    "image ls": {"--tree": "images of several platforms are not shown as trees", "--digests": "use --no-trunc"},
    "image rm": {"--no-prune": "blobs that nothing needs any more go", **_PLATFORM},
    "image pull": _NO_TRUST,
    "image push": {"--all-tags": "name one after the other", **_NO_TRUST, **_PLATFORM},
    "image history": _PLATFORM,
    "events": {"--until": "end it with Ctrl-C; `swarmpy --at` shows the cluster as it was"},
    "": {
        "--namespace": TENANTS, "-n": TENANTS, "--as": TENANTS,
        "--format": "it belongs behind the command: `swarmpy service ls --format json`",
        "-o": "it belongs behind the command: `swarmpy service ls --format json`",
    },
}  # fmt: skip


def command(path: str) -> str | None:
    """Why a command ("swarm ca") is not there; None = it is not known either."""
    return COMMANDS.get(path)


def flag(path: str, name: str) -> str | None:
    """Likewise for a flag of a command ("swarm init")."""
    shorter = path.removeprefix("swarm ")
    return FLAGS.get(path, FLAGS.get(shorter, {})).get(name)
