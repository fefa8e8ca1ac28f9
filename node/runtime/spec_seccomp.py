"""The filter of system calls: our allow-list with what capabilities add, or a profile of the user's. Pure.

A user's profile is in Docker's format: rules may be included or excluded by capability, architecture and
kernel version. They are decided here, for this container on this node; the OCI runtime gets plain rules.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from swarmpy.node.runtime.errors import StartRejected

# How profiles name a machine (Docker's words), by what the kernel calls it.
ARCHES = {
    "x86_64": ("amd64", "SCMP_ARCH_X86_64"), "aarch64": ("arm64", "SCMP_ARCH_AARCH64"),
    "armv7l": ("arm", "SCMP_ARCH_ARM"), "i686": ("x86", "SCMP_ARCH_X86"),
    "ppc64le": ("ppc64le", "SCMP_ARCH_PPC64LE"), "s390x": ("s390x", "SCMP_ARCH_S390X"),
    "riscv64": ("riscv64", "SCMP_ARCH_RISCV64"),
}  # fmt: skip


def default(data: Mapping[str, Any], machine: str, granted: frozenset[str]) -> dict[str, Any]:
    """The allow-list of the data file, with what the granted capabilities add."""
    allowed = {*data["allow"], *data["allow_on"].get(machine, [])}
    for name, calls in data["allow_with"].items():
        if name in granted:
            allowed |= set(calls)
    rules: list[dict[str, Any]] = [{"names": sorted(allowed), "action": "SCMP_ACT_ALLOW"}]
    if "clone" not in allowed:
        position = 1 if machine == "s390x" else 0
        no_namespaces = {
            "index": position,
            "value": data["clone_namespace_flags"],
            "valueTwo": 0,
            "op": "SCMP_CMP_MASKED_EQ",
        }
        rules.append({"names": ["clone"], "action": "SCMP_ACT_ALLOW", "args": [no_namespaces]})
        rules.append({"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38})
    rules.extend(
        {
            "names": ["personality"],
            "action": "SCMP_ACT_ALLOW",
            "args": [{"index": 0, "value": value, "op": "SCMP_CMP_EQ"}],
        }
        for value in data["personalities"]
    )
    refused = {"index": 0, "value": data["refused_socket_family"], "op": "SCMP_CMP_NE"}
    rules.append({"names": ["socket"], "action": "SCMP_ACT_ALLOW", "args": [refused]})
    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": 1,
        "architectures": data["architectures"][machine],
        "syscalls": rules,
    }


def custom(text: str, machine: str, granted: frozenset[str], kernel: tuple[int, int]) -> dict[str, Any]:
    """A user's profile as the OCI runtime wants it; StartRejected where it is none."""
    try:
        profile = json.loads(text)
        rules = [
            rule
            for entry in profile.get("syscalls") or []
            if _applies(entry, machine, granted, kernel)
            for rule in [_rule(entry)]
        ]
        made = {"defaultAction": profile["defaultAction"], "syscalls": rules}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StartRejected(f"container.seccomp_profile: not a seccomp profile: {error}") from error
    for key in ("defaultErrnoRet", "flags"):
        if key in profile:
            made[key] = profile[key]
    if architectures := _architectures(profile, machine):
        made["architectures"] = architectures
    return made


def _architectures(profile: Mapping[str, Any], machine: str) -> list[str]:
    if profile.get("architectures"):
        return list(profile["architectures"])
    own = ARCHES.get(machine, ("", ""))[1]
    for entry in profile.get("archMap") or []:
        if entry.get("architecture") == own:
            return [own, *(entry.get("subArchitectures") or [])]
    return [own] if own else []


def _applies(
    entry: Mapping[str, Any], machine: str, granted: frozenset[str], kernel: tuple[int, int]
) -> bool:
    includes, excludes = entry.get("includes") or {}, entry.get("excludes") or {}
    arch = ARCHES.get(machine, ("", ""))[0]
    if includes.get("arches") and arch not in includes["arches"]:
        return False
    if arch in (excludes.get("arches") or []):
        return False
    if not set(includes.get("caps") or []) <= granted:
        return False
    if granted & set(excludes.get("caps") or []):
        return False
    if includes.get("minKernel") and kernel < _version(includes["minKernel"]):
        return False
    return not (excludes.get("minKernel") and kernel >= _version(excludes["minKernel"]))


def _version(text: str) -> tuple[int, int]:
    match = re.match(r"(\d+)\.(\d+)", text)
    if match is None:
        raise ValueError(f"{text!r} is no kernel version")
    return int(match[1]), int(match[2])


def _rule(entry: Mapping[str, Any]) -> dict[str, Any]:
    made = {"names": entry.get("names") or [entry["name"]], "action": entry["action"]}
    if entry.get("args"):
        made["args"] = entry["args"]
    if entry.get("errnoRet") is not None:
        made["errnoRet"] = entry["errnoRet"]
    return made
