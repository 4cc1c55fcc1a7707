"""Times as operators write and read them: `1m30s` on the way in, `5 minutes ago` on the way out."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Final

import click

from swarmnet.core.errors import InvalidArgument

if TYPE_CHECKING:
    from google.protobuf.duration_pb2 import Duration
    from google.protobuf.timestamp_pb2 import Timestamp

_UNITS_NS: Final = {
    "ns": 1,
    "us": 10**3,
    "µs": 10**3,
    "ms": 10**6,
    "s": 10**9,
    "m": 60 * 10**9,
    "h": 3600 * 10**9,
}
_PART: Final = re.compile(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h)")

# Up to how many hours a time is told in a unit, that unit in hours, and its name.
_COARSE: Final = (
    (48, 1, "hours"),
    (14 * 24, 24, "days"),
    (60 * 24, 7 * 24, "weeks"),
    (2 * 365 * 24, 30 * 24, "months"),
)
_YEAR_H: Final = 365 * 24


def parse_duration_ns(text: str) -> int:
    """Nanoseconds of a Go duration such as `300ms`, `1.5h` or `2h45m`; InvalidArgument for anything else."""
    parts = _PART.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise InvalidArgument(
            f"invalid duration {text!r}", hint="Write a number and a unit, for example 500ms, 10s, 5m or 12h."
        )
    return sum(round(float(number) * _UNITS_NS[unit]) for number, unit in parts)


def parse_duration(text: str) -> Duration:
    """The same as a protobuf message."""
    from google.protobuf.duration_pb2 import Duration

    duration = Duration()
    duration.FromNanoseconds(parse_duration_ns(text))
    return duration


def parse_time(text: str, now_s: float) -> Timestamp:
    """A moment as docker takes it: RFC 3339 (UTC unless it says where), seconds since 1970, or a Go duration:
    how long ago. InvalidArgument for anything else.
    """
    from datetime import UTC, datetime

    from google.protobuf.timestamp_pb2 import Timestamp

    found = Timestamp()
    try:
        if re.fullmatch(r"\d+(\.\d{1,9})?", text):
            whole, _, fraction = text.partition(".")
            found.FromNanoseconds(int(whole) * 10**9 + int(fraction.ljust(9, "0") or 0))
        elif _PART.match(text):
            found.FromNanoseconds(int(now_s * 1e9) - parse_duration_ns(text))
        else:
            at = datetime.fromisoformat(text)
            found.FromDatetime(at if at.tzinfo is not None else at.replace(tzinfo=UTC))
    except (ValueError, OverflowError, InvalidArgument) as error:
        raise InvalidArgument(
            f"invalid time {text!r}",
            hint="Write it as 2026-11-25T17:00:00Z, as seconds since 1970, or as how long ago: 10m, 1h30m.",
        ) from error
    return found


def duration_option(_: click.Context, option: click.Parameter, text: str | None) -> Duration | None:
    """For click's `callback`: the value of an option that takes a duration."""
    if text is None:
        return None
    try:
        return parse_duration(text)
    except InvalidArgument as error:
        raise InvalidArgument(f"{error.message} for {option.opts[-1]}", hint=error.hint) from None


def human_duration(seconds: float) -> str:
    """How long, roughly: `Less than a second`, `5 seconds`, `About an hour`, `3 days`."""
    whole = int(seconds)
    if whole < 1:
        return "Less than a second"
    if whole < 60:
        return "1 second" if whole == 1 else f"{whole} seconds"
    if (minutes := whole // 60) < 60:
        return "About a minute" if minutes == 1 else f"{minutes} minutes"
    hours = int(whole / 3600 + 0.5)
    if hours == 1:
        return "About an hour"
    for limit, size, unit in _COARSE:
        if hours < limit:
            return f"{hours // size} {unit}"
    return f"{hours // _YEAR_H} years"


def ago(at: Timestamp, now_s: float | None = None) -> str:
    """`5 seconds ago`; empty for a time that was never set."""
    if not at.seconds:
        return ""
    now_s = time.time() if now_s is None else now_s
    text = human_duration(now_s - at.ToNanoseconds() / 1e9)
    return f"{text[0].lower()}{text[1:]} ago" if text[0] in "LA" else f"{text} ago"


def until(at: Timestamp, now_s: float | None = None) -> str:
    """`in 11 hours`, `now` once it has passed; empty for a time that was never set."""
    if not at.seconds:
        return ""
    now_s = time.time() if now_s is None else now_s
    left_s = at.ToNanoseconds() / 1e9 - now_s
    if left_s < 1:
        return "now"
    text = human_duration(left_s)
    return f"in {text[0].lower()}{text[1:]}"


def rfc3339(at: Timestamp) -> str:
    """The time as inspect prints it, in UTC; empty for a time that was never set."""
    return at.ToJsonString() if at.seconds else ""
