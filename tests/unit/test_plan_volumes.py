"""What an operator sees of volumes: where tasks wait and why, moves that end well and badly, removals."""

from __future__ import annotations

import pytest
from swarmpy.node.manager import queries, volume_writes
from swarmpy.node.manager.errors import Invalid, ManagerError, Refused, Taken
from swarmpy.node.plan.volume_checks import mount, validate_volume
from swarmpy.node.volume.options import without_secrets
from swarmpy.proto import objects_pb2, types_pb2
from swarmpy.raft.store import Store

from tests.sim.plan_world import RUNNING
from tests.sim.volume_world import VolumeWorld

DOWN_MS = 6_000


def calm(nodes: int = 3) -> VolumeWorld:
    world = VolumeWorld(7, nodes=nodes)
    world.failure_rate = 0.0
    return world


def start(world: VolumeWorld, source: str = "data", replicas: int = 1, *, everywhere: bool = False) -> None:
    service = objects_pb2.Service(spec_version=1)
    service.meta.id = service.meta.name = "db"
    container = service.spec.task.container
    container.image = "good:1"
    container.mounts.add(type=types_pb2.MOUNT_VOLUME, source=source, target="/data")
    if everywhere:
        getattr(service.spec, "global").SetInParent()
    else:
        service.spec.replicated.replicas = replicas
    world.put(service)
    world.run(20_000)


def running(world: VolumeWorld) -> dict[str, str]:
    """Task slots (or nodes) to nodes, of what runs on nodes that live."""
    return {
        str(task.slot or task.node_id): task.node_id
        for task in world.store.tasks_of_service("db")
        if task.status.state == RUNNING and task.desired_state == RUNNING and world.agents[task.node_id].alive
    }


def waiting(world: VolumeWorld) -> list[str]:
    tasks = world.store.tasks_of_service("db")
    return [t.status.message for t in tasks if t.status.state == types_pb2.TASK_PENDING]


def test_all_tasks_of_a_volume_are_where_it_is() -> None:
    world = calm()
    start(world, replicas=3)
    home = world.named("data").node_id
    assert set(running(world).values()) == {home}
    assert list(world.named("data").holders) == [home]


def test_while_its_node_is_down_a_task_waits_and_says_why() -> None:
    world = calm()
    start(world)
    home = world.named("data").node_id
    world.kill(home)
    world.run(DOWN_MS)
    assert running(world) == {}
    assert waiting(world) == [f"no suitable node: 2 of 3 are not {home}, the home of volume data; 1 is down"]
    world.revive(home)
    world.run(DOWN_MS)
    assert running(world) == {"1": home}


def test_nobody_is_pushed_out_where_the_volume_is_not() -> None:
    world = calm(2)  # 1.6 CPUs each

    def reserving(service: objects_pb2.Service) -> objects_pb2.Service:
        service.spec.task.resources.reservations.nano_cpus = 800_000_000
        return service

    batch = reserving(objects_pb2.Service(spec_version=1))
    batch.meta.id = batch.meta.name = "batch"
    batch.spec.task.container.image = "good:1"
    batch.spec.replicated.replicas, batch.spec.priority = 3, 10
    start(world)
    world.set_service("db", lambda spec: spec.task.resources.CopyFrom(batch.spec.task.resources))
    world.run(30_000)
    world.put(batch)
    world.run(20_000)

    def urgent(spec: objects_pb2.ServiceSpec) -> None:
        spec.priority, spec.preempt = 90, True
        spec.replicated.replicas = 3

    world.set_service("db", urgent)
    world.run(60_000)
    home = world.named("data").node_id
    assert running(world) == {"1": home, "2": home}
    assert len(waiting(world)) == 1, "its volume's node has room for two"
    stopped = [task.node_id for task in world.store.tasks_of_service("batch") if task.stop_reason]
    assert stopped == [home]


def test_every_slot_its_own_volume() -> None:
    world = calm()
    start(world, "data-{{.Task.Slot}}", 3)
    homes = {str(slot): world.named(f"data-{slot}").node_id for slot in (1, 2, 3)}
    assert running(world) == homes
    assert len(set(homes.values())) == 3, "spread as tasks without volumes are"


def test_a_global_service_has_one_on_every_node() -> None:
    world = calm()
    start(world, everywhere=True)
    volume = world.named("data")
    assert volume.spec.per_node
    assert not volume.node_id
    assert sorted(volume.holders) == sorted(running(world).values()) == ["node0", "node1", "node2"]


