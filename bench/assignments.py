"""What sessions cost a leader: sets of assignments and their deltas for many nodes, worked out and put into messages.

    python -m bench.assignments [--nodes 1000] [--services 300] [--replicas 100] [--json]

No cluster, no network and no peer: processor time of the thread. Every node hears of every service's backends, so a
complete set grows with all tasks; what is measured is how little of that is done again for each node.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import time
from collections.abc import Callable

from swarmpy.node.items import field
from swarmpy.node.manager.assignments import SharedItems
from swarmpy.node.manager.dispatcher import ASSIGNMENTS_FIELD
from swarmpy.node.manager.outbox import Holders, Outbox
from swarmpy.proto import objects_pb2, store_pb2, types_pb2
from swarmpy.raft.store import Commit, Store, result_of, transaction
from swarmpy.raft.tables import Entity, wrap

from bench.planner import node, service

PART = 150  # changes of one transaction


class World:
    """A store with every task running, and what the leader keeps for its sessions."""

    def __init__(self, nodes: int, services: int, replicas: int) -> None:
        self.store, self.index = Store(), 1
        self.store.apply(1, transaction((), epoch=1, now_ms=1, new_epoch=True))
        self.put([node(number) for number in range(nodes)])
        self.put([service(number, replicas) for number in range(services)])
        owners = itertools.product(range(services), range(1, replicas + 1))
        self.put([task(owner, slot, owner * replicas + slot, nodes) for owner, slot in owners])
        self.shared, holders = SharedItems(self.store), Holders(self.store)
        self.boxes = {
            one.meta.id: Outbox(self.store, self.shared, holders, one.meta.id) for one in self.store.nodes()
        }
        self.store.listeners.append(self._on_commit)

    def put(self, entities: list[Entity]) -> None:
        for start in range(0, len(entities), PART):
            self.index += 1
            part = entities[start : start + PART]
            changes = [store_pb2.Change(put=wrap(one), expected_version=one.meta.version) for one in part]
            result = result_of(self.store.apply(self.index, transaction(changes, epoch=1, now_ms=self.index)))
            assert not result.error_code, result

    def _on_commit(self, commit: Commit) -> None:
        self.shared.feed(commit.events)

    def stop_some(self) -> None:
        """150 tasks of as many services go out of service, in one transaction."""
        changed: list[Entity] = []
        for number in range(PART):
            stored = self.store.tasks_of_service(f"service{number:05d}")[number % 7]
            copied = objects_pb2.Task()
            copied.CopyFrom(stored)
            copied.status.ready = not stored.status.ready
            changed.append(copied)
        self.put(changed)


def task(owner: int, slot: int, place: int, nodes: int) -> objects_pb2.Task:
    name = f"service{owner:05d}"
    made = objects_pb2.Task(
        service_id=name, service_name=name, slot=slot, node_id=f"node{place % nodes:05d}", spec_version=1,
        desired_state=types_pb2.TASK_RUNNING,
    )  # fmt: skip
    made.meta.id = f"{name}t{slot:06d}"
    made.meta.name = f"{name}.{slot}.{made.meta.id}"
    made.spec.container.image = "docker.io/library/app:1"
    made.status.state, made.status.ready = types_pb2.TASK_RUNNING, True
    made.status.addresses.add(network_id="default", address=f"10.{64 + owner % 64}.{slot}.2")
    return made


def timed(what: Callable[[], int]) -> tuple[float, int]:
    gc.collect()
    began = time.thread_time()
    sent = what()
    return time.thread_time() - began, sent


def send(messages: list[bytes]) -> int:
    return sum(len(field(ASSIGNMENTS_FIELD, message)) for message in messages)


def measure(nodes: int, services: int, replicas: int) -> dict[str, tuple[float, int]]:
    world = World(nodes, services, replicas)
    boxes = world.boxes.values()
    found = {"complete sets": timed(lambda: sum(send(box.first(b"")) for box in boxes))}

    def commit() -> int:
        world.stop_some()
        world.shared.refresh()
        return 0

    found["a commit of 150 tasks, endpoints worked out"] = timed(commit)
    found["the same, to every node"] = timed(lambda: sum(send(box.next(everything=True)) for box in boxes))

    def one_task_each() -> int:
        total = 0
        for node_id, box in world.boxes.items():
            box.touch(world.store.tasks_of_node(node_id)[0].meta.id)
            total += send(box.next(everything=False))
        return total

    found["a task of every node looked at again"] = timed(one_task_each)
    held = {node_id: box.holds for node_id, box in world.boxes.items()}
    fresh = {
        node_id: Outbox(world.store, world.shared, Holders(world.store), node_id) for node_id in world.boxes
    }
    found["every node comes back with what it had"] = timed(
        lambda: sum(send(box.first(held[node_id])) for node_id, box in fresh.items())
    )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--nodes", type=int, default=1000)
    parser.add_argument("--services", type=int, default=300)
    parser.add_argument("--replicas", type=int, default=100)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    gc.set_threshold(100_000, 50, 1000)  # as a manager has it
    found = measure(asked.nodes, asked.services, asked.replicas)
    if asked.json:
        print(json.dumps(found))
        return
    print(f"{asked.nodes} nodes, {asked.services * asked.replicas} tasks of {asked.services} services")
    for what, (seconds, sent) in found.items():
        print(
            f"{what:50} {seconds:8.3f} s {seconds / asked.nodes * 1000:8.3f} ms a node {sent / 1e6:9.1f} MB"
        )


if __name__ == "__main__":
    main()
