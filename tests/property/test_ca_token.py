"""Tokens survive printing and reading; anything else is refused without being repeated."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from swarmpy.node.ca.errors import BadToken
from swarmpy.node.ca.token import JoinToken, new_secret


@given(st.binary(min_size=32, max_size=32), st.binary(min_size=16, max_size=16))
def test_round_trip(pin: bytes, random_bytes: bytes) -> None:
    token = JoinToken(pin, new_secret(random_bytes))
    assert JoinToken.parse(f" {token}\n") == token
    assert token.has_secret(new_secret(random_bytes))
    assert len(str(token)) == len("SWMPY-1-") + 50 + 1 + 25


@given(st.binary(min_size=16, max_size=16), st.binary(min_size=16, max_size=16))
def test_secrets_differ(one: bytes, other: bytes) -> None:
    assert JoinToken(bytes(32), new_secret(one)).has_secret(new_secret(other)) == (one == other)


def test_no_secret_matches_nothing() -> None:
    assert not JoinToken(bytes(32), "").has_secret("")


@given(st.text(max_size=120))
def test_any_text_is_a_token_or_a_clear_error(text: str) -> None:
    try:
        JoinToken.parse(text)
    except BadToken as error:
        assert "swarmpy token" in str(error)


GOOD = str(JoinToken(b"\xff" * 32, "s" * 25))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "starts with SWMPY-1"),
        ("SWMTKN-1-abc-def", "Docker"),
        (GOOD[:-1], "secret has 24"),
        (GOOD + "-x", "three|has 3"),
        (GOOD.replace("SWMPY-1-", "SWMPY-1-0"), "fingerprint has 51"),
        (GOOD[:-1] + "S", "other than"),
        ("SWMPY-1-" + "z" * 50 + "-" + "s" * 25, "out of range"),
    ],
)
def test_what_is_wrong_is_said(text: str, says: str) -> None:
    with pytest.raises(BadToken, match=says) as caught:
        JoinToken.parse(text)
    assert "ssss" not in str(caught.value)
    assert "ssss" not in repr(JoinToken.parse(GOOD))