def test_a_removed_home_is_told() -> None:
    world = calm()
    start(world)
    home = world.named("data").node_id
    world.kill(home)
    world.run(DOWN_MS)
    world.set_node(home, lambda node: setattr(node, "removed", True))
    world.run(DOWN_MS)
    assert all("lost volume data: its node was removed" in text for text in waiting(world))
    assert list(world.named("data").holders) == []


def other(world: VolumeWorld, home: str) -> str:
    return next(name for name in sorted(world.agents) if name != home)


def test_a_move_takes_the_task_along() -> None:
    world = calm()
    start(world)
    home = world.named("data").node_id
    to = other(world, home)
    world.move(world.named("data").meta.id, to)
    world.run(30_000)
    volume = world.named("data")
    assert (volume.node_id, list(volume.holders)) == (to, [to])
    assert volume.move.state == objects_pb2.VOLUME_MOVE_DONE
    assert running(world) == {"1": to}
    assert world.truth[volume.meta.id] > 0


@pytest.mark.parametrize("broken", ["copy", "target", "source", "asked back"])
def test_a_move_that_fails_leaves_everything_as_it_was(broken: str) -> None:
    world = calm()
    start(world)
    home = world.named("data").node_id
    to = other(world, home)
    volume_id = world.named("data").meta.id
    world.copy_failures = 1.0 if broken == "copy" else 0.0
    world.busy.add((to, volume_id))  # its agent takes its time
    world.move(volume_id, to)
    world.run(100)
    assert world.named("data").move.state == objects_pb2.VOLUME_MOVE_COPYING
    if broken in {"target", "source"}:
        world.kill(to if broken == "target" else home)
        world.run(DOWN_MS)
        assert world.named("data").move.state == objects_pb2.VOLUME_MOVE_COPYING, "it may be back soon"
        world.run(60_000)
        assert "went down" in world.named("data").move.message
        world.revive(to)
        world.revive(home)
    elif broken == "asked back":
        world.move(volume_id, home)
    world.busy.discard((to, volume_id))
    world._wake_volume(to, volume_id)
    world.run(30_000)
    volume = world.named("data")
    assert volume.move.state == objects_pb2.VOLUME_MOVE_FAILED
    assert (volume.node_id, list(volume.holders)) == (home, [home])
    assert running(world) == {"1": home}


def test_removal_waits_for_the_node_that_has_it() -> None:
    world = calm()
    start(world)
    volume = world.named("data")
    world.set_service("db", lambda spec: setattr(spec.replicated, "replicas", 0))
    world.run(20_000)
    world.kill(volume.node_id)
    world.run(DOWN_MS)
    world.put(volume_writes_removed(world.store, "data"))
    world.run(20_000)
    assert world.named("data").pending_delete
    world.revive(volume.node_id)
    world.run(20_000)
    assert list(world.store.volumes()) == []
    assert not world.disks


def volume_writes_removed(store: Store, name: str) -> objects_pb2.Volume:
    marked = objects_pb2.Volume()
    marked.CopyFrom(next(v for v in store.volumes() if v.meta.name == name))
    marked.pending_delete = True
    return marked


# --- what users may write -------------------------------------------------------------------------


def wanted(name: str, **spec: object) -> objects_pb2.Volume:
    volume = objects_pb2.Volume(spec=objects_pb2.VolumeSpec(**spec))  # type: ignore[arg-type]
    volume.meta.name = name
    return volume


def test_creating_the_same_again_is_no_change() -> None:
    world = calm()
    made = volume_writes.created(world.store, wanted("data", node_id="node1"), lambda: "v1")
    assert (made.node_id, list(made.holders)) == ("node1", ["node1"])
    world.put(made)
    again = volume_writes.created(world.store, wanted("data", driver="local"), lambda: "v2")
    assert again.meta.id == "v1"
    with pytest.raises(Taken, match="other options"):
        volume_writes.created(world.store, wanted("data", options={"size": "1g"}), lambda: "v3")


