"""Who comes, what they ask for and what they get to see: arrivals, turns of talking and listening, and one player.

The player plays what it has, stands still where it has no more, and says where it is. It knows media by seconds.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Literal

CLEAN_STALL_S = 0.1
"""A stall up to this long is not noticed."""


@dataclass(frozen=True, slots=True)
class Audience:
    """How sessions come and what happens in them. Times are means of exponential distributions, but for `run_s`."""

    kind: Literal["conversation", "turns", "script"] = "conversation"
    """conversation: idles while it listens, as the product does. turns: makes nothing while it listens. script: one
    transcript for all its life, made as far ahead as the cap allows."""
    run_s: float = 240.0
    """For how long is watched."""
    sessions: int = 0
    """Sessions that come at the beginning and stay; 0 for arrivals one by one."""
    phases: Literal["random", "aligned"] = "random"
    """Whether those of the beginning come at any time in their first seconds, or chunks apart to the moment."""
    arrivals_per_s: float = 0.0
    life_s: float = 60.0
    """Of sessions that come one by one."""
    talk_s: float = 8.0
    listen_s: float = 8.0

    @property
    def duty(self) -> float:
        """Share of the time in which a session needs chunks."""
        return self.talk_s / (self.talk_s + self.listen_s) if self.kind == "turns" else 1.0

    def entries(self, rng: random.Random, chunk_s: float) -> list[tuple[float, float]]:
        """When sessions come, and for how long they stay."""
        if self.sessions and self.phases == "aligned":
            return [(number * chunk_s, self.run_s) for number in range(self.sessions)]
        if self.sessions:
            window_s = min(2 * chunk_s * self.sessions, self.run_s / 4)
            return [(rng.uniform(0.0, window_s), self.run_s) for _ in range(self.sessions)]
        entries, now = [], rng.expovariate(self.arrivals_per_s)
        while now < self.run_s:
            entries.append((now, rng.expovariate(1 / self.life_s)))
            now += rng.expovariate(self.arrivals_per_s)
        return entries


@dataclass(slots=True)
class Experience:
    """What one session's client went through."""

    opening_s: float | None = None
    """From asking for the session to its first chunk, when that answers no cue."""
    ttfcs_s: list[float] = field(default_factory=list)
    """From each cue to the first chunk that answers it, at the client; of an unanswered one, how long it waited."""
    stalls_s: list[float] = field(default_factory=list)
    played_s: float = 0.0
    slacks_s: list[float] = field(default_factory=list)
    """Of each chunk, what was left before its deadline."""
    steps: list[int] = field(default_factory=list)
    """Of each chunk."""
    life_s: float = 0.0

    def is_clean(self, ttfc_target_s: float) -> bool:
        """No stall that is noticed, and every answer in time."""
        return max(self.stalls_s, default=0.0) <= CLEAN_STALL_S and max(self.ttfcs_s, default=0.0) <= ttfc_target_s


class Player:
    """One client's playback."""

    def __init__(self, experience: Experience) -> None:
        self._experience = experience
        self.has_s = 0.0
        """Media up to here is at the client."""
        self.place_s = 0.0
        """Playback has come to here."""
        self.expects_more = False
        """Whether running dry is a stall."""
        self._at = 0.0
        self._dry_since: float | None = 0.0
        self._has_begun = False

    def lead_s(self, start_s: float, now: float) -> float:
        """Seconds of playback left before it needs media from start_s; below 0 for how long it stands still."""
        place_s = self.look(now)
        return start_s - place_s if self._dry_since is None else self._dry_since - now

    def look(self, now: float) -> float:
        """Where playback is."""
        if self._dry_since is None:
            before, self.place_s = self.place_s, min(self.place_s + now - self._at, self.has_s)
            self._experience.played_s += self.place_s - before
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
        if self._has_begun and self.expects_more and now > self._dry_since:
            self._experience.stalls_s.append(now - self._dry_since)
        self._has_begun, self._dry_since = True, None

    def retire(self, end_s: float, now: float) -> None:
        """Media from end_s on is taken back, but for what is played already."""
        self.has_s = max(self.look(now), min(self.has_s, end_s))

    def leave(self, now: float) -> None:
        """The client goes: a stall that lasts counts."""
        self.look(now)
        if self._has_begun and self.expects_more and self._dry_since is not None and now > self._dry_since:
            self._experience.stalls_s.append(now - self._dry_since)
