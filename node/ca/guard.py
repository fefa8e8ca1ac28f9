"""A gRPC server whose every call is checked before its handler runs.

Interceptors of grpc.aio see no peer certificate, so the handlers themselves are
wrapped. `GuardedServer` stands in for a server in `add_XServicer_to_server` and
opens listeners of three sorts: mTLS (nodes), the join port (server certificate
only), and a unix socket (the machine's root). On each call: TLS 1.3, one CN, OU
and O, this cluster, not expired, not removed, and the method in the access
table; else UNAUTHENTICATED or PERMISSION_DENIED. An open connection survives
expiry and removal of its certificate, so a stream is ended from inside its
handler when the certificate expires or `end_streams` names its node.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import inspect
import logging
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NoReturn, Protocol, TypeAlias

import grpc
import grpc.aio
from cryptography import x509
from swarmpy.node.ca.access import LOCAL_ROOT, Caller, may_call
from swarmpy.node.ca.authority import PeerIdentity, read_leaf
from swarmpy.node.ca.errors import BadCertificate, ListenError
from swarmpy.node.ca.identity import IdentitySource
from swarmpy.node.ca.tls import Options, join_server_credentials, server_credentials, server_options
from swarmpy.proto import types_pb2

log = logging.getLogger(__name__)

ACTOR_METADATA = "swarmpy-actor"
ACTOR_CHARACTERS_MAX = 200
EXPIRY_CHECK_S_MAX = 3600.0
HANDLER_CLEANUP_S = 5.0

# Generic only in the stubs.
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


class Shown(Protocol):
    """What the checks ask of a call's context."""

    def auth_context(self) -> Mapping[str, Iterable[bytes]]: ...
    def invocation_metadata(self) -> Any: ...
    def peer(self) -> str: ...


Authenticate = Callable[[Shown], tuple[Caller, int]]

_caller: contextvars.ContextVar[Caller] = contextvars.ContextVar("swarmpy_caller")
_permit: contextvars.ContextVar[Callable[[str], Caller]] = contextvars.ContextVar("swarmpy_permit")


class Denied(Exception):
    """The call is refused with this status and sentence."""

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        super().__init__(details)
        self.code = code
        self.details = details


def current_caller() -> Caller:
    """Who made the call being handled. Only inside a handler of a GuardedServer."""
    return _caller.get()


def permitted(method: str) -> Caller:
    """Who makes the call being handled, checked anew for `method`: for a stream that carries calls.

    What was true when the stream began may have changed. Raises Denied.
    """
    return _permit.get()(method)


def actor_metadata(caller: Caller) -> tuple[tuple[str, str], ...]:
    """Metadata for a manager that passes a call on: the leader then sees the same actor."""
    return ((ACTOR_METADATA, caller.actor),)


