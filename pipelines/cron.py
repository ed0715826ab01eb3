"""When a cron expression is due, in its time zone. Times are aware datetimes."""

from __future__ import annotations

import datetime
import zoneinfo
from collections.abc import Callable
from itertools import islice

from croniter import croniter

# Years between two times: 29 February comes twice in eight years around 2100.
_YEARS = 8


def check(expression: str) -> str:
    """The expression, if it is one that will ever be due; ValueError otherwise."""
    try:
        upcoming(expression, datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC), 1)
    except ValueError as error:
        raise ValueError(f"not a cron expression such as '30 2 * * *' that is ever due ({error})") from error
    return expression


def zone(name: str) -> zoneinfo.ZoneInfo:
    """The time zone of that name, such as Europe/Berlin; ValueError if there is none."""
    try:
        return zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ValueError(f"{name!r} is no time zone such as Europe/Berlin or UTC") from error


def upcoming(expression: str, after: datetime.datetime, count: int) -> list[datetime.datetime]:
    """The next `count` times after `after`, in its time zone."""
    following: Callable[[type], datetime.datetime] = croniter(
        expression, after, max_years_between_matches=_YEARS
    ).get_next
    return list(islice(iter(lambda: following(datetime.datetime), None), count))


def latest(expression: str, now: datetime.datetime) -> datetime.datetime:
    """The last time at or before `now`, in its time zone."""
    # croniter looks for what is before a time, and not at it.
    found = croniter(expression, now + datetime.timedelta(microseconds=1)).get_prev(datetime.datetime)
    assert isinstance(found, datetime.datetime)
    return found
