"""What the worker publishes, as messages of the contract.

It knows both forms and decides nothing.
"""

from __future__ import annotations

from typing import TypeAlias

from cuelight.v1 import session_pb2, worker_pb2
from dit_worker.engine.encode import AUDIO_CODEC, VIDEO_CODEC
from dit_worker.engine.media import EncodedTrack, TrackStart
from services.session import AUDIO_TRACK, VIDEO_TRACK, ChunkCommit, MediaUnits, Notice, Retired, SessionState
from services.wire import (
    duration_from_seconds,
    media_to_proto,
    notice_to_proto,
    progress_to_proto,
    retired_to_proto,
    state_to_proto,
)

HostResponse = worker_pb2.HostResponse
EndReason: TypeAlias = session_pb2.EndReason.ValueType
COMPLETED: EndReason = session_pb2.END_REASON_COMPLETED
INTERRUPTED: EndReason = session_pb2.END_REASON_INTERRUPTED
FAILED: EndReason = session_pb2.END_REASON_FAILED


def response_id(client_seq: int) -> str:
    """The id of the response to a cue: unique in the session, the same on every worker; empty for none."""
    return f"r{client_seq}" if client_seq else ""


def track_inits(starts: tuple[TrackStart, TrackStart]) -> list[session_pb2.TrackInit]:
    """Starts of the two tracks, video before audio, in ELEMENTARY form."""
    codecs = ((VIDEO_TRACK, VIDEO_CODEC), (AUDIO_TRACK, AUDIO_CODEC))
    return [
        session_pb2.TrackInit(track=track, codec=codec, timescale=start.timescale, init_data=start.init_data)
        for (track, codec), start in zip(codecs, starts, strict=True)
    ]


def hosted(
    epoch: int, next_chunk_index: int, generation: int, starts: tuple[TrackStart, TrackStart]
) -> worker_pb2.Hosted:
    """The answer to a claim: where the session stands, with all of its state."""
    return worker_pb2.Hosted(
        epoch=epoch,
        state_preserved=True,
        next_chunk_index=next_chunk_index,
        generation=generation,
        tracks=track_inits(starts),
    )


def media(
    track: int, encoded: EncodedTrack, commit: ChunkCommit, *, epoch: int, response_id: str, is_after_cut: bool
) -> HostResponse:
    """One track of one chunk."""
    units = MediaUnits(
        track=track,
        chunk_index=commit.chunk_index,
        position=commit.position,
        pts=encoded.pts,
        unit_duration=encoded.unit_ticks,
        unit_sizes=tuple(len(unit) for unit in encoded.units),
        data=b"".join(encoded.units),
        keyframe=True,
        generation=commit.generation,
        epoch=epoch,
    )
    return HostResponse(media=media_to_proto(units, response_id=response_id, discontinuity=is_after_cut))


def progress(commit: ChunkCommit, *, compute_s: float, chunk_s: float) -> HostResponse:
    """How far the speech has come with a chunk, word times on the media clock."""
    return HostResponse(progress=progress_to_proto(commit, chunk_seconds=chunk_s, compute_s=compute_s))


def state_changed(
    state: SessionState, *, epoch: int, reason: str = "", checkpoint_offset: int | None = None
) -> HostResponse:
    """The session changed state."""
    message = session_pb2.StateChanged(state=state_to_proto(state), epoch=epoch, reason=reason)
    if checkpoint_offset is not None:
        message.checkpoint_media_offset = checkpoint_offset
    return HostResponse(state=message)


def notice(told: Notice) -> HostResponse:
    """Something about an input that is no fault."""
    return HostResponse(notice=notice_to_proto(told))


def response_started(name: str, client_seq: int, generation: int) -> HostResponse:
    """A response began."""
    started = session_pb2.ResponseStarted(response_id=name, client_seq=client_seq, generation=generation)
    return HostResponse(response_started=started)


def response_ended(name: str, reason: EndReason, generated_s: float) -> HostResponse:
    """A response ended."""
    generated = duration_from_seconds(generated_s)
    ended = session_pb2.ResponseEnded(response_id=name, reason=reason, generated=generated)
    return HostResponse(response_ended=ended)


def retired(cut: Retired) -> HostResponse:
    """Chunks were taken off the timeline."""
    return HostResponse(retired=retired_to_proto(cut))


def moved(worker_id: str, address: str, epoch: int) -> HostResponse:
    """Another worker has the session."""
    return HostResponse(moved=worker_pb2.Moved(worker_id=worker_id, address=address, epoch=epoch))