def test_a_file_servers_password_is_kept_but_never_shown() -> None:
    world = calm()
    options = {"type": "cifs", "device": "//files/share", "o": "username=a,password=hunter2,vers=3.0"}
    made = volume_writes.created(world.store, wanted("share", options=options), lambda: "v1")
    world.put(made)
    shown = queries.public(made)
    assert isinstance(shown, objects_pb2.Volume)
    assert b"hunter2" not in shown.SerializeToString()
    assert shown.spec.options["o"] == "username=a,password=***,vers=3.0"
    assert shown.spec.options["o"] == without_secrets(options["o"]), "as a node's messages have it"
    shown.meta.labels["team"] = "a"
    assert volume_writes.changed(world.store, shown).spec.options["o"] == options["o"]
    shown.spec.options["o"] = "username=b,password=***"
    with pytest.raises(Invalid, match="cannot be changed"):
        volume_writes.changed(world.store, shown)


def test_in_use_is_protected() -> None:
    world = calm()
    start(world)
    volume = world.named("data")
    with pytest.raises(Refused, match="used by service db"):
        volume_writes.removable(world.store, volume)
    world.set_service("db", lambda spec: setattr(spec.task.container.mounts[0], "source", "other"))
    with pytest.raises(Refused, match=r"used by task db\.1"):
        volume_writes.removable(world.store, volume)


@pytest.mark.parametrize(
    ("spec", "to", "words"),
    [
        ({"options": {"type": "nfs", "device": "s:/x"}}, "node1", "not on a node's disk"),
        ({"per_node": True}, "node1", "every node has its own"),
        ({"options": {"type": "ext4", "device": "/dev/sdb"}}, "node1", "that others lack"),
        ({}, "node0", "on node node0 already"),
        ({}, "node2", "is down"),
        ({}, "nobody", "no node 'nobody'"),
    ],
)
def test_moves_that_cannot_be(spec: dict[str, object], to: str, words: str) -> None:
    world = calm()
    made = volume_writes.created(world.store, wanted("data", **spec), lambda: "v1")
    if not spec:
        made.node_id = "node0"
    world.put(made)
    world.kill("node2")
    world.run(DOWN_MS)
    wish = objects_pb2.Volume()
    wish.CopyFrom(world.named("data"))
    wish.spec.node_id, wish.spec.moves = to, wish.spec.moves + 1
    with pytest.raises(ManagerError, match=words):
        volume_writes.changed(world.store, wish)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("", {}, "no volume name"),
        ("../up", {}, "no volume name"),
        ("d", {"speed": "9"}, "'speed' is no option"),
        ("d", {"type": "nfs"}, "needs a device"),
        ("d", {"type": "nfs", "device": "/x"}, "SERVER:/PATH"),
        ("d", {"type": "cifs", "device": "srv/x"}, "//SERVER/SHARE"),
        ("d", {"type": "none", "device": "/x"}, "o=bind"),
        ("d", {"device": "/x"}, "need a type"),
        ("d", {"size": "huge"}, "no size"),
        ("d", {"size": "10k"}, "at least 1m"),
        ("d", {"type": "tmpfs", "size": "1m"}, "o=size=64m"),
        ("d", {"type": "nfs", "device": "s:/x", "size": "1m"}, "its server limits it"),
    ],
)
def test_options_that_cannot_be(name: str, options: dict[str, str], words: str) -> None:
    problems = validate_volume(wanted(name, options=options))
    assert any(words in problem.message for problem in problems), problems


def test_good_options_have_no_problems() -> None:
    for options in (
        {},
        {"size": "1.5g"},
        {"type": "nfs", "device": ":/x", "o": "addr=srv,vers=4"},
        {"type": "tmpfs", "device": "tmpfs", "o": "size=64m,uid=1000"},
        {"type": "none", "device": "/srv", "o": "bind"},
    ):
        assert not validate_volume(wanted("data", options=options)), options


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"source": "a b"}, "no volume name"),
        ({"source": "", "volume_options": {"size": "1m"}}, "needs a name"),
        ({"source": "d", "subpath": "../x"}, "inside the volume"),
        ({"type": types_pb2.MOUNT_BIND, "source": "/x", "volume_nocopy": True}, "is none"),
        ({"source": "d", "volume_driver": "rexray"}, "not built"),
    ],
)
def test_mounts_that_cannot_be(fields: dict[str, object], words: str) -> None:
    entry = types_pb2.Mount(**{"type": types_pb2.MOUNT_VOLUME, "target": "/x", **fields})  # type: ignore[arg-type]
    assert any(words in problem.message for problem in mount(entry, "mounts[0]"))
