"""Whether one more session can be taken without those on stage ever stuttering, and when to ask again if not.

A session is taken while sum(C) / P + q / P stays within a bound: C what a chunk costs, P its length, q the longest
piece of work that is not interrupted. That is the test under which earliest deadline first keeps every deadline of
periodic work whose only blocking is one step. It knows no slots, no fleet and no clock.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from dit_worker.engine.costs import Costs

FIRST_LIFE_S = 60.0
"""How long a session is thought to last before any has ended."""
_LIFE_WEIGHT = 0.1
_RETRY_S = (1.0, 60.0)
_TOLERANCE = 1e-9


@dataclass(frozen=True, slots=True)
class AdmissionLimits:
    """bound: what utilisation may come to. listening_share: what a session counts while it only listens."""

    bound: float = 0.92
    listening_share: float = 1.0


@dataclass(frozen=True, slots=True)
class Load:
    """The sessions on stage, by what they do."""

    performing: int = 0
    listening: int = 0
    """Sessions that make nothing now and may any moment: paused, or with nothing to say and no idle chunks."""

    def weight(self, limits: AdmissionLimits) -> float:
        """How many performing sessions they count for."""
        return self.performing + self.listening * limits.listening_share


class Admission:
    """The test, on costs that change while sessions are performed."""

    def __init__(self, costs: Costs, chunk_s: float, limits: AdmissionLimits) -> None:
        self._costs = costs
        self._chunk_s = chunk_s
        self.limits = limits
        self._mean_life_s = FIRST_LIFE_S
        self._lives = 0

    def utilisation(self, load: Load) -> float:
        """Share of the device that these sessions may come to need; 0 for none."""
        weight = load.weight(self.limits)
        return (weight * self._costs.chunk_s + self._costs.quantum_s) / self._chunk_s if weight else 0.0

    def can_take(self, load: Load) -> bool:
        """Whether one more, which counts in full, passes the test beside these. An empty device takes one anyway."""
        more = Load(load.performing + 1, load.listening)
        is_empty = load.performing + load.listening == 0
        return is_empty or self.utilisation(more) <= self.limits.bound + _TOLERANCE

    def free(self, load: Load, most: int) -> int:
        """How many more pass the test beside these, at most `most`."""
        taken = 0
        while taken < most and self.can_take(Load(load.performing + taken, load.listening)):
            taken += 1
        return taken

    def ended(self, life_s: float) -> None:
        """A session ended after so many seconds."""
        self._lives += 1
        self._mean_life_s += (life_s - self._mean_life_s) * max(_LIFE_WEIGHT, 1 / self._lives)

    def retry_after_s(self, ends_s: Sequence[float | None]) -> float:
        """Seconds until the first session is expected to end. ends_s: for each, what is known of it, None for nothing.

        Of what nothing is known, lives as long as others did, whatever its age: the first of n after an n-th of that.
        """
        unknown = sum(end is None for end in ends_s)
        known = [end for end in ends_s if end is not None]
        first = min([*known, self._mean_life_s / unknown if unknown else math.inf], default=0.0)
        return min(max(first, _RETRY_S[0]), _RETRY_S[1])
