"""What pulling from registries takes: checked, kept in the state, given only to nodes that pull.

The state's files are sealed (raft/seal). No read gives a password back (`queries.public`); a node
gets one for the registry of an image that one of its tasks needs, and keeps it for that pull only.
A helper, Docker's docker-credential-NAME protocol, is run by the manager that is asked, without a
shell, and must be installed on every manager.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
import shlex
from collections.abc import Iterable

from swarmpy.node.manager.errors import Forbidden, Invalid, NotFound, Refused, Taken
from swarmpy.node.manager.image_keep import is_living
from swarmpy.node.plan import pods
from swarmpy.node.plan.held import normalise
from swarmpy.proto import objects_pb2, store_pb2, types_pb2
from swarmpy.raft.store import Store, View

log = logging.getLogger(__name__)
HELPER_TIMEOUT_S = 15.0
HELPER_BYTES_MAX = 64 * 1024
TEXT_LENGTH_MAX = 16 * 1024
MIRRORS_MAX = 8
DEFAULT_REGISTRY = "docker.io"
HUB_KEY = "https://index.docker.io/v1/"  # under which helpers know Docker Hub
_HOST = re.compile(r"(?:\[[0-9a-fA-F:]+\]|[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?)(?::[0-9]{1,5})?")
_MIRROR = re.compile(_HOST.pattern + r"(?:/[a-z0-9._/-]+)?")


def registry_of(reference: str) -> str:
    """The registry that an image's name leads to."""
    return normalise(reference).partition("/")[0]


# -- users' writes --------------------------------------------------------------------


def created(view: View, wanted: objects_pb2.Credential, new_id: str) -> objects_pb2.Credential:
    made = objects_pb2.Credential()
    made.CopyFrom(wanted)
    made.meta.Clear()
    made.meta.id = new_id
    made.meta.name = _host(wanted.meta.name)
    if view.by_name(store_pb2.KIND_CREDENTIAL, made.meta.name) is not None:
        raise Taken(f"registry {made.meta.name} is known already: change it")
    return _checked(made)


def changed(view: View, wanted: objects_pb2.Credential) -> objects_pb2.Credential:
    """An update that was made from a read has no password: the stored one stays, unless the user changed."""
    stored = view.get(store_pb2.KIND_CREDENTIAL, wanted.meta.id)
    if not isinstance(stored, objects_pb2.Credential):
        raise NotFound(f"there is no registry {wanted.meta.name or wanted.meta.id!r}")
    made = objects_pb2.Credential()
    made.CopyFrom(wanted)
    made.meta.CopyFrom(stored.meta)
    if wanted.has_password and not wanted.password and wanted.username == stored.username:
        made.password = stored.password
    return _checked(made)


def _host(name: str) -> str:
    host = name.removeprefix("https://").removeprefix("http://").rstrip("/").lower()
    if host in {"", "index.docker.io", "registry-1.docker.io", "index.docker.io/v1"}:
        return DEFAULT_REGISTRY
    if not _HOST.fullmatch(host):
        raise Invalid(f"meta.name: {name[:80]!r} is no registry's host[:port]")
    return host


def _checked(made: objects_pb2.Credential) -> objects_pb2.Credential:
    made.has_password = False
    for field in ("username", "password", "helper", "ca"):
        text = getattr(made, field)
        if len(text) > TEXT_LENGTH_MAX:
            raise Invalid(f"{field}: longer than {TEXT_LENGTH_MAX} characters")
        if field != "ca" and not text.isprintable():
            raise Invalid(f"{field}: has control characters")
    if made.helper and (made.username or made.password):
        raise Invalid("helper: a helper finds user and password itself, give one or the other")
    if bool(made.username) != bool(made.password):
        raise Invalid("username, password: one is no use without the other")
    if made.helper:
        _program(made.helper)
    if len(made.mirrors) > MIRRORS_MAX:
        raise Invalid(f"mirrors: {MIRRORS_MAX} at most")
    for mirror in made.mirrors:
        if not _MIRROR.fullmatch(mirror):
            raise Invalid(f"mirrors: {mirror[:80]!r} is no host[:port][/path]")
    return made


