"""The placement flags: their values, and what they make of a spec."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from swarmpy.cli import edit, edit_placement, parse, parse_placement
from swarmpy.cli.errors import UsageRefused
from swarmpy.cli.parse_placement import AffinityValue, PreferenceValue, TaintValue
from swarmpy.proto import objects_pb2, types_pb2


@pytest.mark.parametrize(
    ("convert", "text", "value"),
    [
        (parse_placement.preference, "spread=node.labels.zone", PreferenceValue("node.labels.zone")),
        (
            parse_placement.preference,
            "spread=node.labels.dc:us=60%,eu=40%,max-skew=1",
            PreferenceValue("node.labels.dc", (("us", 60), ("eu", 40)), 1),
        ),
        (parse_placement.preference, "spread=node.zone,max-skew=2", PreferenceValue("node.zone", (), 2)),
        (parse_placement.taint, "gpu=true:NoSchedule", TaintValue("gpu", "true", "NoSchedule")),
        (parse_placement.taint, "old:NoExecute", TaintValue("old", None, "NoExecute")),
        (parse_placement.toleration, "gpu", TaintValue("gpu")),
        (parse_placement.toleration, "*", TaintValue("")),
        (parse_placement.affinity, "service==cache", AffinityValue("cache")),
        (
            parse_placement.affinity,
            "service==db,topology=node.labels.rack,soft=50",
            AffinityValue("db", "node.labels.rack", 50),
        ),
        (parse_placement.generic_resource, "gpu=2", ("gpu", 2)),
        (parse_placement.node_resource, "gpu=/dev/dri/card0", ("gpu", "/dev/dri/card0")),
        (parse_placement.available, "80%", "80%"),
        (parse_placement.on_partition, "keep", (0, False)),
        (parse_placement.on_partition, "stop-after=1m", (60_000, False)),
        (parse_placement.on_partition, "fence", (20_000, True)),
        (parse_placement.on_partition, "fence=45s", (45_000, True)),
        (parse.constraint, "node.labels.ssd exists", "node.labels.ssd exists"),
    ],
)
def test_value(convert: Callable[[str], Any], text: str, value: object) -> None:
    assert convert(text) == value


@pytest.mark.parametrize(
    ("convert", "text"),
    [
        (parse_placement.preference, "binpack=x"),
        (parse_placement.preference, "spread=node.labels.dc:us=sixty"),
        (parse_placement.preference, "spread=node.labels.dc,max-skew=0"),
        (parse_placement.taint, "gpu=true"),
        (parse_placement.taint, "gpu=true:Never"),
        (parse_placement.taint, "*:NoSchedule"),
        (parse_placement.affinity, "cache"),
        (parse_placement.affinity, "service==cache,soft=101"),
        (parse_placement.generic_resource, "gpu=0"),
        (parse_placement.available, "120%"),
        (parse_placement.on_partition, "stop-after"),
        (parse_placement.on_partition, "keep=1m"),
    ],
)
def test_a_bad_value_is_one_sentence(convert: Callable[[str], Any], text: str) -> None:
    with pytest.raises(ValueError, match=r"\w+ \w+"):
        convert(text)


def applied(spec: objects_pb2.ServiceSpec, **flags: Any) -> objects_pb2.ServiceSpec:
    edit_placement.apply(spec, flags)
    return spec


def test_flags_make_and_unmake_a_spec() -> None:
    rule = AffinityValue("db")
    spec = applied(
        objects_pb2.ServiceSpec(),
        affinity_add=(AffinityValue("cache", soft=50),),
        anti_affinity_add=(rule,),
        toleration_add=(TaintValue("gpu"),),
        generic_resource_add=(("gpu", 2),),
        placement_pref_add=(PreferenceValue("node.labels.zone", (("a", 70),), 2),),
        priority=0,
        preempt=True,
        enforce="drain",
        min_available="2",
        strategy="binpack",
    )
    assert spec.HasField("priority")
    assert (spec.strategy, spec.enforce, spec.min_available, spec.preempt) == ("binpack", "drain", "2", True)
    assert spec.task.resources.reservations.generic == {"gpu": 2}
    applied(spec, affinity_add=(AffinityValue("cache", soft=90),), enforce="now")
    assert [(r.service, r.anti, r.soft) for r in spec.task.placement.affinities] == [
        ("cache", False, 90),
        ("db", True, 0),
    ]
    assert not spec.enforce
    applied(
        spec,
        affinity_rm=("cache",),
        anti_affinity_rm=("db",),
        toleration_rm=(TaintValue("gpu"),),
        generic_resource_rm=("gpu",),
        placement_pref_rm=(PreferenceValue("node.labels.zone"),),
    )
    assert not spec.task.placement.ByteSize()
    assert not spec.task.resources.reservations.generic


def test_an_update_without_placement_flags_changes_nothing() -> None:
    service = objects_pb2.Service()
    service.spec.task.container.image = "a"
    service.spec.task.placement.tolerations.add(key="gpu", value="")
    service.spec.task.placement.preferences.add(spread="node.zone", max_skew=1).weights.add(
        value="a", percent=9
    )
    before = objects_pb2.Service()
    before.CopyFrom(service)
    edit.apply(service, {}, lambda name: name)
    assert service == before


def test_taints_and_resources_of_a_node() -> None:
    spec = objects_pb2.NodeSpec()
    edit_placement.add_taints(spec, [TaintValue("gpu", "true", "NoSchedule")])
    edit_placement.add_taints(
        spec, [TaintValue("gpu", "false", "NoSchedule"), TaintValue("gpu", None, "NoExecute")]
    )
    assert [(t.value, t.effect) for t in spec.taints] == [
        ("false", types_pb2.TAINT_NO_SCHEDULE),
        ("", types_pb2.TAINT_NO_EXECUTE),
    ]
    edit_placement.remove_taints(spec, [TaintValue("gpu")])
    assert not spec.taints
    with pytest.raises(UsageRefused, match="no taint gpu"):
        edit_placement.remove_taints(spec, [TaintValue("gpu")])
    edit_placement.edit_resources(spec, [("gpu", "/dev/a"), ("gpu", "/dev/b"), ("ssd", "3")], ())
    assert list(spec.generic["gpu"].names) == ["/dev/a", "/dev/b"]
    assert spec.generic["ssd"].count == 3
    edit_placement.edit_resources(spec, (), ["ssd"])
    assert set(spec.generic) == {"gpu"}
