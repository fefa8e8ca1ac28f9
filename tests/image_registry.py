"""A real registry for tests: the read side of the OCI distribution API over HTTP(S), with faults on order."""

from __future__ import annotations

import base64
import json
import ssl
import threading
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

from swarmpy.node.image import manifest

USER, PASSWORD, TOKEN = "alice", "secret", "token-of-alice"


class TestRegistry:
    """`auth`: "", "basic" or "token". Counters and switches are plain attributes."""

    __test__ = False

    def __init__(
        self, *, auth: str = "", tls: ssl.SSLContext | None = None, address: str = "127.0.0.1"
    ) -> None:
        self.auth = auth
        self.documents: dict[tuple[str, str], bytes] = {}
        self.blobs: dict[str, bytes] = {}
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.cut_blobs_at: list[int] = []  # the next blob answers break off after so many bytes
        self.fail_next: list[int] = []  # the next requests get these statuses
        self.redirect_blobs_to = ""
        self.send_digest = True
        self.may_send_blobs = threading.Event()  # cleared: blobs are long in coming
        self.may_send_blobs.set()
        registry = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                registry.answer(self)

            do_HEAD = do_GET

            def log_message(self, *arguments: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            def handle_error(self, *arguments: Any) -> None:
                """A client that leaves is no fault here."""

        self._server = Server((address, 0), Handler)
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self.host = f"{address}:{self._server.server_address[1]}"
        self.url = f"{'https' if tls else 'http'}://{self.host}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def put(self, repository: str, tag: str, document: bytes, blobs: dict[str, bytes]) -> str:
        """Publish an image; the reference to pull it by."""
        self.documents[repository, tag] = document
        self.documents[repository, manifest.sha256(document)] = document
        self.blobs.update(blobs)
        return f"{self.host}/{repository}:{tag}"

    def asked(self, kind: str) -> int:
        return sum(1 for method, path, _ in self.requests if method == "GET" and f"/{kind}/" in path)

    # -- answering ------------------------------------------------------------------

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        path = urllib.parse.urlsplit(handler.path)
        self.requests.append((handler.command, handler.path, dict(handler.headers)))
        if self.fail_next:
            self._send(handler, self.fail_next.pop(0), b"{}")
        elif path.path == "/token":
            self._token(handler, urllib.parse.parse_qs(path.query))
        elif path.path.startswith("/elsewhere/"):
            self._blob(handler, path.path.rpartition("/")[2])
        elif not self._allowed(handler, path.path):
            self._challenge(handler, path.path)
        elif path.path == "/v2/":
            self._send(handler, 200, b"{}")
        elif "/manifests/" in path.path:
            repository, _, selector = path.path.removeprefix("/v2/").partition("/manifests/")
            self._document(handler, repository, selector)
        elif self.redirect_blobs_to:
            location = f"{self.redirect_blobs_to}/elsewhere/{path.path.rpartition('/')[2]}"
            self._send(handler, 307, b"", Location=location)
        else:
            self._blob(handler, path.path.rpartition("/")[2])

    def _allowed(self, handler: BaseHTTPRequestHandler, path: str) -> bool:
        given = handler.headers.get("Authorization", "")
        basic = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        return not self.auth or given == {"basic": basic, "token": f"Bearer {TOKEN}"}[self.auth]

    def _challenge(self, handler: BaseHTTPRequestHandler, path: str) -> None:
        repository = path.removeprefix("/v2/").partition("/manifests/")[0].partition("/blobs/")[0]
        scope = f"repository:{repository}:pull"
        bearer = f'Bearer realm="{self.url}/token",service="test",scope="{scope}"'
        error = {"errors": [{"code": "UNAUTHORIZED", "message": "authentication required"}]}
        challenge = {"WWW-Authenticate": bearer if self.auth == "token" else 'Basic realm="test"'}
        self._send(handler, 401, json.dumps(error).encode(), **challenge)

    def _token(self, handler: BaseHTTPRequestHandler, query: dict[str, list[str]]) -> None:
        basic = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        if handler.headers.get("Authorization") != basic or query.get("service") != ["test"]:
            self._send(handler, 401, b"{}")
        else:
            self._send(handler, 200, json.dumps({"token": TOKEN}).encode())

    def _document(self, handler: BaseHTTPRequestHandler, repository: str, selector: str) -> None:
        data = self.documents.get((repository, selector))
        if data is None:
            error = {"errors": [{"code": "MANIFEST_UNKNOWN", "message": "manifest unknown"}]}
            self._send(handler, 404, json.dumps(error).encode())
            return
        headers = {"Docker-Content-Digest": manifest.sha256(data)} if self.send_digest else {}
        self._send(handler, 200, data, **headers)

    def _blob(self, handler: BaseHTTPRequestHandler, digest: str) -> None:
        self.may_send_blobs.wait(60)
        data = self.blobs.get(digest)
        if data is None:
            self._send(handler, 404, b"{}")
            return
        start = 0
        if (span := handler.headers.get("Range", "")).startswith("bytes="):
            start = int(span.removeprefix("bytes=").partition("-")[0])
        cut = self.cut_blobs_at.pop(0) if self.cut_blobs_at else None
        self._send(handler, 206 if start else 200, data[start:], cut=cut)

    def _send(
        self,
        handler: BaseHTTPRequestHandler,
        status: int,
        data: bytes,
        cut: int | None = None,
        **headers: str,
    ) -> None:
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(data)))
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.end_headers()
        if handler.command != "HEAD":
            handler.wfile.write(data[:cut])
        if cut is not None:
            handler.close_connection = True
