"""Dates, zones and cron expressions against the standard library, over any time and zone."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from swarmpy.node.manager.zones import read_zone
from swarmpy.node.plan import calendar
from swarmpy.node.plan.calendar import CalendarError, next_ms, parse_cron
from swarmpy.proto import objects_pb2

ZONES = ("Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata", "Africa/Casablanca",
         "America/Santiago", "Europe/Dublin", "UTC")  # fmt: skip
NOW_S = 1_770_000_000
times = st.integers(NOW_S, NOW_S + 20 * 365 * 86_400)


@given(st.integers(-200_000, 200_000))
def test_dates(days: int) -> None:
    expected = date(1970, 1, 1) + timedelta(days=days)
    assert calendar.date_of(days) == (expected.year, expected.month, expected.day)
    assert calendar.days_of(expected.year, expected.month, expected.day) == days
    assert calendar.weekday_of(days) == expected.isoweekday() % 7


@given(st.sampled_from(ZONES), times)
@settings(max_examples=150, deadline=None)
def test_offsets_are_the_zone_files(name: str, utc_s: int) -> None:
    zone = read_zone(name, NOW_S)
    expected = datetime.fromtimestamp(utc_s, ZoneInfo(name)).utcoffset()
    assert expected is not None
    assert calendar.offset_s(zone, utc_s) == expected.total_seconds()


@given(
    st.sampled_from(
        ("*/15 * * * *", "30 2 * * *", "0 9 * * mon-fri", "5 4 1 * *", "0 0 29 2 *", "59 23 31 * 0")
    ),
    st.sampled_from(ZONES),
    times,
)
@settings(max_examples=80, deadline=None)
def test_the_next_time_fits_and_none_between_does(text: str, name: str, after_s: int) -> None:
    zone = read_zone(name, NOW_S)
    found = next_ms(text, zone, after_s * 1000)
    assert found is not None
    assert found > after_s * 1000
    assert found % 60_000 == 0
    expression = parse_cron(text)
    step = max(60, (found // 1000 - after_s) // 500 // 60 * 60)
    minute = after_s // 60 * 60 + 60
    while minute < found // 1000:
        assert not fits(expression, name, minute), f"{minute} was left out"
        minute += step
    if expression.every_hour or calendar.instants(
        zone, found // 1000 + calendar.offset_s(zone, found // 1000)
    ):
        local = datetime.fromtimestamp(found / 1000, ZoneInfo(name))
        assert expression.fits_day(calendar.days_of(local.year, local.month, local.day))


def fits(expression: calendar.Expression, name: str, utc_s: int) -> bool:
    local = datetime.fromtimestamp(utc_s, ZoneInfo(name))
    if local.fold and not expression.every_hour:
        return False
    day = calendar.days_of(local.year, local.month, local.day)
    return expression.fits_day(day) and local.hour in expression.hours and local.minute in expression.minutes


def at(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 1000


@pytest.mark.parametrize(
    ("text", "after", "expected"),
    [
        ("30 2 * * *", "2026-03-28T12:00", "2026-03-29T01:30"),  # left out: 03:30 by the new time
        ("30 2 * * *", "2026-10-24T12:00", "2026-10-25T00:30"),  # comes twice: the first
        ("30 2 * * *", "2026-10-25T00:30", "2026-10-26T01:30"),
        ("30 * * * *", "2026-10-25T00:30", "2026-10-25T01:30"),  # every hour, also the repeated one
        ("0 9 * * *", "2026-07-01T00:00", "2026-07-01T07:00"),
        ("0 0 29 2 *", "2026-01-01T00:00", "2028-02-28T23:00"),
    ],
)
def test_berlin(text: str, after: str, expected: str) -> None:
    zone = read_zone("Europe/Berlin", NOW_S)
    assert next_ms(text, zone, at(after)) == at(expected)


def test_day_and_weekday_are_alternatives_when_both_are_given() -> None:
    zone = objects_pb2.Zone()
    assert next_ms("0 0 13 * fri", zone, at("2026-11-01T00:00")) == at("2026-11-06T00:00")
    assert next_ms("0 0 13 * *", zone, at("2026-11-01T00:00")) == at("2026-11-13T00:00")
    assert next_ms("0 0 30 2 *", zone, at("2026-11-01T00:00")) is None
    assert next_ms("@weekly", zone, at("2026-11-01T00:00")) == at("2026-11-08T00:00")


@given(st.text(max_size=20) | st.from_regex(r"[0-9*/,-]{1,5}( [0-9*/,a-z-]{1,5}){4}", fullmatch=True))
@settings(max_examples=40, deadline=None)
def test_any_text_is_an_expression_or_an_error(text: str) -> None:
    try:
        parse_cron(text)
    except CalendarError:
        return


@pytest.mark.parametrize(
    ("text", "part"),
    [("* * * *", "five fields"), ("60 * * * *", "not from 0 to 59"), ("5-1 * * * *", "backwards"),
     ("*/0 * * * *", "no step"), ("0 0 * foo *", "neither a number nor a name")],
)  # fmt: skip
def test_a_bad_expression_is_one_sentence(text: str, part: str) -> None:
    with pytest.raises(CalendarError, match=part):
        parse_cron(text)
