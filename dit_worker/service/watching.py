"""What one session's audience goes through, as far as its worker can tell, on the worker's metrics.

Playback is followed at normal speed from the first chunk on; network and the buffers of clients are not known here.
"""

from __future__ import annotations

from dit_worker.engine.encode import OPUS_RATE, VIDEO_TIMESCALE
from dit_worker.engine.media import EncodedChunk
from dit_worker.engine.pacing import Pacing
from dit_worker.engine.playback import CLEAN_STALL_S
from dit_worker.service.pipeline import Take
from dit_worker.service.station import Station
from services.session import Priority, Regime, SessionConfig


class Watching:
    """One session, from its first chunk here to its end."""

    def __init__(self, station: Station, config: SessionConfig, pacing: Pacing) -> None:
        self._station = station
        self._pacing = pacing
        self._goes_on_in_silence = config.regime is Regime.CONVERSATION
        self._has_audience = config.priority is Priority.WATCHED
        self._published_at: float | None = None
        self._told_s = (0.0, 0.0)
        """Seconds of playing and of standing still that are on the metrics already."""
        self._is_late = False
        """Whether an answer came after its target."""

    def published(self, take: Take, encoded: EncodedChunk) -> None:
        """A chunk's media are there: the playhead may come this far."""
        station, pacing, now = self._station, self._pacing, self._station.now()
        metrics, start_s = station.figures.metrics, take.commit.position * station.chunk_s
        if not self._has_audience:
            pacing.deliver(start_s + station.chunk_s)
            return
        if self._published_at is not None and pacing.player.expects_more:
            metrics.chunk_gap.observe(now - self._published_at)
        metrics.av_skew.observe(_skew_s(encoded))
        if take.asked_at is not None and take.commit.response_seq:
            ttfc_s = now - take.asked_at
            self._is_late |= ttfc_s > pacing.limits.first_chunk_target_s
            station.figures.answered(ttfc_s, max(0.0, start_s - pacing.playhead_s))
        pacing.deliver(start_s + station.chunk_s)
        pacing.player.expects_more = self._goes_on_in_silence or not take.commit.progress.is_finished
        self._published_at = now
        self._tell()

    def ended(self) -> None:
        """The session is over."""
        if self._published_at is None:
            return
        self._pacing.player.leave(self._station.now())
        self._tell()
        stall_s = max(self._pacing.player.playback.stalls_s, default=0.0)
        is_clean = stall_s <= CLEAN_STALL_S and not self._is_late
        self._station.figures.metrics.ended.labels(str(is_clean).lower()).inc()

    def _tell(self) -> None:
        playback, metrics = self._pacing.player.playback, self._station.figures.metrics
        self._pacing.player.look(self._station.now())
        now_s = (playback.played_s, sum(playback.stalls_s))
        metrics.played.inc(now_s[0] - self._told_s[0])
        metrics.stalled.inc(now_s[1] - self._told_s[1])
        self._told_s = now_s


def _skew_s(encoded: EncodedChunk) -> float:
    """By how much picture and sound end apart, by their timestamps."""
    ends = (
        (track.pts + track.unit_ticks * len(track.units)) / rate
        for track, rate in ((encoded.video, VIDEO_TIMESCALE), (encoded.audio, OPUS_RATE))
    )
    video_s, audio_s = ends
    return abs(video_s - audio_s)
