"""Docker's commands and flags, and those of the plan: here, or refused by name; never taken for a typing error."""

from __future__ import annotations

import click
import pytest
from click.testing import CliRunner, Result
from swarmpy.cli import absent
from swarmpy.cli.main import root

from tests.contract.cli_double import Double
from tests.contract.test_cli_commands import Run, double, run, server, short_dir

__all__ = ["double", "run", "server", "short_dir"]

# docker/cli: every flag of what has to do with a swarm; `service create|update` are in test_docker_flags.
DOCKER = """
swarm init: advertise-addr autolock availability cert-expiry data-path-addr data-path-port default-addr-pool
  default-addr-pool-mask-length dispatcher-heartbeat external-ca force-new-cluster listen-addr max-snapshots
  snapshot-interval task-history-limit
swarm join: advertise-addr availability data-path-addr listen-addr token
swarm join-token: quiet rotate
swarm leave: force
swarm unlock-key: quiet rotate
swarm unlock:
swarm update: autolock cert-expiry dispatcher-heartbeat external-ca max-snapshots snapshot-interval task-history-limit
swarm ca: ca-cert ca-key cert-expiry detach external-ca quiet rotate
node demote:
node promote:
node inspect: format pretty
node ls: filter format quiet
node ps: filter format no-resolve no-trunc quiet
node rm: force
node update: availability label-add label-rm role
service inspect: format pretty
service logs: details follow no-resolve no-task-ids no-trunc raw since tail timestamps
service ls: filter format quiet
service ps: filter format no-resolve no-trunc quiet
service rm:
service rollback: detach quiet
service scale: detach
stack config: compose-file skip-interpolation
stack deploy: compose-file detach prune quiet resolve-image with-registry-auth
stack ls: format
stack ps: filter format no-resolve no-trunc quiet
stack rm: detach
stack services: filter format quiet
secret create: driver label template-driver
secret inspect: format pretty
secret ls: filter format quiet
secret rm:
config create: label template-driver
config inspect: format pretty
config ls: filter format quiet
config rm:
network connect: alias driver-opt gw-priority ip ip6 link link-local-ip
network create: attachable aux-address config-from config-only driver gateway ingress internal ip-range ipam-driver
  ipam-opt ipv4 ipv6 label opt scope subnet
network disconnect: force
network inspect: format verbose
network ls: filter format no-trunc quiet
network prune: filter force
network rm: force
volume create: availability driver group label limit-bytes opt required-bytes scope secret sharing
  topology-preferred topology-required type
volume inspect: format
volume ls: cluster filter format quiet
volume prune: all filter force
volume rm: force
volume update: availability
image build: tag file build-arg target platform push load secret ssh
image history: format human no-trunc platform quiet
image inspect: format platform
image load: input platform quiet
image ls: all digests filter format no-trunc quiet tree
image prune: all filter force
image pull: all-tags disable-content-trust platform quiet
image push: all-tags disable-content-trust platform quiet
image rm: force no-prune platform
image save: output platform
image tag:
attach: detach-keys no-stdin sig-proxy
cp: archive follow-link quiet
events: filter format since until
exec: detach detach-keys env env-file interactive privileged tty user workdir
info: format
logs: details follow since tail timestamps until
stats: all format no-stream no-trunc
system df: format verbose
system info: format
system prune: all filter force volumes
version: format
"""
# Verbs of the plan (one noun after the other) that Docker has not.
PLANNED = """
node: drain pause activate taint top doctor
service: restart stop start history diff explain wait top canary promote abort autoscale exec recommend
task: ls inspect logs kill restart explain exec
stack: diff plan export history rollback up
secret: update versions rotate where-used
config: update versions rotate where-used get
network: trace policy verify
volume: mv backup restore snapshot replicate
image: where
job: run ls logs retry rm
cron: create suspend trigger ls
system: gc
swarm: unlock
"""
TOP = """
init join leave token status version agent events explain rebalance plan simulate doctor bench demo ui tui history
upgrade apply delete diff convert get run debug attach cp port-forward stats top logs exec route ingress cert ns user
role quota audit login ca backup restore snapshot recover
"""


