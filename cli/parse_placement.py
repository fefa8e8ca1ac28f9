"""The values of the placement flags, as pure functions from text to plain values (see parse.py)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from swarmpy.cli import parse

FENCE_MS = 20_000  # of `fence` without a time
EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")
KEY = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._/-]{0,251}[A-Za-z0-9])?")


@dataclass(frozen=True)
class PreferenceValue:
    """One --placement-pref; weights are (value, percent), max_skew 0 = none."""

    spread: str
    weights: tuple[tuple[str, int], ...] = ()
    max_skew: int = 0


@dataclass(frozen=True)
class TaintValue:
    """A taint, or a toleration: there None = any."""

    key: str
    value: str | None = None
    effect: str | None = None


@dataclass(frozen=True)
class AffinityValue:
    """One --affinity or --anti-affinity; soft 0 = hard."""

    service: str
    topology: str = ""
    soft: int = 0


def on_partition(text: str) -> tuple[int, bool]:
    """`keep`, `stop-after=30s`, `fence` or `fence=30s`: after how many ms (0 = never), and whether fenced."""
    policy, equals, time = text.partition("=")
    if text == "keep":
        return 0, False
    if text == "fence":
        return FENCE_MS, True
    if equals and policy in ("stop-after", "fence"):
        return parse.duration_ms(time), policy == "fence"
    raise ValueError(f"{text!r} is not keep, stop-after=TIME or fence[=TIME]")


def preference(text: str) -> PreferenceValue:
    """`spread=node.labels.dc[:us=60%,eu=40%][,max-skew=1]`."""
    strategy, value = parse.strict_key_value(text)
    key, *rest = re.split("[:,]", value)
    if strategy != "spread" or not key:
        raise ValueError(f"{text!r} is not a placement preference: write spread=node.labels.NAME")
    weights, max_skew = [], 0
    for part in rest:
        name, equals, number = part.partition("=")
        if name == "max-skew" and re.fullmatch(r"[1-9][0-9]{0,5}", number):
            max_skew = int(number)
        elif equals and name and re.fullmatch(r"[0-9]{1,3}%", number):
            weights.append((name, int(number[:-1])))
        else:
            raise ValueError(f"{part!r} is neither VALUE=PERCENT% nor max-skew=NUMBER")
    return PreferenceValue(key, tuple(weights), max_skew)


def taint(text: str) -> TaintValue:
    """`KEY[=VALUE]:EFFECT` for a node."""
    value = toleration(text)
    if value.effect is None or not value.key:
        raise ValueError(f"{text!r} is not a taint: write KEY=VALUE:EFFECT with {', '.join(EFFECTS)}")
    return value


def toleration(text: str) -> TaintValue:
    """`KEY[=VALUE][:EFFECT]`, or `*` for every taint."""
    rest, colon, effect = text.rpartition(":")
    if not colon:
        rest, effect = text, ""
    elif effect not in EFFECTS:
        raise ValueError(f"{effect!r} is not an effect of a taint: use {', '.join(EFFECTS)}")
    key, equals, value = rest.partition("=")
    if key != "*" and not KEY.fullmatch(key):
        raise ValueError(f"{text!r} is not KEY[=VALUE][:EFFECT], for example gpu=true:NoSchedule")
    return TaintValue("" if key == "*" else key, value if equals else None, effect or None)


def affinity(text: str) -> AffinityValue:
    """`service==NAME[,topology=node.labels.rack][,soft=50]`."""
    if text == "client-ip":
        raise ValueError("client-ip is about clients, not placement: write --session-affinity client-ip")
    first, *rest = text.split(",")
    match = re.fullmatch(r"\s*service\s*==?\s*([A-Za-z0-9][\w.-]*)\s*", first)
    if match is None:
        raise ValueError(f"{text!r} is not an affinity: write service==NAME")
    topology, soft = "", 0
    for part in rest:
        name, value = parse.strict_key_value(part.strip())
        if name == "topology":
            topology = value
        elif name == "soft" and re.fullmatch(r"[0-9]{1,3}", value) and 1 <= int(value) <= 100:
            soft = int(value)
        else:
            raise ValueError(f"{part!r} is neither topology=KEY nor soft=1..100")
    return AffinityValue(match[1], topology, soft)


def generic_resource(text: str) -> tuple[str, int]:
    """`gpu=2` of a service."""
    kind, value = parse.strict_key_value(text)
    if not KEY.fullmatch(kind) or not re.fullmatch(r"[1-9][0-9]{0,8}", value):
        raise ValueError(f"{text!r} is not a generic resource: write KIND=NUMBER, for example gpu=2")
    return kind, int(value)


def node_resource(text: str) -> tuple[str, str]:
    """`gpu=2`, or `gpu=NAME` once for each, of a node."""
    kind, value = parse.strict_key_value(text)
    if not KEY.fullmatch(kind) or not re.fullmatch(r"[!-~]{1,255}", value) or value == "0":
        raise ValueError(f"{text!r} is not a resource of a node: write KIND=NUMBER or KIND=NAME")
    return kind, value


def available(text: str) -> str:
    """`2` or `80%`."""
    if not re.fullmatch(r"[0-9]{1,6}|(100|[0-9]{1,2})%", text):
        raise ValueError(f"{text!r} is neither a number of tasks nor a percentage, like 2 or 80%")
    return text
