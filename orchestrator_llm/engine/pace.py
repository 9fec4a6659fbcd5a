"""How fast the bundle speaks, as measured: syllables a second over the chunks it spoke through.

Shared by the sessions of a process, whose voices differ by less than the guess it starts from. It knows no sessions.
"""

from __future__ import annotations

import threading
from collections import deque
from statistics import median

MEASURED_CHUNKS = 64
ENOUGH_CHUNKS = 4
"""Below so many the guess holds."""
PLAUSIBLE = (1.0, 12.0)


class SpeakingRate:
    """The median of the last chunks; any thread may add to it."""

    def __init__(self, guess: float) -> None:
        """Begin with a guess, in syllables a second."""
        self._guess = guess
        self._measured: deque[float] = deque(maxlen=MEASURED_CHUNKS)
        self._lock = threading.Lock()

    def add(self, syllables: float, seconds: float) -> None:
        """A chunk was spoken through, without a silence at its end."""
        with self._lock:
            self._measured.append(syllables / seconds)

    @property
    def per_second(self) -> float:
        """Syllables a second."""
        with self._lock:
            if len(self._measured) < ENOUGH_CHUNKS:
                return self._guess
            return min(max(median(self._measured), PLAUSIBLE[0]), PLAUSIBLE[1])
