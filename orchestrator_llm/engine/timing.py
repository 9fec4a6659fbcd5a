"""When each word is heard, from the pointer's soft positions p_j (eq. 5 of the paper's pointer).

Positions run over tokens, time over the frames of one chunk; a word begins when the position comes to its first token
and ends when it leaves its last. It knows nothing of transcripts, models or messages.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

TYPICAL_TOKEN_S = 0.08
"""Length of a token where the chunk itself says too little: 12 to 13 phones a second."""
MAX_OVERHANG_S = 1.0
"""A word that straddles the border is taken to end at most this long after it."""


class ChunkClock:
    """Inverts one chunk's positions: token index to seconds from the chunk's beginning.

    positions (T,) absolute tokens at the middle of each frame, in any order the model likes; they are made to rise
    and kept between `before` and `after`, the pointer at the chunk's two ends.
    """

    def __init__(self, positions: NDArray[np.float64], before: float, after: float, chunk_seconds: float) -> None:
        frames = len(positions)
        middle = (np.arange(frames) + 0.5) * (chunk_seconds / frames)
        rising = np.maximum.accumulate(np.clip(positions, before, after))
        self._tokens = np.concatenate([[before], rising, [after]])
        self._seconds = np.concatenate([[0.0], middle, [chunk_seconds]])
        self._heard = float(rising[-1])
        self._token_s = chunk_seconds / (after - before) if after - before > 2 else TYPICAL_TOKEN_S

    def reaches(self, token: float) -> float:
        """Seconds until the position first comes to `token`, linear between frames; estimated beyond the chunk."""
        right = int(np.searchsorted(self._tokens, token, side="left"))
        if right == 0:
            return 0.0
        if right == len(self._tokens):
            beyond = (token - float(self._tokens[-1])) * self._token_s
            return float(self._seconds[-1]) + min(beyond, MAX_OVERHANG_S)
        low, high = self._tokens[right - 1], self._tokens[right]
        share = (token - low) / (high - low)
        return float(self._seconds[right - 1] + share * (self._seconds[right] - self._seconds[right - 1]))

    def last_heard(self, token: float) -> float:
        """As `reaches`, in the chunk that ends the transcript: the positions may stop just short of its last token."""
        return self.reaches(min(token, self._heard))