class GuardedServer:
    """Collects servicers, then serves them on guarded listeners.

    `is_active(node_id, serial)` says whether the node is still a member;
    `is_manager(node_id)`, where the store is at hand, whether a certificate that
    says manager is still right. Add servicers, listen, then `start`.
    """

    def __init__(
        self,
        cluster_id: str,
        is_active: Callable[[str, int], bool],
        *,
        is_manager: Callable[[str], bool] | None = None,
        options: Options | None = None,
        concurrent_calls_max: int | None = None,
    ) -> None:
        self._cluster_id = cluster_id
        self._is_active = is_active
        self._is_manager = is_manager
        self._options = server_options() if options is None else options
        self._concurrent_calls_max = concurrent_calls_max
        self._methods: dict[str, dict[str, Handler]] = {}
        self._generic: list[grpc.GenericRpcHandler[Any, Any]] = []
        self._listeners: list[tuple[grpc.aio.Server, Authenticate]] = []
        self._unix_paths: list[Path] = []
        self._streams: dict[str, set[asyncio.Future[str]]] = {}

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Handler]) -> None:
        """Called by generated `add_XServicer_to_server`."""
        self._methods.setdefault(service, {}).update(handlers)

    def add_generic_rpc_handlers(self, handlers: Iterable[grpc.GenericRpcHandler[Any, Any]]) -> None:
        """Called by generated `add_XServicer_to_server`."""
        self._generic.extend(handlers)

    def listen(self, address: str, identity: IdentitySource) -> int:
        """Serve nodes at `host:port` by mTLS; returns the port. Raises ListenError."""
        return self._secure(address, server_credentials(identity), self._certified)

    def listen_join(self, address: str, identity: IdentitySource) -> int:
        """Serve the join port: callers are nobody until they show a token. Raises ListenError."""
        return self._secure(address, join_server_credentials(identity), self._nobody)

    def listen_unix(self, path: Path) -> None:
        """Serve the machine's root on a unix socket in a 0700 directory. Raises ListenError."""
        if len(os.fsencode(path)) > 100:
            raise ListenError(f"the socket path {path} is longer than 100 bytes; use a shorter --state-dir")
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.parent.chmod(0o700)
        path.unlink(missing_ok=True)
        server = self._server()
        try:
            server.add_insecure_port(f"unix:{path}")
        except RuntimeError as error:
            raise ListenError(f"cannot listen on {path}: {error}") from error
        path.chmod(0o600)
        self._unix_paths.append(path)
        self._listeners.append((server, self._local_root))

    async def start(self) -> None:
        """Start accepting on every listener."""
        for server, authenticate in self._listeners:
            server.add_generic_rpc_handlers(
                [_GuardedGeneric(self, generic, authenticate) for generic in self._generic]
            )
            for service, handlers in self._methods.items():
                guarded = {
                    name: self.guard(f"/{service}/{name}", handler, authenticate)
                    for name, handler in handlers.items()
                }
                # Missing from the stubs; generated code calls it too.
                server.add_registered_method_handlers(service, guarded)  # type: ignore[attr-defined]
            await server.start()

    async def stop(self, grace_s: float = 1.0) -> None:
        """Refuse new calls, give running ones `grace_s`, then end them."""
        await asyncio.gather(*(server.stop(grace_s) for server, _ in self._listeners))
        for path in self._unix_paths:
            path.unlink(missing_ok=True)

    def end_streams(self, node_id: str, reason: str = "removed from the cluster") -> int:
        """Abort the node's open streams (within one turn of the loop); returns how many."""
        ended = 0
        for revoked in self._streams.get(node_id, set()):
            if not revoked.done():
                revoked.set_result(f"node {node_id} was {reason}")
                ended += 1
        return ended

    def _server(self) -> grpc.aio.Server:
        return grpc.aio.server(options=self._options, maximum_concurrent_rpcs=self._concurrent_calls_max)

    def _secure(self, address: str, credentials: grpc.ServerCredentials, authenticate: Authenticate) -> int:
        server = self._server()
        try:
            port = server.add_secure_port(address, credentials)
        except RuntimeError as error:
            raise ListenError(
                f"cannot listen on {address}: the address is not this machine's or the port is in use; "
                "stop the other process or choose another port"
            ) from error
        self._listeners.append((server, authenticate))
        return port

    def _certified(self, context: Shown) -> tuple[Caller, int]:
        auth = context.auth_context()
        version = _only(auth.get("ssl_tls_version"))
        if version != b"TLSv1.3":
            raise _unauthenticated("the connection does not use TLS 1.3")
        pem = _only(auth.get("x509_pem_cert"))
        if pem is None:
            raise _unauthenticated("the connection shows no client certificate")
        try:
            peer = _read_pem(pem)
        except BadCertificate as error:
            raise _unauthenticated(str(error)) from error
        if peer.cluster_id != self._cluster_id:
            raise _unauthenticated(
                f"node {peer.node_id} belongs to cluster {peer.cluster_id}, not to this one"
            )
        if peer.expires_ms <= _now_ms():
            raise _unauthenticated(f"the certificate of node {peer.node_id} has expired; restart it to renew")
        if not self._is_active(peer.node_id, peer.serial):
            raise _unauthenticated(f"node {peer.node_id} is not a member of the cluster; join it again")
        if peer.role == types_pb2.ROLE_WORKER:
            return Caller("worker", peer.node_id, peer.cluster_id, f"node:{peer.node_id}"), peer.expires_ms
        if self._is_manager is not None and not self._is_manager(peer.node_id):
            return Caller("worker", peer.node_id, peer.cluster_id, f"node:{peer.node_id}"), peer.expires_ms
        actor = _passed_on_actor(context) or f"node:{peer.node_id}"
        return Caller("manager", peer.node_id, peer.cluster_id, actor), peer.expires_ms

    def _nobody(self, context: Shown) -> tuple[Caller, int]:
        if _only(context.auth_context().get("ssl_tls_version")) != b"TLSv1.3":
            raise _unauthenticated("the connection does not use TLS 1.3")
        return Caller("none", "", self._cluster_id, "joining"), 0

    def _local_root(self, _context: Shown) -> tuple[Caller, int]:
        return Caller("user", "", self._cluster_id, LOCAL_ROOT), 0

    def guard(self, method: str, handler: Handler, authenticate: Authenticate) -> Handler:
        """The handler with the check in front of it."""
        streams = handler.request_streaming or handler.response_streaming
        make: Any
        if handler.request_streaming:
            inner: Any = handler.stream_stream if handler.response_streaming else handler.stream_unary
            make = (
                grpc.stream_stream_rpc_method_handler
                if handler.response_streaming
                else grpc.stream_unary_rpc_method_handler
            )
        else:
            inner = handler.unary_stream if handler.response_streaming else handler.unary_unary
            make = (
                grpc.unary_stream_rpc_method_handler
                if handler.response_streaming
                else grpc.unary_unary_rpc_method_handler
            )
        if not (inspect.iscoroutinefunction(inner) or inspect.isasyncgenfunction(inner)):
            inner = _not_served  # what the generated base class does for a method nobody wrote

        async def checked(request: Any, context: Context) -> Any:
            try:
                caller, expires_ms = _permitted(authenticate, context, method)
            except Denied as denied:
                await _abort(context, denied.code, denied.details)
            _caller.set(caller)
            if not streams:
                return await inner(request, context)
            seen = _Seen(context)
            _permit.set(lambda other: _permitted(authenticate, seen, other)[0])
            return await self._run_stream(_pump(inner, request, context), context, caller, expires_ms)

        return make(  # type: ignore[no-any-return]
            checked,
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )

    async def _run_stream(
        self, work: Awaitable[Any], context: Context, caller: Caller, expires_ms: int
    ) -> Any:
        """Run the handler until it ends, its node is removed or its certificate expires."""
        revoked: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._streams.setdefault(caller.node_id, set()).add(revoked)
        task = asyncio.ensure_future(work)
        try:
            while not task.done() and not revoked.done():
                left_s = EXPIRY_CHECK_S_MAX if not expires_ms else (expires_ms - _now_ms()) / 1000
                if left_s <= 0:
                    revoked.set_result(f"the certificate of node {caller.node_id} has expired; renew it")
                    break
                await asyncio.wait(
                    {task, revoked},
                    timeout=min(left_s, EXPIRY_CHECK_S_MAX),
                    return_when=asyncio.FIRST_COMPLETED,
                )
            if task.done():
                return task.result()
            log.warning("stream ended node=%s reason=%s", caller.node_id, revoked.result())
            # First the status, then the handler: its cleanup must not delay the refusal.
            # What abort raises has to arrive as it is: grpc takes another one for a broken handler.
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, revoked.result())
        finally:
            self._streams[caller.node_id].discard(revoked)
            if not self._streams[caller.node_id]:
                del self._streams[caller.node_id]
            if not task.done():
                task.cancel()
                await asyncio.wait({task}, timeout=HANDLER_CLEANUP_S)
            failure = task.exception() if task.done() and not task.cancelled() else None
            if revoked.done() and failure is not None and not isinstance(failure, grpc.aio.AbortError):
                log.error("stream cleanup failed node=%s", caller.node_id, exc_info=failure)


