"""Client of the OCI distribution API, read only: manifests and blobs, anonymous, basic or token.

Blocking, for threads of a pool; one Registry per pull. Retries what may pass
(no connection, 429, 5xx) a bounded number of times; `stop` ends waits and transfers.
"""

from __future__ import annotations

import http.client
import logging
import re
import threading
import urllib.parse
from collections.abc import Callable, Mapping
from typing import TypeVar

from swarmpy.node.image import manifest
from swarmpy.node.image.access import Access, Stopped
from swarmpy.node.image.blobs import Ingest
from swarmpy.node.image.compression import CHUNK
from swarmpy.node.image.errors import (
    AuthRequired,
    DigestMismatch,
    ImageError,
    ImageNotFound,
    RegistryUnreachable,
)  # fmt: skip
from swarmpy.node.image.http import requested
from swarmpy.node.image.limits import MANIFEST_BYTES_MAX
from swarmpy.node.image.manifest import Descriptor
from swarmpy.node.image.reference import (
    DEFAULT_REGISTRY,
    Reference,
    is_digest,
    is_loopback_host,
    split_host_port,
)  # fmt: skip

log = logging.getLogger(__name__)
T = TypeVar("T")
RETRY_DELAYS_S = (0.3, 1.0, 3.0)
RETRY_AFTER_S_MAX = 20.0
TOKEN_BYTES_MAX = 256 * 1024
HUB_HOST = "registry-1.docker.io"
_PARAMETER = re.compile(r'(\w+)=(?:"([^"]*)"|([^\s,]+))')


class _Place:
    """One host that may have the image: a mirror, or the registry itself."""

    def __init__(self, access: Access, reference: Reference, *, mirror: bool) -> None:
        self.mirror = mirror
        self.given_up = False
        self.credentials, self.ca = access.credentials, access.ca
        self.lock = threading.Lock()
        self.authorization = ""
        self.name, _, path = (access.registry if mirror else reference.registry).partition("/")
        loopback = is_loopback_host(split_host_port(self.name)[0])
        self.insecure = access.insecure or loopback
        host = HUB_HOST if self.name == DEFAULT_REGISTRY else self.name
        if loopback:
            # A certificate or a wish for one says that it speaks TLS.
            schemes: tuple[str, ...] = ("https",) if access.ca else ("http",)
            self.insecure = not access.ca
        else:
            schemes = ("https", "http") if access.insecure else ("https",)
        repository = f"{path}/{reference.repository}" if path else reference.repository
        self.root = [f"{scheme}://{host}/v2/" for scheme in schemes]
        self.bases = [f"{root}{repository}" for root in self.root]


