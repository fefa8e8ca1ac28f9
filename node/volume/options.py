"""From a volume's options, as `volume create --opt` takes them, to what mount(2) is told. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from swarmpy.node.volume.errors import VolumeRejected

SET_FLAGS = {
    "ro": 1, "nosuid": 2, "nodev": 4, "noexec": 8, "sync": 16, "mand": 64, "dirsync": 128, "noatime": 1024,
    "nodiratime": 2048, "bind": 4096, "rbind": 4096 | 16384, "relatime": 1 << 21, "strictatime": 1 << 24,
    "lazytime": 1 << 25,
}  # fmt: skip
CLEAR_FLAGS = {
    "rw": 1, "suid": 2, "dev": 4, "exec": 8, "async": 16, "nomand": 64, "atime": 1024, "diratime": 2048,
    "norelatime": 1 << 21, "nostrictatime": 1 << 24, "nolazytime": 1 << 25, "defaults": 0,
}  # fmt: skip
NETWORK_KINDS = {"nfs", "nfs4", "cifs", "smb3"}
SECRETS = re.compile(r"((?:^|,)(?:password|pass)=)[^,]*")
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgtp]?)(?:i?b)?", re.IGNORECASE)


@dataclass(frozen=True)
class MountCall:
    """The arguments of one mount(2); `host` is a server whose address the kernel wants as a number."""

    kind: str
    source: str
    flags: int
    data: str
    host: str = ""

    def with_address(self, address: str) -> MountCall:
        """The server's address in place of its name, under the names the file systems have for it."""
        key = "ip" if self.kind in {"cifs", "smb3"} else "addr"
        kept = [
            word for word in self.data.split(",") if word and word.partition("=")[0] not in {"addr", "ip"}
        ]
        return replace(self, data=",".join([f"{key}={address}", *kept]), host="")


def mount_call(options: Mapping[str, str]) -> MountCall | None:
    """None for a plain directory."""
    kind, source = options.get("type", ""), options.get("device", "")
    if not kind:
        return None
    flags, words = 0, []
    for word in options.get("o", "").split(","):
        if word in SET_FLAGS:
            flags |= SET_FLAGS[word]
        elif word in CLEAR_FLAGS:
            flags &= ~CLEAR_FLAGS[word]
        elif word:
            words.append(word)
    call = MountCall(kind, source or kind, flags, ",".join(words))
    return replace(call, host=server_of(call)) if kind in NETWORK_KINDS else call


def server_of(call: MountCall) -> str:
    """The server: of the option addr or ip, else of the device."""
    for word in call.data.split(","):
        key, _, value = word.partition("=")
        if key in {"addr", "ip"} and value:
            return value
    if call.kind in {"cifs", "smb3"}:
        host = call.source.lstrip("/\\").partition("/")[0]
    elif call.source.startswith("["):
        host = call.source[1:].partition("]")[0]
    else:
        host = call.source.partition(":")[0]
    if not host:
        raise VolumeRejected(f"device={call.source} names no server: write SERVER:/PATH or add o=addr=SERVER")
    return host


def without_secrets(data: str) -> str:
    """Mount options as people may see them."""
    return SECRETS.sub(r"\1***", data)


def size_bytes(options: Mapping[str, str]) -> int:
    """The limit of a plain volume; 0 = none."""
    text = options.get("size", "")
    if not text:
        return 0
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise VolumeRejected(f"size={text!r} is not a size such as 500m or 10g")
    return int(float(match[1]) * 1024 ** " kmgtp".index(match[2].lower() or " "))