def _program(helper: str) -> list[str]:
    try:
        words = shlex.split(helper)
    except ValueError as error:
        raise Invalid(f"helper: {error}") from error
    name = words[0].rpartition("/")[2] if words else ""
    if not name.startswith("docker-credential-") and not helper.startswith("/"):
        raise Invalid("helper: is neither a docker-credential-NAME program nor the absolute path of one")
    return words


# -- what a pull gets -------------------------------------------------------------------


def check_needs(view: View, node_id: str, reference: str) -> None:
    """Forbidden unless a task of the node needs an image from this registry."""
    wanted = registry_of(reference)
    for task in view.tasks_of_node(node_id):
        if is_living(task) and any(
            registry_of(container.image) == wanted for container in pods.containers(task.spec)
        ):
            return
    raise Forbidden(f"no task of node {node_id} has an image from registry {wanted}")


async def access_for(store: Store, reference: str) -> types_pb2.RegistryAccess:
    """All that is known of the reference's registry and its mirrors; runs helpers. Raises Refused."""
    registry = registry_of(reference)
    found = store.by_name(store_pb2.KIND_CREDENTIAL, registry)
    if not isinstance(found, objects_pb2.Credential):
        return types_pb2.RegistryAccess(registry=registry)
    access = await _access(found, registry)
    access.mirrors.extend(await _mirrors(store, found.mirrors))
    return access


async def _mirrors(store: Store, mirrors: Iterable[str]) -> list[types_pb2.RegistryAccess]:
    result = []
    for mirror in mirrors:
        known = store.by_name(store_pb2.KIND_CREDENTIAL, mirror.partition("/")[0])
        access = types_pb2.RegistryAccess(registry=mirror)
        if isinstance(known, objects_pb2.Credential):
            try:
                access = await _access(known, mirror)
            except Refused as error:  # the registry itself remains
                log.warning("mirror without its credentials mirror=%s error=%s", mirror, error)
        result.append(access)
    return result


async def _access(found: objects_pb2.Credential, registry: str) -> types_pb2.RegistryAccess:
    username, password = found.username, found.password
    if found.helper:
        username, password = await ask_helper(found.helper, found.meta.name)
    return types_pb2.RegistryAccess(
        registry=registry, username=username, password=password, insecure=found.insecure, ca=found.ca
    )


async def ask_helper(helper: str, registry: str) -> tuple[str, str]:
    """User and password from `HELPER get`. Raises Refused."""
    what = f"credential helper {helper!r} for registry {registry}"
    key = HUB_KEY if registry == DEFAULT_REGISTRY else registry
    try:
        process = await asyncio.create_subprocess_exec(
            *_program(helper), "get", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE, limit=HELPER_BYTES_MAX,
        )  # fmt: skip
    except OSError as error:
        raise Refused(f"{what} cannot be run on this manager: {error.strerror}; install it there") from error
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        async with asyncio.timeout(HELPER_TIMEOUT_S):
            process.stdin.write(key.encode())
            process.stdin.close()
            answer, complaint = await asyncio.gather(_all_of(process.stdout), _all_of(process.stderr))
            status = await process.wait()
    except (TimeoutError, ConnectionError):
        raise Refused(f"{what} did not answer within {HELPER_TIMEOUT_S:.0f} s") from None
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    if status:
        said = (complaint or answer).decode(errors="replace").strip()[:300]
        raise Refused(f"{what} failed: {said or f'status {status}'}")
    try:
        value = json.loads(answer)
        username, password = str(value["Username"]), str(value["Secret"])
    except (ValueError, KeyError, TypeError) as error:
        raise Refused(f"{what} did not answer with Username and Secret") from error
    return username, password


async def _all_of(stream: asyncio.StreamReader) -> bytes:
    """To its end, but no more than is kept; the rest is read and dropped."""
    data = b""
    while more := await stream.read(HELPER_BYTES_MAX):
        data = (data + more)[:HELPER_BYTES_MAX]
    return data