class _Seen:
    """What a stream's context says; asked once: its connection never says anything else."""

    def __init__(self, context: Context) -> None:
        self._auth, self._metadata = context.auth_context(), context.invocation_metadata()
        self._peer = context.peer()

    def auth_context(self) -> Mapping[str, Iterable[bytes]]:
        return self._auth

    def invocation_metadata(self) -> Any:
        return self._metadata

    def peer(self) -> str:
        return self._peer


class _GuardedGeneric(grpc.GenericRpcHandler):  # type: ignore[type-arg]
    """A generic handler that hands out guarded handlers."""

    def __init__(
        self, server: GuardedServer, inner: grpc.GenericRpcHandler[Any, Any], authenticate: Authenticate
    ) -> None:
        self._server = server
        self._inner = inner
        self._authenticate = authenticate

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Handler | None:
        handler = self._inner.service(handler_call_details)
        if handler is None:
            return None
        return self._server.guard(handler_call_details.method, handler, self._authenticate)


def _permitted(authenticate: Authenticate, context: Shown, method: str) -> tuple[Caller, int]:
    """Who calls, and until when the certificate is good. Raises Denied."""
    try:
        caller, expires_ms = authenticate(context)
        if not may_call(caller.kind, method):
            raise Denied(grpc.StatusCode.PERMISSION_DENIED, _not_allowed(caller, method))
    except Denied as denied:
        log.warning("call denied method=%s peer=%s reason=%s", method, context.peer(), denied)
        raise
    return caller, expires_ms


