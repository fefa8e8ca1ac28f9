"""What the probe flags take: `:PORT`, `ADDRESS:PORT`, with a path or a gRPC service behind. Pure."""

from __future__ import annotations

from swarmpy.cli import parse

ADVICE = {
    "http": ":8080/healthz",
    "tcp": ":5432",
    "grpc": ":9000 or :9000/package.Service",
}


def target(kind: str, text: str) -> str:
    """`[ADDRESS]:PORT[/…]`, checked; "" takes a check away. Raises ValueError."""
    if not text:
        return ""
    authority, slash, _ = text.partition("/")
    host, colon, port = authority.rpartition(":")
    if not colon or not port.isdigit() or (slash and kind == "tcp"):
        raise ValueError(f"{text!r} is not something to ask: write {ADVICE[kind]}")
    parse.port_number(port)
    if host:
        parse.ip_address(host.strip("[]"))
    return text


def http(text: str) -> str:
    return target("http", text)


def tcp(text: str) -> str:
    return target("tcp", text)


def grpc(text: str) -> str:
    return target("grpc", text)
