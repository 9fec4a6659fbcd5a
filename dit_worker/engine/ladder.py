"""How many steps a chunk gets: all of them, or fewer while there is no time for all.

The time left until the deadline is compared with what a step takes of late, waiting for its turn included. Down at
once, up one rung at a time and only after several chunks that had the time, so that the picture does not flicker
between fidelities. It knows no session, no clock and nothing of what a step does.
"""

from __future__ import annotations

from dataclasses import dataclass

CALM_CHUNKS = 4
_WEIGHT = 0.2


@dataclass(frozen=True, slots=True)
class Rungs:
    """full: the bundle's steps. floor: the fewest a chunk may get, at least 1 and at most `full`."""

    full: int
    floor: int

    def __post_init__(self) -> None:
        if not 1 <= self.floor <= self.full:
            raise ValueError(f"a ladder from {self.full} steps cannot have its floor at {self.floor}")


class Pace:
    """What a step takes of late on this device, from being wanted to being done, over all its sessions."""

    def __init__(self) -> None:
        self._step_s: float | None = None

    @property
    def step_s(self) -> float:
        """Seconds; 0 before the first chunk."""
        return self._step_s or 0.0

    def add(self, steps: int, flight_s: float) -> None:
        """A chunk of so many steps was in flight for so long."""
        latest = flight_s / steps
        self._step_s = latest if self._step_s is None else self._step_s + _WEIGHT * (latest - self._step_s)


class Ladder:
    """One session's rung."""

    def __init__(self, rungs: Rungs) -> None:
        self._rungs = rungs
        self._calm = 0
        self.steps = rungs.full
        """The rung it stands on."""

    @property
    def is_full(self) -> bool:
        """Whether chunks get all their steps."""
        return self.steps == self._rungs.full

    def choose(self, left_s: float, step_s: float) -> int:
        """Steps of the next chunk, due in left_s, when a step takes step_s."""
        wanted = self._affordable(left_s, step_s)
        if wanted <= self.steps:
            self._calm = 0
            self.steps = wanted
        else:
            self._calm += 1
            if self._calm >= CALM_CHUNKS:
                self._calm, self.steps = 0, self.steps + 1
        return self.steps

    def _affordable(self, left_s: float, step_s: float) -> int:
        full, floor = self._rungs.full, self._rungs.floor
        return next((steps for steps in range(full, floor, -1) if steps * step_s <= left_s), floor)
