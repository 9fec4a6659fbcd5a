"""What a chunk is given: all its steps, or fewer while there is no time for all, and at last a light decoder.

    4 steps ─▶ 3 ─▶ 2, the floor ─▶ 2 and the light decoder, where the bundle has one

The time left until the deadline is compared with what a step takes of late, waiting for its turn included. Down at
once, up one rung at a time and only after several chunks that had the time, so that the picture does not flicker
between fidelities. It knows no session, no clock and nothing of what a step does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

CALM_CHUNKS = 4
_WEIGHT = 0.2


class Rung(NamedTuple):
    """Steps of a chunk, and whether its pictures are decoded by the light decoder."""

    steps: int
    is_light: bool = False


@dataclass(frozen=True, slots=True)
class Rungs:
    """full: the bundle's steps. floor: the fewest a chunk may get, at least 1 and at most `full`. has_light: whether
    below the floor there is a light decoder."""

    full: int
    floor: int
    has_light: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.floor <= self.full:
            raise ValueError(f"a ladder from {self.full} steps cannot have its floor at {self.floor}")

    @property
    def downwards(self) -> list[Rung]:
        """All of them, the best first."""
        light = [Rung(self.floor, is_light=True)] if self.has_light else []
        return [Rung(steps) for steps in range(self.full, self.floor - 1, -1)] + light


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
    """One session's place on its rungs."""

    def __init__(self, rungs: Rungs) -> None:
        self._rungs = rungs.downwards
        self._at = 0
        self._calm = 0

    @property
    def rung(self) -> Rung:
        """Where it stands."""
        return self._rungs[self._at]

    @property
    def is_full(self) -> bool:
        """Whether chunks get all there is."""
        return self._at == 0

    def choose(self, left_s: float, step_s: float) -> Rung:
        """The rung of the next chunk, whose steps are due in left_s, when a step takes step_s."""
        wanted = self._affordable(left_s, step_s)
        if wanted >= self._at:
            self._calm, self._at = 0, wanted
        else:
            self._calm += 1
            if self._calm >= CALM_CHUNKS:
                self._calm, self._at = 0, self._at - 1
        return self.rung

    def _affordable(self, left_s: float, step_s: float) -> int:
        """The best rung whose steps there is time for, else the lowest."""
        lowest = len(self._rungs) - 1
        return next((at for at, rung in enumerate(self._rungs[:lowest]) if rung.steps * step_s <= left_s), lowest)
