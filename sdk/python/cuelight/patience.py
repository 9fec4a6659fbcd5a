"""How long and how often a broken stream is opened again: full jitter, within a budget. Knows no stream."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from cuelight.rpc import Timeouts

_FIRST_BACKOFF_S, _MAX_BACKOFF_S = 0.1, 5.0


class Patience:
    """From a break until the stream stands again. The first try costs no time: most often another gateway is there."""

    def __init__(
        self,
        timeouts: Timeouts,
        clock: Callable[[], float] = time.monotonic,
        draw: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._timeouts, self._clock, self._draw = timeouts, clock, draw
        self._since: float | None = None
        self.tries = 0

    @property
    def waited_s(self) -> float:
        """Seconds since the break; 0 when there is none."""
        return 0.0 if self._since is None else self._clock() - self._since

    def recovered(self) -> None:
        """The stream stands and something came of it: another break is another beginning."""
        self._since, self.tries = None, 0

    def next_pause_s(self, retry_after_s: float | None = None) -> float | None:
        """Seconds to wait before the next try, at least as long as the server asked for after the first; None when the
        budget is used up.
        """
        if self._since is None:
            self._since = self._clock()
        if self.tries >= self._timeouts.recover_tries or self.waited_s >= self._timeouts.recover_s:
            return None
        self.tries += 1
        if self.tries == 1:
            return 0.0
        pause_s = self._draw(0.0, min(_FIRST_BACKOFF_S * 2 ** (self.tries - 1), _MAX_BACKOFF_S))
        return min(max(pause_s, retry_after_s or 0.0), self._timeouts.recover_s - self.waited_s)
