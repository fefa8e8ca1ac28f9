"""Asks a Prometheus server, or a page of metrics, for one number: blocking, with a deadline and a bound.

Loaded with the first question: most clusters have no autoscaler that asks elsewhere.
"""

from __future__ import annotations

import http.client
import json
import math
import re
import time
import urllib.parse
import urllib.request

from swarmpy.node.manager.errors import QueryFailed

REQUEST_TIMEOUT_S = 3.0
ANSWER_BYTES_MAX, READ_BYTES = 4 * 1024 * 1024, 64 * 1024
_LINE = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{([^}]*)\})?\s+(\S+)")


def ask(url: str, query: str) -> float:
    """A number from a Prometheus server (…/api/v1/query) or from a page of metrics. Raises QueryFailed."""
    is_server = urllib.parse.urlsplit(url).path.rstrip("/").endswith("/api/v1/query")
    address = f"{url}?{urllib.parse.urlencode({'query': query})}" if is_server else url
    try:
        with _opener().open(address, timeout=REQUEST_TIMEOUT_S) as answer:
            data, deadline_s = b"", time.monotonic() + REQUEST_TIMEOUT_S
            while len(data) <= ANSWER_BYTES_MAX and (more := answer.read1(READ_BYTES)):
                data += more
                if time.monotonic() > deadline_s:  # each read has its time, all together have it, too
                    raise QueryFailed(f"{url} answers too slowly")
    except QueryFailed:
        raise
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise QueryFailed(f"{url} does not answer: {error}") from error
    if len(data) > ANSWER_BYTES_MAX:
        raise QueryFailed(f"{url} answers with more than {ANSWER_BYTES_MAX >> 20} MiB")
    text = data.decode("utf-8", "replace")
    return from_server(text) if is_server else from_page(text, query)


def _opener() -> urllib.request.OpenerDirector:
    """HTTP and HTTPS and nothing else: no redirects, no proxies, no other schemes."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.UnknownHandler(),
    ):
        opener.add_handler(handler)
    return opener


def from_server(text: str) -> float:
    """The sum of an instant vector, or a scalar."""
    try:
        document = json.loads(text)
        if document["status"] != "success":
            raise QueryFailed(f"the query was refused: {str(document.get('error', ''))[:200]}")
        result = document["data"]["result"]
        if document["data"]["resultType"] == "scalar":
            return finite("the query", float(result[1]))
        if not result:
            raise QueryFailed("the query gives nothing")
        return finite("the query", sum(float(entry["value"][1]) for entry in result))
    except QueryFailed:
        raise
    except (LookupError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise QueryFailed("the answer is not that of a Prometheus query") from error


def finite(what: str, value: float) -> float:
    """Prometheus answers 0/0 with NaN: that is no number to scale by, and least of all a small one."""
    if not math.isfinite(value):
        raise QueryFailed(f"{what} gives {value}, which is no number")
    return value


def from_page(text: str, wanted: str) -> float:
    """The sum of a metric's lines in the text format; labels given must all be there."""
    match = _LINE.fullmatch(f"{wanted.strip()} 0")
    if match is None:
        raise QueryFailed(f'{wanted!r} is no metric such as http_requests_in_flight{{path="/"}}')
    name, labels = match[1], _labels(match[2])
    values = []
    for line in text.splitlines():
        found = _LINE.match(line)
        if found is not None and found[1] == name and labels <= _labels(found[2]):
            try:
                values.append(float(found[3]))
            except ValueError as error:
                raise QueryFailed(f"{name} has the value {found[3]!r}") from error
    if not values:
        raise QueryFailed(f"the page has no metric {wanted}")
    return finite(name, sum(values))


def _labels(text: str | None) -> set[str]:
    return {part.strip() for part in (text or "").split(",") if part.strip()}
