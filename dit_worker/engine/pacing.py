"""Where the audience stands, and from that: may the next chunk begin, and when is it due.

The playhead is extrapolated from the last acknowledgement, clamped to what was delivered and frozen on pause. The
run-ahead cap goes by what was acknowledged, never by a guess. It knows no session, no wall clock and no network.
"""

from __future__ import annotations

from dataclasses import dataclass

from dit_worker.engine.scheduler import Clock


@dataclass(frozen=True, slots=True)
class PacingLimits:
    """Seconds on the media clock, but for the two targets, which are seconds of work.

    chunk_s: length of a chunk. max_ahead_s: media begun beyond the acknowledged playhead, at least one chunk.
    first_chunk_target_s: from the cue to the first chunk. margin_s: what commit, decoding, encoding and sending take.
    """

    chunk_s: float
    max_ahead_s: float
    first_chunk_target_s: float
    margin_s: float


class Pacing:
    """One session's playhead and the deadlines that follow it."""

    def __init__(self, clock: Clock, limits: PacingLimits) -> None:
        self._clock = clock
        self.limits = limits
        self.acknowledged_s = 0.0
        self.delivered_s = 0.0
        self.is_paused = False
        self._heard_at: float | None = None

    def acknowledge(self, playhead_s: float) -> None:
        """The client says where it is: clamped to what was delivered, since nothing else can have been played."""
        self.acknowledged_s = min(max(playhead_s, 0.0), self.delivered_s)
        self._heard_at = self._clock()

    def deliver(self, end_s: float) -> None:
        """Media up to end_s was sent."""
        self.delivered_s = max(self.delivered_s, end_s)

    def retire(self, end_s: float) -> None:
        """Media from end_s on was taken back."""
        self.delivered_s = min(self.delivered_s, end_s)
        self.acknowledged_s = min(self.acknowledged_s, end_s)

    def pause(self, is_paused: bool) -> None:
        """Freeze the playhead where it stands, or let it run on."""
        if is_paused != self.is_paused:
            self.acknowledged_s, self._heard_at = self.playhead_s, self._clock()
        self.is_paused = is_paused

    @property
    def playhead_s(self) -> float:
        """Best guess of what is being played now, in seconds on the media clock."""
        if self._heard_at is None or self.is_paused:
            return self.acknowledged_s
        return min(self.acknowledged_s + self._clock() - self._heard_at, self.delivered_s)

    def playhead_in(self, delay_s: float) -> float:
        """Where playback will be after this many seconds, if nothing more is delivered."""
        if self._heard_at is None or self.is_paused:
            return self.acknowledged_s
        return min(self.playhead_s + delay_s, self.delivered_s)

    def can_begin(self, position: int) -> bool:
        """Whether the chunk at this position stays within the run-ahead cap. Its first chunk always does."""
        if self.is_paused:
            return False
        end_s = (position + 1) * self.limits.chunk_s
        cap_s = max(self.limits.max_ahead_s, self.limits.chunk_s)
        return end_s - self.acknowledged_s <= cap_s + 1e-6

    def deadline(self, position: int, asked_at: float) -> float:
        """When the chunk is due, on the monotonic clock.

        Once something was delivered: when the playhead reaches it, less the margin. Before, or when the audience has
        already run dry: a first-chunk target after it was asked for.
        """
        start_s = position * self.limits.chunk_s
        if self._heard_at is None or self.playhead_s >= self.delivered_s:
            return asked_at + self.limits.first_chunk_target_s
        return self._clock() + start_s - self.playhead_s - self.limits.margin_s
