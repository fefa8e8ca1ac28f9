"""Dates, time zones and cron expressions as arithmetic: no clock, no files, no library that reads either. Pure.

A `Zone` is data in the store: the changes of its offset that were known when it was written, and a POSIX TZ
rule for the time after. So every leader reads the same times, whatever zone files its machine has.

A cron expression has five fields: minute hour day-of-month month day-of-week, with lists, ranges, steps and
English names, or is one of @hourly @daily @weekly @monthly @yearly. Where both days are restricted, either
may match, as in Vixie's cron. Changes of the clock: a fixed hour runs once on the day on which it comes
twice (the first time), and on the day on which it is left out it runs at the same distance after midnight
(02:30 becomes 03:30 by the new time). With `*` as the hour, minutes follow each other without a gap.

    ValueError
    └── CalendarError     an expression or a rule that cannot be read; the message says why
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from swarmpy.proto import objects_pb2

DAY_S = 86_400
MARGIN_S = 3 * 3600  # more than any zone moves its clock at once
YEARS_AHEAD = 9  # the 29th of February may be eight years away
MACROS = {
    "@hourly": "0 * * * *", "@daily": "0 0 * * *", "@midnight": "0 0 * * *", "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *", "@yearly": "0 0 1 1 *", "@annually": "0 0 1 1 *",
}  # fmt: skip
MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_FIELDS = (("minute", 0, 59), ("hour", 0, 23), ("day", 1, 31), ("month", 1, 12), ("weekday", 0, 7))
_RULE = re.compile(
    r"(?:[A-Za-z]{3,}|<[A-Za-z0-9+-]+>)(?P<std>[+-]?\d{1,2}(?::\d{2}){0,2})"
    r"(?:(?:[A-Za-z]{3,}|<[A-Za-z0-9+-]+>)(?P<dst>[+-]?\d{1,2}(?::\d{2}){0,2})?"
    r",(?P<start>[^,]+),(?P<end>[^,]+))?"
)
_DAY = re.compile(
    r"(?:M(?P<month>\d{1,2})\.(?P<week>[1-5])\.(?P<weekday>[0-6])|J(?P<julian>\d{1,3})|(?P<zero>\d{1,3}))"
    r"(?:/(?P<time>[+-]?\d{1,3}(?::\d{2}){0,2}))?"
)


class CalendarError(ValueError):
    """What should be an expression or a rule is none."""


def days_of(year: int, month: int, day: int) -> int:
    """Days from 1970-01-01; a year begins in March here, so that the leap day is its last."""
    y = year - (month <= 2)
    in_year = (153 * ((month + 9) % 12) + 2) // 5 + day - 1
    return 365 * y + y // 4 - y // 100 + y // 400 + in_year - 719_468


def date_of(days: int) -> tuple[int, int, int]:
    """Year, month and day of a number of days from 1970-01-01."""
    z = days + 719_468
    era, of_era = divmod(z, 146_097)
    y = (of_era - of_era // 1460 + of_era // 36_524 - of_era // 146_096) // 365
    in_year = of_era - (365 * y + y // 4 - y // 100)
    m = (5 * in_year + 2) // 153
    day, month = in_year - (153 * m + 2) // 5 + 1, (m + 2) % 12 + 1
    return y + era * 400 + (month <= 2), month, day


def weekday_of(days: int) -> int:
    """0 = Sunday."""
    return (days + 4) % 7


def days_in(year: int, month: int) -> int:
    after = (year + 1, 1) if month == 12 else (year, month + 1)
    return days_of(*after, 1) - days_of(year, month, 1)


# --- zones --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Rule:
    """A POSIX TZ: offsets east of Greenwich in seconds, and the two days of change, if there are."""

    standard_s: int
    summer_s: int = 0
    start: str = ""
    end: str = ""


@lru_cache(maxsize=512)
def parse_rule(text: str) -> Rule:
    """Read a POSIX TZ such as `CET-1CEST,M3.5.0,M10.5.0/3`; "" is UTC."""
    if not text:
        return Rule(0)
    match = _RULE.fullmatch(text)
    if match is None:
        raise CalendarError(f"{text!r} is no POSIX time zone rule")
    standard_s = -_seconds(match["std"])
    if match["start"] is None:
        return Rule(standard_s)
    for part in (match["start"], match["end"]):
        if _DAY.fullmatch(part) is None:
            raise CalendarError(f"{text!r} has the unknown day {part!r}")
    summer_s = -_seconds(match["dst"]) if match["dst"] else standard_s + 3600
    return Rule(standard_s, summer_s, match["start"], match["end"])


def _seconds(text: str) -> int:
    sign = -1 if text.startswith("-") else 1
    parts = [int(part) for part in text.lstrip("+-").split(":")]
    return sign * sum(part * unit for part, unit in zip(parts, (3600, 60, 1), strict=False))


@lru_cache(maxsize=1024)
def _change_s(year: int, text: str) -> int:
    """When in a year a rule's day of change is, in local seconds from 1970."""
    match = _DAY.fullmatch(text)
    assert match is not None, "checked when the rule was read"
    time_s = _seconds(match["time"]) if match["time"] else 7200
    first = days_of(year, 1, 1)
    if match["julian"]:
        number = int(match["julian"])
        leap = days_in(year, 2) == 29
        day = first + number - 1 + (leap and number >= 60)
    elif match["zero"]:
        day = first + int(match["zero"])
    else:
        month, week, weekday = int(match["month"]), int(match["week"]), int(match["weekday"])
        day = days_of(year, month, 1)
        day += (weekday - weekday_of(day)) % 7 + 7 * (week - 1)
        if day >= days_of(year, month, 1) + days_in(year, month):
            day -= 7
    return day * DAY_S + time_s


