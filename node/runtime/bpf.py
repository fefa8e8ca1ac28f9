"""The filter of system calls compiled once, for crun, instead of at every start.

crun takes a ready filter in the annotation `run.oci.seccomp_bpf_data`; compiling the same rules anew costs it
a third of a container's start. libseccomp does the work, the library that crun itself uses, by the rules that
crun follows: a system call the library does not know is left out, a rule that says no more than the default
is left out. The rules stay in the configuration beside the compiled form. Where anything is missing or odd
there is no annotation, and crun compiles.
"""

from __future__ import annotations

import base64
import ctypes
import ctypes.util
import functools
import json
import logging
import os
from collections.abc import Mapping
from typing import Any

log = logging.getLogger(__name__)
ANNOTATION = "run.oci.seccomp_bpf_data"
COMPILED_MAX = 64
FILTER_BYTES_MAX = 4096 * 8  # what the kernel takes
ACTIONS = {
    "SCMP_ACT_KILL": 0x0000_0000, "SCMP_ACT_KILL_THREAD": 0x0000_0000, "SCMP_ACT_KILL_PROCESS": 0x8000_0000,
    "SCMP_ACT_TRAP": 0x0003_0000, "SCMP_ACT_ERRNO": 0x0005_0000, "SCMP_ACT_LOG": 0x7FFC_0000,
    "SCMP_ACT_ALLOW": 0x7FFF_0000,
}  # fmt: skip
COMPARISONS = {
    "SCMP_CMP_NE": 1, "SCMP_CMP_LT": 2, "SCMP_CMP_LE": 3, "SCMP_CMP_EQ": 4, "SCMP_CMP_GE": 5, "SCMP_CMP_GT": 6,
    "SCMP_CMP_MASKED_EQ": 7,
}  # fmt: skip
EEXIST, EPERM = 17, 1
UNKNOWN = -1


class _Argument(ctypes.Structure):
    _fields_ = (
        ("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64),
    )  # fmt: skip


class _Odd(Exception):
    """Something in the profile that is left to crun."""


@functools.cache
def _library() -> ctypes.CDLL | None:
    try:
        library = ctypes.CDLL("libseccomp.so.2")
    except OSError:
        return None
    library.seccomp_init.restype = ctypes.c_void_p
    library.seccomp_init.argtypes = [ctypes.c_uint32]
    library.seccomp_release.argtypes = [ctypes.c_void_p]
    library.seccomp_arch_resolve_name.restype = ctypes.c_uint32
    library.seccomp_arch_resolve_name.argtypes = [ctypes.c_char_p]
    library.seccomp_arch_add.argtypes = [ctypes.c_void_p, ctypes.c_uint32]
    library.seccomp_syscall_resolve_name.argtypes = [ctypes.c_char_p]
    library.seccomp_rule_add_array.argtypes = [
        ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_uint, ctypes.POINTER(_Argument),
    ]  # fmt: skip
    library.seccomp_export_bpf.argtypes = [ctypes.c_void_p, ctypes.c_int]
    return library


def annotation(rules: Mapping[str, Any]) -> dict[str, str]:
    """The annotation with these rules compiled; {} where crun must do it."""
    return dict(_annotation(json.dumps(rules, sort_keys=True)))


@functools.lru_cache(COMPILED_MAX)
def _annotation(text: str) -> tuple[tuple[str, str], ...]:
    rules, library = json.loads(text), _library()
    if library is None or rules.get("flags"):
        return ()
    try:
        compiled = _compile(library, rules)
    except (_Odd, KeyError, OSError) as error:
        log.info("seccomp filter left to the runtime error=%s", error)
        return ()
    return ((ANNOTATION, base64.b64encode(compiled).decode()),)


def _compile(library: ctypes.CDLL, rules: Mapping[str, Any]) -> bytes:
    default = _action(rules["defaultAction"], rules.get("defaultErrnoRet"))
    context = library.seccomp_init(default)
    if not context:
        raise _Odd("no context")
    try:
        for name in rules.get("architectures", ()):
            token = library.seccomp_arch_resolve_name(name.removeprefix("SCMP_ARCH_").lower().encode())
            if not token or library.seccomp_arch_add(context, token) not in (0, -EEXIST):
                raise _Odd(f"architecture {name}")
        for rule in rules["syscalls"]:
            action = _action(rule["action"], rule.get("errnoRet"))
            if action != default:
                for name in rule["names"]:
                    _add(library, context, action, name, rule.get("args") or ())
        return _exported(library, context)
    finally:
        library.seccomp_release(context)


def _action(name: str, number: int | None) -> int:
    if name not in ACTIONS:
        raise _Odd(f"action {name}")
    return ACTIONS[name] | ((EPERM if number is None else number) if name == "SCMP_ACT_ERRNO" else 0)


def _add(library: ctypes.CDLL, context: int, action: int, name: str, conditions: Any) -> None:
    number = library.seccomp_syscall_resolve_name(name.encode())
    if number == UNKNOWN:
        return
    indexes = [condition["index"] for condition in conditions]
    if len(set(indexes)) != len(indexes):
        raise _Odd(f"two conditions on one argument of {name}")
    arguments = (_Argument * max(1, len(indexes)))(*(
        _Argument(c["index"], COMPARISONS[c["op"]], c["value"], c.get("valueTwo", 0)) for c in conditions
    ))  # fmt: skip
    if failed := library.seccomp_rule_add_array(context, action, number, len(indexes), arguments):
        raise _Odd(f"rule for {name}: {os.strerror(-failed)}")


def _exported(library: ctypes.CDLL, context: int) -> bytes:
    memory = os.memfd_create("seccomp")
    try:
        if failed := library.seccomp_export_bpf(context, memory):
            raise _Odd(f"export: {os.strerror(-failed)}")
        compiled = os.pread(memory, FILTER_BYTES_MAX + 1, 0)
    finally:
        os.close(memory)
    if not compiled or len(compiled) % 8 or len(compiled) > FILTER_BYTES_MAX:
        raise _Odd(f"a filter of {len(compiled)} bytes")
    return compiled
