"""Which of two a session uses while one takes the other's place: by share of sessions, and always the same for each.

It serves planners and conditioners alike, and knows neither.
"""

from __future__ import annotations

import zlib
from typing import Generic, TypeVar

Choice = TypeVar("Choice")


class Rollout(Generic[Choice]):
    """What is in use, and what is coming into use. A session asks at the beginning of each chunk."""

    def __init__(self, current: Choice) -> None:
        self.current = current
        self.candidate: Choice | None = None
        self.percent = 0

    def choose(self, session_id: str) -> Choice:
        """What this session uses now."""
        return self.candidate if self.candidate is not None and self._is_moved(session_id) else self.current

    def begin(self, candidate: Choice, percent: int) -> None:
        """From now on so many sessions in a hundred use the candidate."""
        self.candidate, self.percent = candidate, percent

    def settle(self) -> Choice:
        """The candidate is what is in use; returns what was before."""
        assert self.candidate is not None, "nothing is coming into use"
        before, self.current = self.current, self.candidate
        self.back()
        return before

    def back(self) -> None:
        """All sessions use what they did before."""
        self.candidate, self.percent = None, 0

    def follow(self, current: Choice, candidate: Choice | None, percent: int) -> None:
        """As another replica has decided."""
        self.current, self.candidate, self.percent = current, candidate, percent if candidate is not None else 0

    def _is_moved(self, session_id: str) -> bool:
        return zlib.crc32(session_id.encode()) % 100 < self.percent
