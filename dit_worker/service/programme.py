"""What the audience gets to know of one session, in order: responses, captions, media, cuts, states.

It numbers nothing itself: offsets come from chunk indices, responses from the cue they answer. It knows no engine and
no store.
"""

from __future__ import annotations

from dataclasses import dataclass

from dit_worker.engine.media import EncodedChunk
from dit_worker.service import messages
from dit_worker.service.pipeline import Take
from dit_worker.service.ring import MediaRing
from services.session import AUDIO_TRACK, VIDEO_TRACK, ChunkCommit, Notice, Retired, SessionState


@dataclass(slots=True)
class Response:
    """The response that is being performed."""

    client_seq: int
    generated_s: float = 0.0

    @property
    def response_id(self) -> str:
        """Its id."""
        return messages.response_id(self.client_seq)


class Programme:
    """Publishes into one session's ring."""

    def __init__(self, ring: MediaRing, chunk_s: float) -> None:
        self.ring = ring
        self.epoch = 0
        self.generation = 0
        self._chunk_s = chunk_s
        self._response: Response | None = None

    def resume(self, client_seq: int, generated_s: float) -> None:
        """Go on with the response to this cue, which another worker began; 0 when there is none."""
        self._response = Response(client_seq, generated_s) if client_seq else None

    def chunk(self, take: Take, encoded: EncodedChunk, compute_s: float) -> None:
        """A chunk: its response's beginning if it is the first, captions, picture, sound, the response's end."""
        commit = take.commit
        response = self._respond(commit)
        response_id = response.response_id if response else ""
        self.ring.publish(messages.progress(commit, compute_s=compute_s, chunk_s=self._chunk_s))
        for track, units in ((VIDEO_TRACK, encoded.video), (AUDIO_TRACK, encoded.audio)):
            message = messages.media(
                track, units, commit, epoch=self.epoch, response_id=response_id, is_after_cut=take.is_after_cut
            )
            message.traceparent = take.trace
            self.ring.publish(message)
        if response is not None:
            response.generated_s += self._chunk_s
            if commit.progress.is_finished:
                self.end_response(messages.COMPLETED)

    def cut(self, cut: Retired, *, is_interrupt: bool, before_offset: int | None = None) -> None:
        """Chunks were taken back; with an interrupt the response ends. `before_offset` when it was elsewhere."""
        self.generation = cut.generation
        self.ring.retire(cut.chunk_indices)
        self.ring.publish(messages.retired(cut), before_offset=before_offset)
        if is_interrupt:
            self.end_response(messages.INTERRUPTED)

    def end_response(self, reason: messages.EndReason) -> None:
        """The response that is being performed, if there is one, is over."""
        if self._response is not None:
            ended = messages.response_ended(self._response.response_id, reason, self._response.generated_s)
            self.ring.publish(ended)
            self._response = None

    def notice(self, told: Notice) -> None:
        """Tell of an input that was not taken literally."""
        self.ring.publish(messages.notice(told))

    def state(self, state: SessionState, *, reason: str = "", checkpoint_offset: int | None = None) -> None:
        """Tell of a new state."""
        self.ring.publish(
            messages.state_changed(state, epoch=self.epoch, reason=reason, checkpoint_offset=checkpoint_offset)
        )

    def _respond(self, commit: ChunkCommit) -> Response | None:
        if commit.response_seq == 0:
            return None
        if self._response is None or self._response.client_seq != commit.response_seq:
            self._response = Response(commit.response_seq)
            self.ring.publish(
                messages.response_started(self._response.response_id, commit.response_seq, commit.generation)
            )
        return self._response
