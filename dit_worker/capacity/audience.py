"""Who comes, what they ask for and what they go through: arrivals, turns of talking and listening.

Either by chance, or as viewers of a real worker came and asked, to watch the same again.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from dit_worker.engine.playback import CLEAN_STALL_S, Playback


class Line(NamedTuple):
    """Words that were asked for: when, since the session came, and in how many chunks they were said."""

    at_s: float
    chunks: int


class Entry(NamedTuple):
    """A session comes: when, for how long, and what it asks for; None leaves that to chance."""

    at_s: float
    life_s: float
    lines: tuple[Line, ...] | None = None


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
    network_s: float = 0.02
    """Between client and worker, each way."""
    known: tuple[Entry, ...] = ()
    """Sessions as they really came; then nothing about them is left to chance."""

    @property
    def duty(self) -> float:
        """Share of the time in which a session needs chunks."""
        return self.talk_s / (self.talk_s + self.listen_s) if self.kind == "turns" else 1.0

    def entries(self, rng: random.Random, chunk_s: float) -> list[Entry]:
        """The sessions that come."""
        if self.known:
            return list(self.known)
        if self.sessions and self.phases == "aligned":
            return [Entry(number * chunk_s, self.run_s) for number in range(self.sessions)]
        if self.sessions:
            window_s = min(2 * chunk_s * self.sessions, self.run_s / 4)
            return [Entry(rng.uniform(0.0, window_s), self.run_s) for _ in range(self.sessions)]
        entries, now = [], rng.expovariate(self.arrivals_per_s)
        while now < self.run_s:
            entries.append(Entry(now, rng.expovariate(1 / self.life_s)))
            now += rng.expovariate(self.arrivals_per_s)
        return entries


@dataclass(slots=True)
class Experience(Playback):
    """What one session's client went through."""

    opening_s: float | None = None
    """From asking for the session to its first chunk, when that answers no cue."""
    ttfcs_s: list[float] = field(default_factory=list)
    """From each cue to the first chunk that answers it, at the client; of an unanswered one, how long it waited."""
    slacks_s: list[float] = field(default_factory=list)
    """Of each chunk, what was left before its deadline."""
    steps: list[int] = field(default_factory=list)
    """Of each chunk."""
    life_s: float = 0.0

    def is_clean(self, ttfc_target_s: float) -> bool:
        """No stall that is noticed, and every answer in time."""
        return max(self.stalls_s, default=0.0) <= CLEAN_STALL_S and max(self.ttfcs_s, default=0.0) <= ttfc_target_s