def _by_rule(rule: Rule, utc_s: int) -> int:
    if not rule.start:
        return rule.standard_s
    year = date_of((utc_s + rule.standard_s) // DAY_S)[0]
    start = _change_s(year, rule.start) - rule.standard_s
    end = _change_s(year, rule.end) - rule.summer_s
    summer = start <= utc_s < end if start < end else not end <= utc_s < start
    return rule.summer_s if summer else rule.standard_s


def offset_s(zone: objects_pb2.Zone, utc_s: int) -> int:
    """Seconds east of Greenwich at a time."""
    changes = zone.changes
    if changes and utc_s < changes[-1].at_s:
        position = bisect_right(changes, utc_s, key=lambda change: change.at_s)
        return changes[position - 1].offset_s if position else zone.offset_s
    if zone.rule:
        return _by_rule(parse_rule(zone.rule), utc_s)
    return changes[-1].offset_s if changes else zone.offset_s


def instants(zone: objects_pb2.Zone, local_s: int) -> list[int]:
    """The times at which clocks of the zone show `local_s`: one, two, or none."""
    offsets = {offset_s(zone, local_s - DAY_S), offset_s(zone, local_s + DAY_S)}
    return sorted(local_s - offset for offset in offsets if offset_s(zone, local_s - offset) == offset)


# --- cron ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Expression:
    """A parsed cron expression: sets of numbers; weekday 0 is Sunday."""

    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]
    every_hour: bool
    any_day: bool
    any_weekday: bool

    def fits_day(self, days: int) -> bool:
        _, month, day = date_of(days)
        if month not in self.months:
            return False
        by_day, by_weekday = day in self.days, weekday_of(days) in self.weekdays
        if self.any_day or self.any_weekday:
            return by_day and by_weekday
        return by_day or by_weekday


@lru_cache(maxsize=512)
def parse_cron(text: str) -> Expression:
    """Read five fields or a macro; raises CalendarError with a sentence for the user."""
    fields = MACROS.get(text.strip().lower(), text).split()
    if len(fields) != 5:
        raise CalendarError(
            f"{text!r} is no cron expression: write five fields (minute hour day month weekday) or @daily"
        )
    parsed = [_field(text, *row) for text, row in zip(fields, _FIELDS, strict=True)]
    minutes, hours, days, months, weekdays = parsed
    return Expression(
        tuple(sorted(minutes)), tuple(sorted(hours)), frozenset(days), frozenset(months),
        frozenset(day % 7 for day in weekdays), every_hour=len(hours) == 24,
        any_day=fields[2].startswith("*"), any_weekday=fields[4].startswith("*"),
    )  # fmt: skip


def _field(text: str, name: str, low: int, high: int) -> set[int]:
    numbers: set[int] = set()
    for part in text.split(","):
        body, slash, step_text = part.partition("/")
        if slash and not re.fullmatch(r"[1-9][0-9]?", step_text):
            raise CalendarError(f"the {name} {part!r} has no step from 1 to 99")
        step = int(step_text) if slash else 1
        if body == "*":
            first, last = low, high
        else:
            start, dash, end = body.partition("-")
            first = _number(start, name)
            last = _number(end, name) if dash else high if slash else first
        if not (low <= first <= high and low <= last <= high):
            raise CalendarError(f"the {name} {part!r} is not from {low} to {high}")
        if first > last:
            raise CalendarError(f"the {name} {part!r} runs backwards")
        numbers.update(range(first, last + 1, step))
    return numbers


def _number(text: str, name: str) -> int:
    names = {"month": MONTHS, "weekday": WEEKDAYS}.get(name, ())
    if text.lower() in names:
        return names.index(text.lower()) + (name == "month")
    if not re.fullmatch(r"[0-9]{1,2}", text):
        raise CalendarError(
            f"the {name} {text!r} is neither a number nor a name such as {(names or ('*',))[0]}"
        )
    return int(text)


def next_ms(text: str, zone: objects_pb2.Zone, after_ms: int) -> int | None:
    """The first time after `after_ms` that fits; None if none does in nine years."""
    expression = parse_cron(text)
    after_s = after_ms // 1000
    today = (after_s + offset_s(zone, after_s)) // DAY_S
    best: int | None = None
    for day in range(today - 1, today + 366 * YEARS_AHEAD):
        if best is not None and day * DAY_S > best + offset_s(zone, best) + MARGIN_S:
            break
        if expression.fits_day(day):
            for found in _times(expression, zone, day, after_s):
                best = found if best is None else min(best, found)
    return None if best is None else best * 1000


def _times(expression: Expression, zone: objects_pb2.Zone, day: int, after_s: int) -> Iterator[int]:
    """The first few times on a day that are after another time; enough to hold the earliest."""
    earliest_local = after_s + offset_s(zone, after_s) - MARGIN_S
    last_local: int | None = None
    for hour in expression.hours:
        if day * DAY_S + hour * 3600 + 3600 < earliest_local:
            continue
        for minute in expression.minutes:
            local_s = day * DAY_S + hour * 3600 + minute * 60
            if last_local is not None and local_s > last_local:
                return
            found = instants(zone, local_s)
            if not found and not expression.every_hour:
                found = [local_s - offset_s(zone, local_s - DAY_S)]
            for utc_s in found if expression.every_hour else found[:1]:
                if utc_s > after_s:
                    last_local = last_local if last_local is not None else local_s + MARGIN_S
                    yield utc_s
