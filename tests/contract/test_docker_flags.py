"""All 75 flags of `docker service create` and all 94 of `docker service update`: each one changes what is
asked of the cluster, or is refused by its name. None is ignored.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.contract.cli_double import Double, Server
from tests.contract.test_cli_commands import Run, double, run, server, short_dir

__all__ = ["double", "run", "server", "short_dir"]

# Flags that are a list in create and a pair --NAME-add, --NAME-rm in update: a value for each.
LISTS = {
    "config": ("source=settings,target=/etc/settings", "settings"),
    "constraint": ("node.labels.zone==east", "node.labels.zone==east"),
    "container-label": ("a=b", "a"),
    "dns": ("10.1.1.1", "10.1.1.1"),
    "dns-option": ("ndots:2", "ndots:2"),
    "dns-search": ("example.org", "example.org"),
    "env": ("A=b", "A"),
    "generic-resource": ("gpu=1", "gpu"),
    "group": ("audio", "audio"),
    "host": ("db:10.0.0.9", "db:10.0.0.9"),
    "label": ("tier=web", "tier"),
    "mount": ("type=tmpfs,target=/scratch", "/scratch"),
    "network": ("backend", "backend"),
    "placement-pref": ("spread=node.labels.zone", "spread=node.labels.zone"),
    "publish": ("8080:80", "80"),
    "secret": ("source=token,target=token", "token"),
    "sysctl": ("net.core.somaxconn=512", "net.core.somaxconn"),
    "ulimit": ("nofile=1024:2048", "nofile"),
}
POLICY = {
    "delay": "3s", "failure-action": "pause", "max-failure-ratio": "0.5", "monitor": "7s", "order": "stop-first",
    "parallelism": "2",
}  # fmt: skip
# None: a switch.
PLAIN: dict[str, str | None] = {
    "cap-add": "NET_ADMIN", "cap-drop": "CHOWN", "credential-spec": "file://x", "detach": None,
    "endpoint-mode": "dnsrr", "entrypoint": "/bin/other", "health-cmd": "true", "health-interval": "5s",
    "health-retries": "2", "health-start-interval": "1s", "health-start-period": "9s", "health-timeout": "2s",
    "hostname": "other", "init": None, "isolation": "default", "limit-cpu": "0.5", "limit-memory": "64m",
    "limit-pids": "50", "log-driver": "json-file", "log-opt": "max-size=1m", "max-concurrent": "2",
    "memory-swap": "128m", "memory-swappiness": "10", "no-healthcheck": None, "no-resolve-image": None,
    "oom-score-adj": "10", "quiet": None, "read-only": None, "replicas": "3", "replicas-max-per-node": "2",
    "reserve-cpu": "0.25", "reserve-memory": "32m", "restart-condition": "on-failure", "restart-delay": "1s",
    "restart-max-attempts": "4", "restart-window": "1m", "stop-grace-period": "3s", "stop-signal": "SIGINT",
    "tty": None, "user": "nobody", "with-registry-auth": None, "workdir": "/srv",
    **{f"{side}-{name}": value for side in ("update", "rollback") for name, value in POLICY.items()},
    "rollback-failure-action": "continue",
}  # fmt: skip
ONLY_CREATE: dict[str, str | None] = {"name": "other", "mode": "global", "env-file": "FILE"}
ONLY_UPDATE: dict[str, str | None] = {"args": "sleep 9", "force": None, "image": "ok:2", "rollback": None}
CREATE = {**PLAIN, **ONLY_CREATE, **{name: add for name, (add, _) in LISTS.items()}}
UPDATE = {
    **PLAIN, **ONLY_UPDATE,
    **{f"{name}-add": add for name, (add, _) in LISTS.items()},
    **{f"{name}-rm": rm for name, (_, rm) in LISTS.items()},
}  # fmt: skip
# with-registry-auth asks for what is done anyway: nodes get what `registry login` keeps.
CONTROLS_THE_COMMAND = {"detach", "quiet", "with-registry-auth"}
NEEDS = {"max-concurrent": ["--mode", "replicated-job"]}


def test_the_tables_are_complete() -> None:
    assert (len(CREATE), len(UPDATE)) == (75, 94)


def is_refused(result: Any, name: str) -> bool:
    """Exit code 2 and a sentence with the flag's name (or the name of the list it belongs to)."""
    stem = name.removesuffix("-add").removesuffix("-rm")
    return bool(
        result.exit_code == 2 and f"--{stem}" in result.output and "No such option" not in result.output
    )


@pytest.mark.parametrize("name", sorted(CREATE))
def test_create(run: Run, double: Double, tmp_path: Any, name: str) -> None:
    value = CREATE[name]
    if value == "FILE":
        file = tmp_path / "env"
        file.write_text("A=b\n")
        value = str(file)
    arguments = [f"--{name}", *([value] if value is not None else [])]
    named = [] if name == "name" else ["--name", "web"]
    detached = [] if name == "detach" else ["-d"]
    assert run("service", "create", *detached, "--name", "plain", "ok:1").exit_code == 0
    result = run("service", "create", *named, *detached, *NEEDS.get(name, []), *arguments, "ok:1")
    if is_refused(result, name) or (name in NEEDS and is_refused(result, "mode")):
        return
    assert result.exit_code == 0, f"--{name}: {result.output}"
    plain, made = (
        double.find("service", "plain"),
        double.find("service", "other" if name == "name" else "web"),
    )
    if name not in CONTROLS_THE_COMMAND | {"name"}:
        differs = plain.spec != made.spec or plain.meta.labels != made.meta.labels
        assert differs or name in as_by_default(plain), f"--{name} was accepted and changed nothing"


def as_by_default(plain: Any) -> set[str]:
    """Values above that a service has without them, too."""
    return {"restart-condition"} if plain.spec.task.restart.condition == 1 else set()


@pytest.mark.parametrize("name", sorted(UPDATE))
def test_update(run: Run, server: Server, double: Double, name: str) -> None:
    value = UPDATE[name]
    first = ["--name", "web", "-d"]
    stem = name.removesuffix("-rm")
    if name.endswith("-rm"):
        first += [f"--{stem}", LISTS[stem][0]]
    made = run("service", "create", *first, "ok:1")
    if is_refused(made, stem):
        result = run("service", "update", "-d", f"--{name}", value or "", "web")
        assert is_refused(result, name), f"--{name}: {result.output}"
        return
    assert made.exit_code == 0, made.output
    if name == "rollback":
        assert run("service", "update", "-d", "--env-add", "A=b", "web").exit_code == 0
    before = type(service := double.find("service", "web"))()
    before.CopyFrom(service)
    arguments = [f"--{name}", *([value] if value is not None else [])]
    result = run("service", "update", *([] if name == "detach" else ["-d"]), *arguments, "web")
    if is_refused(result, name) or (name == "max-concurrent" and result.exit_code == 2):
        return
    assert result.exit_code == 0, f"--{name}: {result.output}"
    after = double.find("service", "web")
    if name not in CONTROLS_THE_COMMAND:
        assert (before.spec, dict(before.meta.labels)) != (after.spec, dict(after.meta.labels)), (
            f"--{name} was accepted and changed nothing"
        )
