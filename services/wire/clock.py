"""Seconds as protobuf durations and timestamps. Knows no messages of ours."""

from __future__ import annotations

import math

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

MOST_SECONDS = 315_576_000_000
"""What a Duration may hold: ten thousand years."""


def duration_from_seconds(seconds: float) -> Duration:
    """Return a duration, to the nanosecond. ValueError when `seconds` is not finite or out of range."""
    if not math.isfinite(seconds) or abs(seconds) > MOST_SECONDS:
        raise ValueError(f"{seconds} s is no duration")
    message = Duration()
    message.FromNanoseconds(round(seconds * 1e9))
    return message


def seconds_from_duration(message: Duration) -> float:
    """Return seconds, whatever a peer put into the message."""
    return message.seconds + message.nanos / 1e9


def timestamp_from_unix(seconds: float) -> Timestamp:
    """Return the timestamp of a Unix time, to the microsecond."""
    message = Timestamp()
    message.FromMicroseconds(round(seconds * 1e6))
    return message
