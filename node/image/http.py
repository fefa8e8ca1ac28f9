"""One HTTP request to a registry: connection, TLS, proxy, redirects, plain errors.

Blocking, for a thread. Redirects are followed by hand, because the Authorization
header must not reach another host. Every socket operation has a deadline.
"""

from __future__ import annotations

import http.client
import os
import ssl
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from swarmpy.node.image.errors import RegistryUnreachable

TIMEOUT_S = 30.0
REDIRECTS_MAX = 5
_REDIRECTS = frozenset({301, 302, 303, 307, 308})


@contextmanager
def requested(
    method: str, url: str, headers: Mapping[str, str], *, insecure: bool, ca: str = ""
) -> Iterator[http.client.HTTPResponse]:
    """The final response, open for reading; RegistryUnreachable for anything below HTTP."""
    origin = urllib.parse.urlsplit(url)
    send = dict(headers)
    for _ in range(REDIRECTS_MAX + 1):
        parts = urllib.parse.urlsplit(url)
        _check_url(parts, origin, insecure)
        if (parts.scheme, parts.netloc) != (origin.scheme, origin.netloc):
            send.pop("Authorization", None)
        connection = _connection(parts, insecure, ca)
        try:
            response = _exchange(connection, method, parts, send)
            location = response.getheader("Location")
            if response.status not in _REDIRECTS or not location:
                with _clear_errors(parts):
                    yield response
                return
            url = urllib.parse.urljoin(url, location)
        finally:
            connection.close()
    raise RegistryUnreachable(f"registry {origin.netloc}: more than {REDIRECTS_MAX} redirects")


def _check_url(parts: urllib.parse.SplitResult, origin: urllib.parse.SplitResult, insecure: bool) -> None:
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise RegistryUnreachable(
            f"registry {origin.netloc}: a redirect to {parts.geturl()[:200]!r}, no web address"
        )
    if origin.scheme == "https" and parts.scheme == "http" and not insecure:
        raise RegistryUnreachable(
            f"registry {origin.netloc}: a redirect from https to http ({parts.netloc}), refused"
        )


def _connection(parts: urllib.parse.SplitResult, insecure: bool, ca: str) -> http.client.HTTPConnection:
    assert parts.hostname is not None
    host, port = parts.hostname, parts.port
    proxy = _proxy(parts)
    if parts.scheme == "https":
        context = _context(parts, ca)
        if insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if proxy is None:
            return http.client.HTTPSConnection(host, port, timeout=TIMEOUT_S, context=context)
        tunnel = http.client.HTTPSConnection(proxy[0], proxy[1], timeout=TIMEOUT_S, context=context)
        tunnel.set_tunnel(host, port or 443)
        return tunnel
    if proxy is not None:
        return http.client.HTTPConnection(proxy[0], proxy[1], timeout=TIMEOUT_S)
    return http.client.HTTPConnection(host, port, timeout=TIMEOUT_S)


def _context(parts: urllib.parse.SplitResult, ca: str) -> ssl.SSLContext:
    """`ca`: PEM of authorities trusted beside the system's."""
    context = ssl.create_default_context()
    if ca:
        try:
            context.load_verify_locations(cadata=ca)
        except (ssl.SSLError, ValueError) as error:
            raise RegistryUnreachable(
                f"registry {parts.netloc}: its CA is no PEM certificate ({error})"
            ) from error
    return context


def _proxy(parts: urllib.parse.SplitResult) -> tuple[str, int] | None:
    """From HTTPS_PROXY, HTTP_PROXY and NO_PROXY, as every other tool reads them."""
    text = urllib.request.getproxies().get(parts.scheme)
    if not text or urllib.request.proxy_bypass(parts.hostname or ""):
        return None
    proxy = urllib.parse.urlsplit(text if "//" in text else f"http://{text}")
    return (proxy.hostname, proxy.port or 3128) if proxy.hostname else None


def _exchange(
    connection: http.client.HTTPConnection,
    method: str,
    parts: urllib.parse.SplitResult,
    headers: Mapping[str, str],
) -> http.client.HTTPResponse:
    target = urllib.parse.urlunsplit(("", "", parts.path or "/", parts.query, ""))
    if parts.scheme == "http" and _proxy(parts) is not None:
        target = parts.geturl()
    with _clear_errors(parts):
        connection.request(method, target, headers={"User-Agent": "swarmpy", **headers})
        return connection.getresponse()


@contextmanager
def _clear_errors(parts: urllib.parse.SplitResult) -> Iterator[None]:
    where = f"registry {parts.netloc}"
    try:
        yield
    except ssl.SSLCertVerificationError as error:
        raise RegistryUnreachable(
            f"{where}: its certificate is not trusted ({error.verify_message}); "
            f"give the cluster its CA: swarmpy registry trust {parts.netloc} --ca FILE"
        ) from error
    except ssl.SSLError as error:
        raise RegistryUnreachable(
            f"{where} does not speak TLS on this port ({error.reason or error}); "
            f"if that is meant, say so: swarmpy registry trust {parts.netloc} --insecure"
        ) from error
    except TimeoutError as error:
        raise RegistryUnreachable(
            f"{where} did not answer within {TIMEOUT_S:.0f} s; check address and firewall"
        ) from error
    except http.client.HTTPException as error:
        raise RegistryUnreachable(
            f"{where} broke off or does not speak HTTP ({type(error).__name__})"
        ) from error
    except OSError as error:
        if error.filename is not None:
            raise  # a file of ours, not the network
        text = error.strerror or os.strerror(error.errno or 0)
        raise RegistryUnreachable(
            f"{where} cannot be reached: {text}; check its name and the network"
        ) from error
