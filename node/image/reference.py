"""Image references: what a user types, in one normal form.

    [host[:port]/]path[:tag][@sha256:hex]

Rules are those of Docker: the first part names a registry only if it has a dot
or a colon or is `localhost`; without one the registry is docker.io, where a
single-part path lies under `library/`; without tag and digest the tag is
`latest`. Where a digest is given it decides and the tag is only a label.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

DEFAULT_REGISTRY = "docker.io"
DEFAULT_TAG = "latest"
REPOSITORY_LENGTH_MAX = 255

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_PATH_PART = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*")
_HOST = re.compile(
    r"(?:\[[0-9a-fA-F:]+\]|[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
    r"(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)*)(?::[0-9]{1,5})?"
)


class ReferenceInvalid(ValueError):
    """The text is no image reference; the message says which part and why."""


@dataclass(frozen=True)
class Reference:
    registry: str
    repository: str
    tag: str = ""
    digest: str = ""

    def __str__(self) -> str:
        """The normal form, the key under which stores and clusters know it."""
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@{self.digest}" if self.digest else ""
        return f"{self.registry}/{self.repository}{tag}{digest}"

    @property
    def name(self) -> str:
        """Registry and repository, no tag, no digest."""
        return f"{self.registry}/{self.repository}"

    @property
    def selector(self) -> str:
        """What the registry is asked for: the digest if there is one, else the tag."""
        return self.digest or self.tag

    @property
    def familiar(self) -> str:
        """The shortest form that parses to the same reference, for people."""
        whole = str(self)
        shorter = [
            whole.removeprefix(f"{DEFAULT_REGISTRY}/library/"),
            whole.removeprefix(f"{DEFAULT_REGISTRY}/"),
            whole,
        ]
        if not self.digest:
            shorter = [text.removesuffix(f":{DEFAULT_TAG}") for text in shorter]
        return min((text for text in (*shorter, whole) if _says(text, self)), key=len)

    @property
    def is_loopback(self) -> bool:
        """Whether the registry is on this machine, where plain HTTP is the default."""
        host, _ = split_host_port(self.registry)
        return is_loopback_host(host)

    def with_digest(self, digest: str) -> Reference:
        return Reference(self.registry, self.repository, self.tag, digest)


def parse(text: str) -> Reference:
    """Parse and normalise; ReferenceInvalid says what is wrong with which part."""
    if not text or text != text.strip():
        raise ReferenceInvalid(f"image reference {text!r} is empty or has spaces around it")
    rest, has_digest, digest = text.partition("@")
    if has_digest and not is_digest(digest):
        raise ReferenceInvalid(
            f"image reference {text!r}: digest {digest!r} must be sha256: and 64 lowercase hex digits"
        )
    registry, path = _split_registry(rest)
    path, has_tag, tag = path.partition(":")
    if has_tag and not _TAG.fullmatch(tag):
        raise ReferenceInvalid(
            f"image reference {text!r}: tag {tag!r} must be 1-128 letters, digits, '_', '.', '-', "
            "not starting with '.' or '-'"
        )
    if not _HOST.fullmatch(registry):
        raise ReferenceInvalid(f"image reference {text!r}: {registry!r} is no host[:port]")
    if registry in {"index.docker.io", "registry-1.docker.io"}:
        registry = DEFAULT_REGISTRY
    if registry == DEFAULT_REGISTRY and "/" not in path and path:
        path = f"library/{path}"
    _check_path(text, path)
    return Reference(registry, path, tag or ("" if digest else DEFAULT_TAG), digest)


def is_digest(text: str) -> bool:
    return _DIGEST.fullmatch(text) is not None


def split_host_port(registry: str) -> tuple[str, int | None]:
    """`host:port`, `[v6]:port` or a bare host, as (host without brackets, port or None)."""
    if registry.startswith("["):
        host, _, rest = registry[1:].partition("]")
        return host, int(rest[1:]) if rest.startswith(":") else None
    host, colon, port = registry.partition(":")
    return host, int(port) if colon else None


def is_loopback_host(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _says(text: str, reference: Reference) -> bool:
    try:
        return parse(text) == reference
    except ReferenceInvalid:
        return False


def _split_registry(rest: str) -> tuple[str, str]:
    first, slash, path = rest.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost" or first != first.lower()):
        return first, path
    return DEFAULT_REGISTRY, rest


def _check_path(text: str, path: str) -> None:
    if not path:
        raise ReferenceInvalid(f"image reference {text!r} has no repository name")
    if is_digest("sha256:" + path.removeprefix("library/")):
        raise ReferenceInvalid(
            f"image reference {text!r}: 64 hex digits are not a name; write name@sha256:… or sha256:…"
        )
    if len(path) > REPOSITORY_LENGTH_MAX:
        raise ReferenceInvalid(
            f"image reference {text[:64]!r}…: longer than {REPOSITORY_LENGTH_MAX} characters"
        )
    for part in path.split("/"):
        if not _PATH_PART.fullmatch(part):
            hint = ": it must be lowercase" if part != part.lower() else ""
            raise ReferenceInvalid(
                f"image reference {text!r}: {part!r} is no valid repository name part{hint} "
                "(lowercase letters and digits, joined by '.', '_', '__' or '-')"
            )
