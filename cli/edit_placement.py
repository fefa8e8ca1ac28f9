"""Placement flags -> ServiceSpec, and taints and resources -> NodeSpec (see edit.py)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from swarmpy.cli import edit, edit_rollout, parse_placement
from swarmpy.cli.errors import UsageRefused
from swarmpy.proto import objects_pb2, types_pb2

EFFECTS = {
    "NoSchedule": types_pb2.TAINT_NO_SCHEDULE,
    "PreferNoSchedule": types_pb2.TAINT_PREFER_NO_SCHEDULE,
    "NoExecute": types_pb2.TAINT_NO_EXECUTE,
}


def apply(spec: objects_pb2.ServiceSpec, flags: edit.Flags) -> None:
    """Everything that flags_placement declares, and priorities."""
    placement = spec.task.placement
    edit_preferences(placement, flags)
    generic = spec.task.resources.reservations.generic
    for kind in flags.get("generic_resource_rm", ()):
        generic.pop(kind.partition("=")[0], None)
    for kind, count in flags.get("generic_resource_add", ()):
        generic[kind] = count
    tolerations = [toleration(value) for value in flags.get("toleration_add", ())]
    gone = [str(toleration(value)) for value in flags.get("toleration_rm", ())]
    edit.replace(placement.tolerations, edit.keyed(placement.tolerations, tolerations, gone, str))
    edit_affinities(placement, flags)
    for flag in ("strategy", "min_available", "priority", "preempt"):
        if flags.get(flag) is not None and flags[flag] not in edit_rollout.STRATEGIES:
            setattr(spec, flag, flags[flag])
    if flags.get("on_partition") is not None:
        spec.task.stop_after_ms, spec.task.fenced = flags["on_partition"]
    if flags.get("enforce") is not None:
        spec.enforce = "" if flags["enforce"] == "now" else flags["enforce"]


def edit_preferences(placement: types_pb2.Placement, flags: edit.Flags) -> None:
    """--placement-pref: one for each key."""
    added = [
        types_pb2.Preference(
            spread=value.spread, max_skew=value.max_skew,
            weights=[types_pb2.SpreadWeight(value=name, percent=percent) for name, percent in value.weights],
        )
        for value in flags.get("placement_pref_add", ())
    ]  # fmt: skip
    gone = [value.spread for value in flags.get("placement_pref_rm", ())]
    kept = edit.keyed(placement.preferences, added, gone, lambda preference: preference.spread)
    edit.replace(placement.preferences, kept)


def edit_affinities(placement: types_pb2.Placement, flags: edit.Flags) -> None:
    """--affinity and --anti-affinity: one of each for a service and topology; -rm names the service."""
    kept = []
    gone = {False: set(flags.get("affinity_rm", ())), True: set(flags.get("anti_affinity_rm", ()))}
    kept = [rule for rule in placement.affinities if rule.service not in gone[rule.anti]]
    added = [
        types_pb2.Affinity(service=value.service, anti=anti, topology=value.topology, soft=value.soft)
        for anti, flag in ((False, "affinity_add"), (True, "anti_affinity_add"))
        for value in flags.get(flag, ())
    ]
    rules = edit.keyed(kept, added, (), lambda rule: f"{rule.anti} {rule.service} {rule.topology}")
    edit.replace(placement.affinities, rules)


def toleration(value: parse_placement.TaintValue) -> types_pb2.Toleration:
    return types_pb2.Toleration(
        key=value.key, value=value.value, effect=None if value.effect is None else EFFECTS[value.effect]
    )


def add_taints(spec: objects_pb2.NodeSpec, values: Iterable[parse_placement.TaintValue]) -> None:
    """A taint of the same key and effect is replaced."""
    added = [types_pb2.Taint(key=v.key, value=v.value or "", effect=EFFECTS[v.effect or ""]) for v in values]
    edit.replace(spec.taints, edit.keyed(spec.taints, added, (), lambda taint: f"{taint.key}:{taint.effect}"))


def remove_taints(spec: objects_pb2.NodeSpec, values: Iterable[parse_placement.TaintValue]) -> None:
    """Every taint that the values describe; one that describes none is a mistake."""
    for value in values:
        kept = [taint for taint in spec.taints if not _is_meant(value, taint)]
        if len(kept) == len(spec.taints):
            raise UsageRefused(f"The node has no taint {value.key}: look with `swarmpy node taint ls`.")
        edit.replace(spec.taints, kept)


def _is_meant(value: parse_placement.TaintValue, taint: Any) -> bool:
    if value.key and value.key != taint.key:
        return False
    if value.value is not None and value.value != taint.value:
        return False
    return value.effect is None or EFFECTS[value.effect] == taint.effect


def edit_resources(
    spec: objects_pb2.NodeSpec, added: Iterable[tuple[str, str]], removed: Iterable[str]
) -> None:
    """--generic-resource of a node: a number replaces what was there, names are gathered."""
    for kind in removed:
        spec.generic.pop(kind, None)
    named: dict[str, list[str]] = {}
    for kind, value in added:
        if value.isdigit():
            spec.generic[kind].CopyFrom(objects_pb2.GenericResource(count=int(value)))
        else:
            named.setdefault(kind, []).append(value)
    for kind, names in named.items():
        spec.generic[kind].CopyFrom(objects_pb2.GenericResource(names=list(dict.fromkeys(names))))
