"""Where the audience stands, and from that: may the next chunk begin, and when is it due.

The playhead is extrapolated from the last acknowledgement, clamped to what was delivered and frozen on pause. The
run-ahead cap goes by what was acknowledged, and only for the first chunk of an answer by where playback will be when
that is due. It knows no session, no wall clock and no network.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from dit_worker.engine.playback import Playback, Player
from dit_worker.engine.scheduler import Clock

_SOUND_SHORT_S = 0.02 + 1e-6
"""A chunk's sound may end up to a packet before its picture, and some audiences go by what they have heard."""


@dataclass(frozen=True, slots=True)
class PacingLimits:
    """Seconds on the media clock, but for the target and the margin, which are seconds of work.

    chunk_s: length of a chunk. max_ahead_s: media begun beyond the acknowledged playhead, at least one chunk.
    first_chunk_target_s: from the cue to the first chunk. margin_s: what else is between steps and playback than
    decoding and encoding, which are measured.
    """

    chunk_s: float
    max_ahead_s: float
    first_chunk_target_s: float
    margin_s: float


FAR_S = 1e9
"""A deadline this far away is none."""


class Pacing:
    """One session's playhead and the deadlines that follow it."""

    def __init__(self, clock: Clock, limits: PacingLimits, media: Callable[[], float] = lambda: 0.0) -> None:
        """media: seconds that decoding and encoding a chunk take of late."""
        self._clock = clock
        self._media = media
        self.limits = limits
        self.acknowledged_s = 0.0
        self.delivered_s = 0.0
        self.is_paused = False
        self.player = Player(Playback())
        """Playback at normal speed from the first delivery on, or from where the client was when the session came here,
        whatever is acknowledged: for measuring alone."""
        self._has_heard = False
        self._is_resumed = False
        """Whether the session came from another worker, and its client has not said yet where it is."""
        self._anchor: tuple[float, float] | None = None
        """A place on the media clock that playback had come to at most, and when it was there."""

    def resume(self, acknowledged_s: float, delivered_s: float) -> None:
        """Take over from another worker: media up to delivered_s is out, where the client is it has yet to say."""
        self.acknowledged_s, self.delivered_s = acknowledged_s, delivered_s
        self.player = Player(Playback())
        self.player.has_s = self.player.place_s = delivered_s
        self._has_heard, self._anchor, self._is_resumed = False, None, True

    def acknowledge(self, playhead_s: float) -> None:
        """The client says where it is: clamped to what was delivered, since nothing else can have been played."""
        self.acknowledged_s = min(max(playhead_s, 0.0), self.delivered_s)
        self._has_heard, self._anchor = True, (self.acknowledged_s, self._clock())
        if self._is_resumed:
            self._is_resumed = False
            self.player.go_on(self.acknowledged_s, self._clock())

    def join(self) -> None:
        """Somebody comes at the live edge, who has nothing to play before it; where playback is, is yet to be said."""
        self.acknowledged_s = self.delivered_s
        if self._anchor is not None:
            self._anchor = (self.delivered_s, self._clock())

    def deliver(self, end_s: float) -> None:
        """Media up to end_s was sent. Playback that had run dry goes on from here, not from where it stopped."""
        if self._is_dry:
            self._anchor = (self.delivered_s, self._clock())
        self.delivered_s = max(self.delivered_s, end_s)
        self.player.receive(end_s, self._clock())

    def retire(self, end_s: float) -> None:
        """Media from end_s on was taken back."""
        reached_s = min(self._reached_s, end_s)
        self.delivered_s = min(self.delivered_s, end_s)
        self.acknowledged_s = min(self.acknowledged_s, end_s)
        self.player.retire(end_s, self._clock())
        if self._anchor is not None:
            self._anchor = (reached_s, self._clock())

    def pause(self, is_paused: bool) -> None:
        """Freeze the playhead where it stands, or let it run on."""
        if is_paused != self.is_paused and self._anchor is not None:
            self._anchor = (self._reached_s, self._clock())
        if is_paused != self.is_paused:
            self.player.hold(is_paused, self._clock())
        self.is_paused = is_paused

    @property
    def playhead_s(self) -> float:
        """Best guess of what is being played now, in seconds on the media clock."""
        return self._reached_s if self._has_heard else self.acknowledged_s

    def playhead_in(self, delay_s: float) -> float:
        """Where playback will be after this many seconds, if nothing more is delivered."""
        if not self._has_heard or self.is_paused:
            return self.playhead_s
        return min(self.playhead_s + delay_s, self.delivered_s)

    def can_begin(self, position: int, *, is_answer: bool = False) -> bool:
        """Whether the chunk at this position stays within the run-ahead cap. Its first chunk always does.

        The first chunk of an answer does if it will be within it when it is due: somebody waits for it.
        """
        if self.is_paused:
            return False
        end_s = (position + 1) * self.limits.chunk_s
        cap_s = max(self.limits.max_ahead_s, self.limits.chunk_s)
        from_s = self.playhead_in(self.limits.first_chunk_target_s) if is_answer else self.acknowledged_s
        return end_s - from_s <= cap_s + _SOUND_SHORT_S

    def deadline(self, position: int, asked_at: float, *, is_answer: bool = False) -> float:
        """When the chunk's steps are due, on the monotonic clock.

        While media is played: when the playhead can reach the chunk; the first chunk of an answer a target after it was
        asked for at the latest. Before, or when the audience has run dry: a target after it was asked for. Less what
        follows the steps. Chunks behind such a first one: when those before them, asked for earlier, have been played.
        """
        start_s, margin_s = position * self.limits.chunk_s, self.limits.margin_s + self._media()
        first_due = asked_at + self.limits.first_chunk_target_s - margin_s
        if self._anchor is not None and not self._is_dry:
            due = self._clock() + start_s - self._reached_s - margin_s
            return min(due, first_due) if is_answer else due
        ahead_s = start_s - self.delivered_s
        return asked_at + ahead_s if ahead_s > 1e-6 else first_due

    @property
    def _reached_s(self) -> float:
        """Where playback is at most."""
        if self._anchor is None:
            return self.acknowledged_s
        place_s, at = self._anchor
        return place_s if self.is_paused else min(place_s + self._clock() - at, self.delivered_s)

    @property
    def _is_dry(self) -> bool:
        """Nothing is left to play, as far as is known."""
        return self._reached_s >= self.delivered_s


class Unhurried(Pacing):
    """Of a render: nobody waits for any of its chunks, so that every other session's are due before."""

    def deadline(self, position: int, asked_at: float, *, is_answer: bool = False) -> float:  # noqa: ARG002
        """As good as none."""
        return self._clock() + FAR_S
