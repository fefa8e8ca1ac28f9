"""References: Docker's rules, in both directions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from swarmpy.node.image.reference import Reference, ReferenceInvalid, parse

DIGEST = "sha256:" + "ab" * 32


@pytest.mark.parametrize(
    ("text", "normal", "familiar"),
    [
        ("busybox", "docker.io/library/busybox:latest", "busybox"),
        ("busybox:1.36", "docker.io/library/busybox:1.36", "busybox:1.36"),
        ("docker.io/busybox", "docker.io/library/busybox:latest", "busybox"),
        ("index.docker.io/busybox", "docker.io/library/busybox:latest", "busybox"),
        ("team/app", "docker.io/team/app:latest", "team/app"),
        ("ghcr.io/a/b/c:v1", "ghcr.io/a/b/c:v1", "ghcr.io/a/b/c:v1"),
        ("localhost/app", "localhost/app:latest", "localhost/app"),
        ("localhost:5000/app", "localhost:5000/app:latest", "localhost:5000/app"),
        ("10.0.0.1:5000/a/b:t", "10.0.0.1:5000/a/b:t", "10.0.0.1:5000/a/b:t"),
        ("[::1]:5000/app:t", "[::1]:5000/app:t", "[::1]:5000/app:t"),
        (f"busybox@{DIGEST}", f"docker.io/library/busybox@{DIGEST}", f"busybox@{DIGEST}"),
        (f"busybox:1@{DIGEST}", f"docker.io/library/busybox:1@{DIGEST}", f"busybox:1@{DIGEST}"),
        ("busybox:latest", "docker.io/library/busybox:latest", "busybox"),
    ],
)
def test_normal_and_familiar_forms(text: str, normal: str, familiar: str) -> None:
    reference = parse(text)
    assert str(reference) == normal
    assert reference.familiar == familiar
    assert parse(reference.familiar) == reference


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "empty"),
        (" busybox", "spaces"),
        ("Busybox", "lowercase"),
        ("docker.io/Library/x", "lowercase"),
        ("a//b", "no valid repository name part"),
        ("a/../b", "no valid repository name part"),
        ("busybox:", "tag"),
        ("busybox:-x", "tag"),
        ("busybox:" + "a" * 129, "tag"),
        ("busybox@sha256:12", "64 lowercase hex"),
        ("busybox@md5:" + "ab" * 16, "64 lowercase hex"),
        ("host.example/", "no repository name"),
        ("ab" * 32, "64 hex digits are not a name"),
        ("bad_host.com/app", "no host"),
        ("host:99999999/app", "no host"),
        ("a" * 256, "longer than"),
    ],
)
def test_bad_references_say_why(text: str, says: str) -> None:
    with pytest.raises(ReferenceInvalid, match=says):
        parse(text)


@pytest.mark.parametrize(
    ("registry", "loopback"),
    [("localhost:5000", True), ("127.0.0.1", True), ("127.9.9.9:80", True), ("[::1]:5000", True),
     ("docker.io", False), ("127.example.com", False), ("10.0.0.1:5000", False)],
)  # fmt: skip
def test_only_this_machine_is_loopback(registry: str, loopback: bool) -> None:
    assert Reference(registry, "x", "latest").is_loopback is loopback


@given(st.text(max_size=80))
def test_any_text_parses_to_a_fixed_point_or_is_refused(text: str) -> None:
    try:
        reference = parse(text)
    except ReferenceInvalid:
        return
    assert parse(str(reference)) == reference
    assert parse(reference.familiar) == reference


_part = st.from_regex(r"[a-z0-9]{1,8}([._-][a-z0-9]{1,4})?", fullmatch=True)


@given(
    st.sampled_from(["", "localhost/", "127.0.0.1:5000/", "ghcr.io/", "docker.io/"]),
    st.lists(_part, min_size=1, max_size=3),
    st.sampled_from(["", ":latest", ":v1.2-x"]),
    st.sampled_from(["", "@" + DIGEST]),
)
def test_made_references_survive(registry: str, parts: list[str], tag: str, digest: str) -> None:
    reference = parse(registry + "/".join(parts) + tag + digest)
    assert parse(str(reference)) == reference
    assert parse(reference.familiar) == reference
