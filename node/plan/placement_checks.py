"""Checks of what a service says about places, priorities and disruption, and a node about itself.

Used by validate; each function yields the problems of one part, with field paths.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from swarmpy.node.plan import partition
from swarmpy.node.plan.constraints import ConstraintError, parse_constraint
from swarmpy.node.plan.limits import Problem
from swarmpy.node.plan.score import STRATEGIES
from swarmpy.proto import objects_pb2, types_pb2

RULES_MAX = 64  # of each sort
NAMES_MAX = 256  # of one generic resource
_KEY = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._/-]{0,251}[A-Za-z0-9])?")
_TOPOLOGY = re.compile(r"node\.(id|hostname|role|zone|platform\.(os|arch))|(node|engine)\.labels\.\S+")
_AVAILABLE = re.compile(r"[0-9]{1,6}|(100|[0-9]{1,2})%")
ENFORCEMENTS = ("", "drain", "ignore")


def placement(spec: types_pb2.Placement) -> Iterator[Problem]:
    path = "spec.task.placement"
    for field in ("constraints", "preferences", "tolerations", "affinities"):
        if len(getattr(spec, field)) > RULES_MAX:
            yield Problem(f"{path}.{field}", f"has {len(getattr(spec, field))} entries, at most {RULES_MAX}")
    for position, text in enumerate(spec.constraints):
        try:
            parse_constraint(text)
        except ConstraintError as error:
            yield Problem(f"{path}.constraints[{position}]", str(error))
    for position, preference in enumerate(spec.preferences):
        yield from _preference(preference, f"{path}.preferences[{position}]")
    for position, toleration in enumerate(spec.tolerations):
        if toleration.key and not _KEY.fullmatch(toleration.key):
            yield Problem(f"{path}.tolerations[{position}].key", f"{toleration.key!r} is no key of a taint")
    for position, rule in enumerate(spec.affinities):
        yield from _affinity(rule, f"{path}.affinities[{position}]")
    if spec.max_replicas_per_node < 0:
        yield Problem(path + ".max_replicas_per_node", "must be 0 (no limit) or more")


def _preference(preference: types_pb2.Preference, path: str) -> Iterator[Problem]:
    if not _TOPOLOGY.fullmatch(preference.spread):
        yield Problem(
            path + ".spread", f"{preference.spread!r} is not node.labels.KEY, engine.labels.KEY or node.zone"
        )
    if preference.max_skew < 0:
        yield Problem(path + ".max_skew", "must be 0 (no limit) or more")
    values = [weight.value for weight in preference.weights]
    if len(values) > RULES_MAX or len(set(values)) != len(values):
        yield Problem(path + ".weights", f"names a value twice, or more than {RULES_MAX}")
    if any(not 0 <= weight.percent <= 100 for weight in preference.weights):
        yield Problem(path + ".weights", "has a share that is not from 0 to 100 %")
    elif sum(weight.percent for weight in preference.weights) > 100:
        yield Problem(path + ".weights", "add up to more than 100 %")


def _affinity(rule: types_pb2.Affinity, path: str) -> Iterator[Problem]:
    if not rule.service:
        yield Problem(path + ".service", "names no service")
    if rule.topology and not _TOPOLOGY.fullmatch(rule.topology):
        yield Problem(
            path + ".topology", f"{rule.topology!r} is no key such as node.labels.rack or node.zone"
        )
    if not 0 <= rule.soft <= 100:
        yield Problem(path + ".soft", f"is {rule.soft}: a weight goes from 1 to 100, 0 makes the rule hard")


def strategy(name: str) -> Iterator[Problem]:
    """Of a service or of the cluster."""
    if name and name not in STRATEGIES:
        yield Problem("spec.strategy", f"is {name!r}: write {', '.join(STRATEGIES)}")


def service(spec: objects_pb2.ServiceSpec) -> Iterator[Problem]:
    yield from strategy(spec.strategy)
    yield from on_partition(spec)
    if spec.enforce not in ENFORCEMENTS:
        yield Problem("spec.enforce", f"is {spec.enforce!r}: write drain or ignore, or nothing for now")
    if not 0 <= spec.priority <= 100:
        yield Problem("spec.priority", f"is {spec.priority}: a priority goes from 0 to 100")
    if spec.min_available and not _AVAILABLE.fullmatch(spec.min_available):
        yield Problem(
            "spec.min_available", f"is {spec.min_available!r}: write a number or a percentage like 80%"
        )


def on_partition(spec: objects_pb2.ServiceSpec) -> Iterator[Problem]:
    """What becomes of tasks whose node is cut off."""
    path, after_ms = "spec.task.stop_after_ms", spec.task.stop_after_ms
    least, most = partition.STOP_AFTER_MS_MIN, partition.STOP_AFTER_MS_MAX
    if after_ms and not least <= after_ms <= most:
        yield Problem(
            path,
            f"is {after_ms / 1000:g} s: from {least // 1000} s (a change of leaders may take that) to "
            f"{most // 60_000} min, or 0 for never",
        )
    if not spec.task.fenced:
        return
    if not after_ms:
        yield Problem(
            "spec.task.fenced", "needs stop_after_ms: a task that never stops cannot be replaced safely"
        )
    if partition.stop_limit_ms(spec.task) > most:
        yield Problem(
            "spec.task.fenced",
            f"tasks that may take longer than {most // 60_000} min to stop cannot be fenced",
        )
    if types_pb2.ORDER_START_FIRST in (spec.update.order, spec.rollback.order):
        yield Problem(
            "spec.update.order", "is start-first: two tasks of a slot of a fenced service never run at once"
        )


def node(spec: objects_pb2.NodeSpec) -> Iterator[Problem]:
    if spec.room_percent and not 10 <= spec.room_percent <= 1000:
        yield Problem("spec.room_percent", f"is {spec.room_percent}: from 10 to 1000, or 0 for 100")
    if len(spec.taints) > RULES_MAX or len(spec.generic) > RULES_MAX:
        yield Problem("spec", f"has more than {RULES_MAX} taints or generic resources")
    for position, taint in enumerate(spec.taints):
        if not _KEY.fullmatch(taint.key) or (taint.value and not _KEY.fullmatch(taint.value)):
            yield Problem(f"spec.taints[{position}]", f"{taint.key}={taint.value} is not KEY=VALUE")
    for kind, resource in spec.generic.items():
        path = f"spec.generic[{kind}]"
        if not _KEY.fullmatch(kind) or resource.count < 0:
            yield Problem(path, "is no generic resource: write KIND=NUMBER")
        if len(resource.names) > NAMES_MAX or len(set(resource.names)) != len(resource.names):
            yield Problem(path, f"has a name twice, or more than {NAMES_MAX}")
        if any(name.startswith("/dev/") and ".." in name.split("/") for name in resource.names):
            yield Problem(path, "names a device outside of /dev")
