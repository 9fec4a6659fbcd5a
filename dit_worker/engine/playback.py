"""Playback as a client has it: plays what has come, stands still where there is no more, and notes both.

The worker follows one for each session, to tell stalls on its metrics; simulated clients play by the same. It knows
media by seconds and no clock: it is told the time.
"""

from __future__ import annotations

from dataclasses import dataclass, field

CLEAN_STALL_S = 0.1
"""A stall up to this long is not noticed."""


@dataclass(slots=True)
class Playback:
    """What one client goes through."""

    stalls_s: list[float] = field(default_factory=list)
    played_s: float = 0.0


class Player:
    """One client's playback."""

    def __init__(self, playback: Playback) -> None:
        """playback: where it notes what it goes through."""
        self.playback = playback
        self.has_s = 0.0
        """Media up to here is at the client."""
        self.place_s = 0.0
        """Playback has come to here."""
        self.expects_more = False
        """Whether running dry is a stall."""
        self._at = 0.0
        self._dry_since: float | None = 0.0
        self._has_begun = False
        self._is_held = False

    def lead_s(self, start_s: float, now: float) -> float:
        """Seconds of playback left before it needs media from start_s; below 0 for how long it stands still."""
        place_s = self.look(now)
        return start_s - place_s if self._dry_since is None else self._dry_since - now

    def look(self, now: float) -> float:
        """Where playback is."""
        if self._dry_since is None and not self._is_held:
            before, self.place_s = self.place_s, min(self.place_s + now - self._at, self.has_s)
            self.playback.played_s += self.place_s - before
            if self.place_s >= self.has_s - 1e-9:
                self._dry_since = self._at + (self.has_s - before)
        self._at = now
        return self.place_s

    def receive(self, end_s: float, now: float) -> None:
        """Media up to end_s came."""
        self.look(now)
        self.has_s = max(self.has_s, end_s)
        if self._dry_since is None:
            return
        if self._has_begun and self.expects_more and not self._is_held and now > self._dry_since:
            self.playback.stalls_s.append(now - self._dry_since)
        self._has_begun, self._dry_since = True, None

    def go_on(self, place_s: float, now: float) -> None:
        """Playback that began elsewhere has come to place_s; media up to has_s is at the client."""
        self.place_s, self._at, self._has_begun = place_s, now, True
        self._dry_since = None if place_s < self.has_s else now

    def retire(self, end_s: float, now: float) -> None:
        """Media from end_s on is taken back, but for what is played already."""
        self.has_s = max(self.look(now), min(self.has_s, end_s))

    def hold(self, is_held: bool, now: float) -> None:
        """The client pauses, or plays on: standing still is no stall then."""
        self.look(now)
        self._is_held = is_held
        self._dry_since = None if self._dry_since is None else now

    def leave(self, now: float) -> None:
        """The client goes: a stall that lasts counts."""
        self.look(now)
        if self._has_begun and self.expects_more and self._dry_since is not None and now > self._dry_since:
            self.playback.stalls_s.append(now - self._dry_since)