def entries() -> list[tuple[str, list[str]]]:
    text = DOCKER.replace("\n  ", " ")
    found = [line.partition(":") for line in text.strip().splitlines()]
    return [(head, flags.split()) for head, _, flags in found]


def known(path: str) -> click.Command | None:
    """The command of that name, if it is there."""
    command: click.Command | None = root
    for word in path.split():
        if not isinstance(command, click.Group):
            return None
        command = command.get_command(click.Context(command), word)
    return command


def refusal(*arguments: str) -> Result:
    """What a command says that never asks a manager."""
    return CliRunner().invoke(root, arguments)


@pytest.mark.parametrize(("path", "flags"), entries(), ids=[path for path, _ in entries()])
def test_docker_flags(path: str, flags: list[str]) -> None:
    command = known(path)
    if command is None:
        assert absent.command(path), f"{path} is neither there nor refused by name"
        return
    options = {name for parameter in command.params for name in parameter.opts}
    for flag in flags:
        if f"--{flag}" in options:
            continue
        result = refusal(*path.split(), f"--{flag}")
        assert result.exit_code == 2
        assert f"Error: --{flag} is not built yet: " in result.output, result.output


def test_what_the_plan_names() -> None:
    paths = TOP.split()
    for line in PLANNED.strip().splitlines():
        noun, _, verbs = line.partition(":")
        paths += [f"{noun} {verb}" for verb in verbs.split()]
    assert not [path for path in paths if known(path) is None and not absent.command(path)]


def test_no_refusal_stands_before_something_that_is_there() -> None:
    assert not [path for path in absent.COMMANDS if known(path) is not None]
    for path, flags in absent.FLAGS.items():
        command = known(path)
        assert command is not None, path
        options = {name for parameter in command.params for name in parameter.opts}
        assert not options & flags.keys(), path


def test_a_refusal_is_one_sentence_and_a_typing_error_is_none() -> None:
    result = refusal("stack", "diff", "shop")
    assert result.output == "Error: `swarmpy stack diff` is not built: use `swarmpy stack deploy --plan`.\n"
    assert refusal("stack", "dif", "shop").output.endswith("No such command 'dif'.\n")
    assert "No such option" in refusal("token", "worker", "--rotat").output
    assert (
        "--advertise-addr is not built yet" in refusal("node", "update", "--advertise-addr", "a", "n1").output
    )


def test_small_verbs(run: Run, double: Double) -> None:
    for noun in ("secret", "config"):
        assert run(noun, "create", "a", "-", input="one\n").exit_code == 0
    flags = ["--config", "source=a,target=/a", "--sidecar", "name=proxy,image=ok:1,secret=a"]
    made = run("service", "create", "-d", "--name", "web", *flags, "ok:1")
    assert made.exit_code == 0, made.output
    assert run("config", "get", "a").stdout == "one\n"
    assert run("network", "rm", "nothing").exit_code == 4
    assert run("network", "rm", "--force", "nothing").exit_code == 0
    assert "--ipv4=false" in run("network", "create", "--ipv4=false", "n").output
    assert run("network", "create", "--ipv4", "n").exit_code == 0
    assert run("service", "create", "-d", "--name", "bare", "--init=false", "ok:1").exit_code == 0
    assert double.find("service", "bare").spec.task.container.no_init, (
        "a switch with an opposite is turned off"
    )
    assert run("service", "wait", "web").stdout == "web\n"


def test_where_a_secret_is_used(run: Run, double: Double) -> None:
    assert run("secret", "create", "a", "-", input="one").exit_code == 0
    flags = ["--secret", "a", "--sidecar", "name=proxy,image=ok:1,secret=source=a"]
    assert run("service", "create", "-d", "--name", "web", *flags, "ok:1").exit_code == 0
    service = double.find("service", "web")
    main, sidecar = service.spec.task.container.secrets[0], service.spec.task.sidecars[0].container.secrets[0]
    main.id = double.find("secret", "a").meta.id  # as the managers fill it in
    sidecar.id, sidecar.target = main.id, "/a"
    double.put(service)
    used = run("secret", "where-used", "a", "--format", "{{.Service}} {{.Container}} {{.Target}}")
    assert used.stdout == "web main a\nweb proxy /a\n"
