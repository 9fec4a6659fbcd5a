"""What a chunk costs this device, and what its longest uninterrupted piece takes: kept up to date as chunks are made.

Figures are 95th percentiles of recent chunks, the newer the weightier, so that one slow chunk is noticed and forgotten.
It knows no session and no clock: durations are given to it.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace

SHARE = 0.95
HALF_LIFE_CHUNKS = 32
_KEPT_HALF_LIVES = 6


@dataclass(frozen=True, slots=True)
class ChunkCost:
    """What one chunk took, in seconds. Waiting for its turn is in none of them."""

    steps: int
    step_s: float
    """A step on the device, the mean over its steps."""
    condition_s: float
    """Until a step's condition came from the orchestrator, the mean over its steps."""
    motion_s: float = 0.0
    """Keys and values of what it follows."""
    direction_s: float = 0.0
    """The orchestrator's plan before the steps and its progress after them."""
    media_s: float = 0.0
    """Decoding and encoding."""
    quantum_s: float = 0.0
    """The longest piece of it that could not be interrupted."""
    is_light: bool = False
    """Whether its pictures were decoded by the light decoder."""

    def total_s(self, steps: int) -> float:
        """What it would have taken with so many steps."""
        return self.motion_s + self.direction_s + self.media_s + steps * (self.step_s + self.condition_s)


class RecentQuantile:
    """The quantile of a stream of numbers in which a number's weight halves with every `half_life` that follow it."""

    def __init__(self, share: float = SHARE, half_life: int = HALF_LIFE_CHUNKS) -> None:
        kept = _KEPT_HALF_LIVES * half_life
        self._share = share
        self._numbers: deque[float] = deque(maxlen=kept)
        self._weights = [0.5 ** (age / half_life) for age in range(kept)]

    def __len__(self) -> int:
        return len(self._numbers)

    def add(self, number: float) -> None:
        """The newest number."""
        self._numbers.append(number)

    @property
    def value(self) -> float:
        """The smallest number that `share` of the weight does not exceed; 0 for none."""
        weighted = sorted(zip(reversed(self._numbers), self._weights, strict=False))
        left = self._share * sum(weight for _, weight in weighted)
        for number, weight in weighted:
            left -= weight
            if left <= 1e-12:
                return number
        return 0.0


class Costs:
    """C and q of the admission test, for chunks of `steps` steps, and what is left to do after the last of them."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self._chunks = RecentQuantile()
        self._quanta = RecentQuantile()
        self._media = RecentQuantile()
        self._conditions = RecentQuantile()
        self._known: tuple[float, float, float] | None = None

    @property
    def is_measured(self) -> bool:
        """Whether a chunk was ever measured."""
        return len(self._chunks) > 0

    def add(self, cost: ChunkCost) -> None:
        """A chunk was made; one made with fewer steps, or decoded lightly, counts as if it had been given all."""
        if cost.is_light:
            cost = replace(cost, media_s=max(cost.media_s, self.media_s))
        self._chunks.add(cost.total_s(self.steps))
        self._quanta.add(cost.quantum_s)
        self._media.add(cost.media_s)
        self._conditions.add(cost.condition_s)
        self._known = None

    @property
    def chunk_s(self) -> float:
        """C: seconds of a chunk, its waits for the orchestrator, its decoding and its encoding included."""
        return self._figures()[0]

    @property
    def quantum_s(self) -> float:
        """q: seconds for which an urgent step may find the device taken."""
        return self._figures()[1]

    @property
    def media_s(self) -> float:
        """Seconds of decoding and encoding, by which steps must be done before a chunk is played."""
        return self._figures()[2]

    @property
    def condition_s(self) -> float:
        """Seconds that a step waits for its condition; 0 before the first chunk."""
        return self._conditions.value

    def _figures(self) -> tuple[float, float, float]:
        if self._known is None:
            self._known = self._chunks.value, self._quanta.value, self._media.value
        return self._known