class Registry:
    def __init__(
        self,
        reference: Reference,
        *,
        access: Access | None = None,
        stop: threading.Event | None = None,
    ) -> None:
        access = access or Access()
        self._reference = reference
        self._stop = stop or threading.Event()
        self._checking = False
        self._places = [_Place(mirror, reference, mirror=True) for mirror in access.mirrors]
        self._places.append(_Place(access, reference, mirror=False))

    # -- what callers ask -------------------------------------------------------------

    def resolve(self) -> str:
        """The digest that the tag has now: of the index where there is one."""

        def ask(response: http.client.HTTPResponse) -> str:
            return response.getheader("Docker-Content-Digest") or ""

        digest = self._get(f"/manifests/{self._reference.selector}", ask, method="HEAD", accept=True)
        if is_digest(digest):
            return digest
        return manifest.sha256(self.manifest(self._reference.selector))

    def check(self) -> None:
        """Whether the registry takes these credentials; AuthRequired if not."""
        place = self._places[-1]
        place.bases = place.root
        self._checking = True
        self._get("", lambda response: response.read(1024))

    def manifest(self, selector: str) -> bytes:
        """A manifest or index by tag or digest, verified against the digest."""

        def read(response: http.client.HTTPResponse) -> bytes:
            data = response.read(MANIFEST_BYTES_MAX + 1)
            if len(data) > MANIFEST_BYTES_MAX:
                raise DigestMismatch(f"{self._reference}: a manifest beyond {MANIFEST_BYTES_MAX} bytes")
            announced = selector if is_digest(selector) else response.getheader("Docker-Content-Digest") or ""
            if is_digest(announced) and manifest.sha256(data) != announced:
                raise DigestMismatch(
                    f"{self._reference}: the registry's manifest is {manifest.sha256(data)}, "
                    f"not {announced}; a proxy or the registry changed it"
                )
            return data

        return self._get(f"/manifests/{selector}", read, accept=True)

    def blob(self, blob: Descriptor, ingest: Ingest, tick: Callable[[int], None]) -> None:
        """Bring the rest of a blob into `ingest`; continues after a broken connection."""

        def read(response: http.client.HTTPResponse) -> None:
            if response.status != 206 and ingest.offset:
                ingest.restart()
            while data := response.read(CHUNK):
                if self._stop.is_set():
                    raise Stopped(f"{self._reference}: the transfer was stopped")
                ingest.write(data)
                tick(ingest.offset)
            if ingest.offset < blob.size:
                raise RegistryUnreachable(
                    f"registry {self._reference.registry} ended blob {blob.digest} "
                    f"at byte {ingest.offset} of {blob.size}"
                )
            ingest.verify()

        def headers() -> dict[str, str]:
            return {"Range": f"bytes={ingest.offset}-"} if ingest.offset else {}

        if ingest.offset < blob.size:
            self._get(f"/blobs/{blob.digest}", read, headers=headers)

    # -- asking -------------------------------------------------------------------

    def _get(
        self,
        path: str,
        read: Callable[[http.client.HTTPResponse], T],
        *,
        method: str = "GET",
        accept: bool = False,
        headers: Callable[[], Mapping[str, str]] = dict,
    ) -> T:
        """Ask until there is an answer, at most 1 + len(RETRY_DELAYS_S) times."""
        for delay_s in (*RETRY_DELAYS_S, None):
            try:
                return self._ask(
                    path,
                    read,
                    method,
                    {**({"Accept": ", ".join(manifest.ACCEPTED)} if accept else {})},
                    headers,
                )
            except RegistryUnreachable as error:
                if delay_s is None or not error.retryable:
                    raise
                log.info("registry asked again registry=%s error=%s", self._reference.registry, error)
                if self._stop.wait(max(delay_s, getattr(error, "retry_after_s", 0.0))):
                    raise Stopped(f"{self._reference}: the transfer was stopped") from error
        raise AssertionError("unreachable")

    def _ask(
        self,
        path: str,
        read: Callable[[http.client.HTTPResponse], T],
        method: str,
        fixed: dict[str, str],
        headers: Callable[[], Mapping[str, str]],
    ) -> T:
        """The mirrors first; one that fails is not asked again for this image."""
        for place in self._places:
            if place.given_up:
                continue
            try:
                return self._ask_place(place, path, read, method, fixed, headers)
            except (RegistryUnreachable, AuthRequired, DigestMismatch, ImageNotFound) as error:
                if not place.mirror:
                    raise
                log.info("mirror passed over mirror=%s error=%s", place.name, error)
                place.given_up = not isinstance(error, ImageNotFound)
        raise AssertionError("unreachable")

    def _ask_place(
        self,
        place: _Place,
        path: str,
        read: Callable[[http.client.HTTPResponse], T],
        method: str,
        fixed: dict[str, str],
        headers: Callable[[], Mapping[str, str]],
    ) -> T:
        last = len(place.bases) - 1
        for number, base in enumerate(list(place.bases)):
            try:
                answer = self._ask_base(place, base, path, read, method, fixed, headers)
            except RegistryUnreachable:
                if number == last:
                    raise
                continue
            place.bases = [base]  # the scheme that works
            return answer
        raise AssertionError("unreachable")

    def _ask_base(
        self,
        place: _Place,
        base: str,
        path: str,
        read: Callable[[http.client.HTTPResponse], T],
        method: str,
        fixed: dict[str, str],
        headers: Callable[[], Mapping[str, str]],
    ) -> T:
        for attempt in (1, 2):
            used = place.authorization
            send = {**fixed, **headers(), **({"Authorization": used} if used else {})}
            with requested(method, base + path, send, insecure=place.insecure, ca=place.ca) as response:
                if response.status in {200, 206}:
                    return read(response)
                if response.status == 416:
                    raise DigestMismatch(
                        f"{self._reference}: the registry has a shorter blob than the manifest says"
                    )
                challenge = response.getheader("WWW-Authenticate") or ""
                if response.status != 401 or attempt == 2:
                    raise self._refused(place, response, path)
            self._authorize(place, challenge, used)
        raise AssertionError("unreachable")

    def _refused(self, place: _Place, response: http.client.HTTPResponse, path: str) -> ImageError:
        where = f"registry {place.name}"
        detail = _detail(response.read(4096))
        if response.status in {401, 403}:
            if self._checking:
                return AuthRequired(f"{where} refuses this user and password{detail}")
            reason = "refuses these credentials for" if place.credentials else "wants credentials for"
            return AuthRequired(
                f"{where} {reason} {self._reference.repository} (or it does not exist){detail}; "
                f"check the name and log in (`swarmpy registry login {place.name}`)"
            )
        if response.status == 404:
            thing = f"blob {path.rpartition('/')[2]} of " if path.startswith("/blobs/") else ""
            return ImageNotFound(f"{where} has no {thing}{self._reference.familiar}; check name and tag")
        if response.status == 429:
            error = RegistryUnreachable(f"{where} limits the rate of requests{detail}; wait, or log in")
            error.__dict__["retry_after_s"] = _seconds(response.getheader("Retry-After"))
            return error
        error = RegistryUnreachable(f"{where} answered {response.status} {response.reason}{detail}")
        error.retryable = response.status >= 500
        return error

    def _authorize(self, place: _Place, challenge: str, used: str) -> None:
        """Answer a 401: one thread fetches the token, the others find it."""
        with place.lock:
            if place.authorization != used:
                return
            scheme, _, rest = challenge.partition(" ")
            if scheme.lower() == "basic" and place.credentials is not None:
                place.authorization = place.credentials.basic()
            elif scheme.lower() == "bearer":
                place.authorization = self._token(
                    place, {m[1].lower(): m[2] or m[3] or "" for m in _PARAMETER.finditer(rest)}
                )
            else:
                raise AuthRequired(
                    f"registry {place.name} wants credentials for {self._reference.repository}; "
                    f"log in (`swarmpy registry login {place.name}`)"
                )

    def _token(self, place: _Place, challenge: Mapping[str, str]) -> str:
        realm = challenge.get("realm", "")
        parts = urllib.parse.urlsplit(realm)
        where = f"registry {place.name}"
        if parts.scheme != "https" and not (parts.scheme == "http" and place.insecure):
            raise AuthRequired(
                f"{where} names {realm[:200]!r} as its token server, which is not https; refused"
            )
        query = {"scope": challenge.get("scope") or f"repository:{self._reference.repository}:pull"}
        if "service" in challenge:
            query["service"] = challenge["service"]
        url = f"{realm}{'&' if parts.query else '?'}{urllib.parse.urlencode(query)}"
        headers = {"Authorization": place.credentials.basic()} if place.credentials else {}
        with requested("GET", url, headers, insecure=place.insecure, ca=place.ca) as response:
            data = response.read(TOKEN_BYTES_MAX)
            if response.status != 200:
                raise (
                    self._refused(place, response, "")
                    if response.status != 404
                    else AuthRequired(f"{where}: its token server {parts.netloc} has no such service")
                )
        value = manifest.parse_json(data, f"{where}: the answer of its token server")
        token = (value.get("token") or value.get("access_token")) if isinstance(value, dict) else None
        if not isinstance(token, str) or not token.isascii() or not token.isprintable():
            raise AuthRequired(f"{where}: its token server gave no token")
        return f"Bearer {token}"


def _detail(body: bytes) -> str:
    """The registry's own words, from its JSON errors."""
    try:
        message = manifest.parse_json(body, "")["errors"][0]["message"]
    except (ImageError, KeyError, IndexError, TypeError):
        return ""
    return f" ({str(message)[:200]})"


def _seconds(text: str | None) -> float:
    return min(float(text), RETRY_AFTER_S_MAX) if text and text.isdigit() else 0.0
