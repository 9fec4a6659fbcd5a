"""The right to advance one session, as its holder sees it.

Knows no clock but the holder's monotonic one: whether the lease still holds in Redis is for the scripts to say.
"""

from __future__ import annotations

from dataclasses import dataclass

from services.session import ChunkPolicy

LEASE_S = 6.0
RENEW_S = 2.0
"""Renew this often."""
FENCE_S = 4.5
"""Stop writing and sending when the last renewal was confirmed this long ago: another worker may hold it soon."""


@dataclass(frozen=True, slots=True)
class Lease:
    """Held by one worker. Renewing gives a new one; the epoch stays the same for as long as it is held."""

    session_id: str
    owner: str
    epoch: int
    policy: ChunkPolicy
    asked_at_s: float
    """Monotonic time just before the call that confirmed it."""
    is_wanted: bool = False
    """Whether another worker has asked for the session since the lease was confirmed before."""

    def is_fenced(self, now_s: float) -> bool:
        """Say whether the holder must stop, by its monotonic clock."""
        return now_s - self.asked_at_s >= FENCE_S


@dataclass(frozen=True, slots=True)
class Holder:
    """Who has a session's lease, as others see it."""

    owner: str
    ends_in_s: float
    """Unless it is renewed."""