async def _pump(inner: Callable[[Any, Any], Any], request: Any, context: Context) -> Any:
    """Run a streaming handler, whichever of its two forms it has."""
    if not inspect.isasyncgenfunction(inner):
        return await inner(request, context)
    messages: AsyncIterator[Any] = inner(request, context)
    async with contextlib.aclosing(messages):  # type: ignore[type-var]
        async for message in messages:
            await context.write(message)
            del message  # nobody needs it while the next one is waited for, and it may be a megabyte
    return None


async def _not_served(_request: Any, context: Context) -> NoReturn:
    await _abort(context, grpc.StatusCode.UNIMPLEMENTED, "this node does not serve the method")


async def _abort(context: Context, code: grpc.StatusCode, details: str) -> NoReturn:
    await context.abort(code, details)
    raise AssertionError("abort returned")


@functools.lru_cache(maxsize=4096)
def _read_pem(pem: bytes) -> PeerIdentity:
    try:
        return read_leaf(x509.load_pem_x509_certificate(pem))
    except ValueError as error:
        raise BadCertificate(f"the client certificate cannot be read: {error}") from error


def _only(values: Iterable[bytes] | None) -> bytes | None:
    """The single value of an authentication property, else None."""
    found = list(values or ())
    return found[0] if len(found) == 1 else None


def _unauthenticated(details: str) -> Denied:
    return Denied(grpc.StatusCode.UNAUTHENTICATED, details)


def _not_allowed(caller: Caller, method: str) -> str:
    who = {"none": "an unidentified caller", "user": "a user", "worker": "a worker", "manager": "a manager"}
    return f"{who[caller.kind]} may not call {method}"


def _passed_on_actor(context: Shown) -> str:
    for key, value in context.invocation_metadata() or ():
        if key == ACTOR_METADATA and isinstance(value, str):
            return value if value.isprintable() and len(value) <= ACTOR_CHARACTERS_MAX else ""
    return ""


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
