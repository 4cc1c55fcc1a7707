"""Protobuf's times as seconds and back, exact to the microsecond."""

from __future__ import annotations

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp


def stamp(seconds: float) -> Timestamp:
    """Seconds since 1970 as a Timestamp."""
    made = Timestamp()
    made.FromMicroseconds(round(seconds * 1e6))
    return made


def seconds(of: Timestamp | Duration) -> float:
    """A Timestamp as seconds since 1970, or a Duration as seconds."""
    return of.ToMicroseconds() / 1e6


def duration(seconds: float) -> Duration:
    made = Duration()
    made.FromMicroseconds(round(seconds * 1e6))
    return made
