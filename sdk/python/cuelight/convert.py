"""Protobuf messages to the plain values of ``cuelight.events``. Knows no stream."""

from __future__ import annotations

from collections.abc import Mapping

from google.protobuf.duration_pb2 import Duration

from cuelight.errors import ServerFault
from cuelight.events import (
    EndReason,
    Event,
    Fault,
    Media,
    Notice,
    Progress,
    ResponseEnded,
    ResponseStarted,
    Retired,
    SessionInfo,
    SessionState,
    StateChanged,
    Track,
    TrackInfo,
    Word,
)
from cuelight.rpc import from_status
from cuelight.v1 import session_pb2 as pb
from cuelight.v1 import types_pb2

_NANOS = 1_000_000_000
_END_REASONS = {
    pb.END_REASON_COMPLETED: EndReason.COMPLETED,
    pb.END_REASON_INTERRUPTED: EndReason.INTERRUPTED,
    pb.END_REASON_FAILED: EndReason.FAILED,
}


def duration(seconds: float) -> Duration:
    """Seconds as a protobuf Duration."""
    nanos = round(seconds * _NANOS)
    return Duration(seconds=nanos // _NANOS, nanos=nanos % _NANOS)


def seconds(value: Duration) -> float:
    """A protobuf Duration as seconds."""
    return value.seconds + value.nanos / _NANOS


def session_state(value: pb.SessionState.ValueType) -> SessionState:
    """The state by its enum value."""
    name = pb.SessionState.Name(value).removeprefix("SESSION_STATE_").lower()
    return SessionState.PENDING if name == "unspecified" else SessionState(name)


def session_info(message: pb.Session) -> SessionInfo:
    """A session as the server lists it."""
    return SessionInfo(
        name=message.name,
        state=session_state(message.state),
        character=message.config.character,
        regime=message.config.regime,
        next_media_offset=message.next_media_offset,
        created_at_s=message.create_time.seconds + message.create_time.nanos / _NANOS,
        expires_at_s=message.expire_time.seconds + message.expire_time.nanos / _NANOS,
        epoch=message.epoch,
    )


def track_info(message: pb.TrackInit) -> TrackInfo:
    """Start of a track."""
    return TrackInfo(Track(message.track), message.codec, message.timescale, message.init_data)


def media(message: pb.MediaChunk, timescales: Mapping[int, int]) -> Media:
    """Media, with the ticks a second its track was announced with."""
    if message.track not in timescales:
        raise ServerFault(f"Media came for track {message.track}, which was never announced.")
    if message.unit_sizes and sum(message.unit_sizes) != len(message.data):
        raise ServerFault(f"Media at offset {message.offset} is cut short.")
    return Media(
        offset=message.offset,
        track=Track(message.track),
        chunk_index=message.chunk_index,
        position=message.position,
        pts=message.pts,
        duration=message.duration,
        unit_duration=message.unit_duration,
        timescale=timescales[message.track],
        unit_sizes=tuple(message.unit_sizes),
        is_keyframe=message.keyframe,
        is_discontinuity=message.discontinuity,
        generation=message.generation,
        epoch=message.epoch,
        response_id=message.response_id,
        data=message.data,
        crc32c=message.crc32c,
    )


def progress(message: pb.Progress) -> Progress:
    """Progress and captions of one chunk."""
    words = (Word(word.index, word.text, seconds(word.start), seconds(word.end)) for word in message.words)
    return Progress(
        chunk_index=message.chunk_index,
        position=message.position,
        generation=message.generation,
        words_spoken=message.words_spoken,
        words_total=message.words_total,
        words=tuple(words),
        compute_s=seconds(message.compute_time),
        chunk_s=seconds(message.chunk_duration),
        prompt=message.prompt,
    )


def control_event(message: pb.StreamSessionResponse) -> Event | None:
    """The event of a message that is no media and needs no bookkeeping; None for one that only the stream reads."""
    match message.WhichOneof("message"):
        case "progress":
            return progress(message.progress)
        case "notice":
            return _notice(message.notice)
        case "error":
            return Fault(from_status(message.error.status), message.error.client_seq)
        case "response_started":
            started = message.response_started
            return ResponseStarted(started.response_id, started.client_seq, started.generation)
        case "response_ended":
            return _response_ended(message.response_ended)
        case "state_changed":
            changed = message.state_changed
            kept = changed.checkpoint_media_offset if changed.HasField("checkpoint_media_offset") else None
            return StateChanged(session_state(changed.state), changed.epoch, changed.reason, kept)
        case "retired":
            retired = message.retired
            return Retired(retired.generation, retired.first_position, tuple(retired.chunk_indices))
    return None


def _notice(message: types_pb2.Notice) -> Notice:
    return Notice(message.code, message.text, message.client_seq)


def _response_ended(message: pb.ResponseEnded) -> ResponseEnded:
    error = from_status(message.error) if message.HasField("error") else None
    reason = _END_REASONS.get(message.reason, EndReason.COMPLETED)
    return ResponseEnded(message.response_id, reason, seconds(message.generated), error)
