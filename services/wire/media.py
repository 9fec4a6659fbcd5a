"""What a worker says to the audience: media, captions, notices, states and what was retired."""

from __future__ import annotations

import google_crc32c

from cuelight.v1 import session_pb2 as pb
from cuelight.v1.types_pb2 import Notice as NoticeMessage
from services.errors import InvalidInput
from services.session import ChunkCommit, MediaUnits, Notice, Retired, SessionState
from services.wire.clock import duration_from_seconds

_STATES: dict[SessionState, pb.SessionState.ValueType] = {
    SessionState.PENDING: pb.SESSION_STATE_PENDING,
    SessionState.READY: pb.SESSION_STATE_READY,
    SessionState.ACTIVE: pb.SESSION_STATE_ACTIVE,
    SessionState.RECOVERING: pb.SESSION_STATE_RECOVERING,
    SessionState.CLOSED: pb.SESSION_STATE_CLOSED,
    SessionState.FAILED: pb.SESSION_STATE_FAILED,
}
_STATES_BACK = {message: state for state, message in _STATES.items()}


def media_to_proto(units: MediaUnits, *, response_id: str = "", discontinuity: bool = False) -> pb.MediaChunk:
    """Return the ELEMENTARY message of one chunk and track, with its checksum."""
    return pb.MediaChunk(
        offset=units.offset,
        track=units.track,
        pts=units.pts,
        duration=units.unit_duration * len(units.unit_sizes),
        keyframe=units.keyframe,
        discontinuity=discontinuity,
        response_id=response_id,
        generation=units.generation,
        epoch=units.epoch,
        data=units.data,
        crc32c=google_crc32c.value(units.data),
        chunk_index=units.chunk_index,
        position=units.position,
        unit_sizes=units.unit_sizes,
        unit_duration=units.unit_duration,
    )


def media_from_proto(message: pb.MediaChunk) -> MediaUnits:
    """Read an ELEMENTARY message. Raises InvalidInput when its sizes or its checksum do not fit its bytes."""
    if sum(message.unit_sizes) != len(message.data):
        raise InvalidInput("unit_sizes do not add up to the length of data", field="media.unit_sizes")
    if google_crc32c.value(message.data) != message.crc32c:
        raise InvalidInput("data do not have the checksum crc32c", field="media.crc32c")
    return MediaUnits(
        track=message.track,
        chunk_index=message.chunk_index,
        position=message.position,
        pts=message.pts,
        unit_duration=message.unit_duration,
        unit_sizes=tuple(message.unit_sizes),
        data=message.data,
        keyframe=message.keyframe,
        generation=message.generation,
        epoch=message.epoch,
    )


def progress_to_proto(commit: ChunkCommit, *, chunk_seconds: float, compute_s: float = 0.0) -> pb.Progress:
    """Return the public progress of a committed chunk, its words placed on the media clock."""
    start_s = commit.position * chunk_seconds
    return pb.Progress(
        chunk_index=commit.chunk_index,
        words_spoken=commit.progress.pointer_word,
        words_total=commit.progress.words_total,
        words=[
            pb.SpokenWord(
                index=word.index,
                text=word.text,
                start=duration_from_seconds(start_s + word.start_s),
                end=duration_from_seconds(start_s + word.end_s),
            )
            for word in commit.progress.words
        ],
        position=commit.position,
        generation=commit.generation,
        compute_time=duration_from_seconds(compute_s),
        chunk_duration=duration_from_seconds(chunk_seconds),
        prompt=commit.prompt,
    )


def retired_to_proto(retired: Retired) -> pb.Retired:
    """Return the message of what was taken off the timeline."""
    return pb.Retired(
        generation=retired.generation, first_position=retired.first_position, chunk_indices=retired.chunk_indices
    )


def retired_from_proto(message: pb.Retired) -> Retired:
    """Read what was taken off the timeline; the words heard do not travel."""
    return Retired(message.generation, message.first_position, tuple(message.chunk_indices), 0)


def notice_to_proto(notice: Notice) -> NoticeMessage:
    """Return the message of a notice."""
    return NoticeMessage(code=notice.code, text=notice.text, client_seq=notice.client_seq)


def notice_from_proto(message: NoticeMessage) -> Notice:
    """Read a notice."""
    return Notice(message.code, message.text, message.client_seq)


def state_to_proto(state: SessionState) -> pb.SessionState.ValueType:
    """Return the message's name of a state."""
    return _STATES[state]


def state_from_proto(message: pb.SessionState.ValueType) -> SessionState:
    """Read a state. Raises InvalidInput for one that is not known."""
    if message not in _STATES_BACK:
        raise InvalidInput(f"session state {message} is not known", field="state")
    return _STATES_BACK[message]
