"""Turns what the store knows of a session into the messages of the public contract.

It knows both forms and decides nothing.
"""

from __future__ import annotations

from cuelight.v1 import session_pb2 as pb
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc.status_pb2 import Status as RpcStatus
from grpc import StatusCode

from gateway.sessions.validation import AUDIO_RATE, session_name
from services.bundle import Geometry
from services.session import Container, SessionRecord, SessionState

_STATES = {
    SessionState.PENDING: pb.SESSION_STATE_PENDING,
    SessionState.READY: pb.SESSION_STATE_READY,
    SessionState.ACTIVE: pb.SESSION_STATE_ACTIVE,
    SessionState.RECOVERING: pb.SESSION_STATE_RECOVERING,
    SessionState.CLOSED: pb.SESSION_STATE_CLOSED,
    SessionState.FAILED: pb.SESSION_STATE_FAILED,
}
_CONTAINERS = {
    Container.FMP4: pb.MEDIA_CONTAINER_FMP4,
    Container.ELEMENTARY: pb.MEDIA_CONTAINER_ELEMENTARY,
}


def duration(seconds: float) -> Duration:
    """Seconds as a protobuf duration, to the nanosecond."""
    message = Duration()
    message.FromNanoseconds(round(seconds * 1e9))
    return message


def timestamp(unix_s: float) -> Timestamp:
    """Unix time as a protobuf timestamp, to the microsecond."""
    message = Timestamp()
    message.FromMicroseconds(round(unix_s * 1e6))
    return message


def session_message(record: SessionRecord, geometry: Geometry) -> pb.Session:
    """A session as its client sees it; portrait and voice are left out, they are the client's own."""
    message = pb.Session(
        name=session_name(record.session_id),
        state=_STATES[record.state],
        config=_config_message(record, geometry),
        create_time=timestamp(record.create_time_s),
        expire_time=timestamp(record.expire_time_s),
        detach_ttl=duration(record.detach_ttl_s),
        oldest_media_offset=2 * record.oldest_chunk_index,
        next_media_offset=2 * record.next_chunk_index,
        epoch=record.epoch,
        etag=f"{record.version:x}",
    )
    if record.state is SessionState.FAILED:
        message.error.CopyFrom(RpcStatus(code=StatusCode.INTERNAL.value[0], message=record.error))
    return message


def _config_message(record: SessionRecord, geometry: Geometry) -> pb.SessionConfig:
    config = record.config
    message = pb.SessionConfig(
        character=config.character,
        instructions=config.instructions,
        regime=str(config.regime),
        planner=config.planner or "rule",
        video=pb.VideoConfig(
            width=geometry.width,
            height=geometry.height,
            frame_rate_millihertz=geometry.frames_per_second * 1000,
            container=_CONTAINERS[config.container],
        ),
        audio=pb.AudioConfig(sample_rate_hertz=AUDIO_RATE, channels=1, codec="opus"),
        seed=config.seed,
        labels=dict(config.labels),
    )
    if config.max_ahead_s is not None:
        message.max_ahead.CopyFrom(duration(config.max_ahead_s))
    return message
