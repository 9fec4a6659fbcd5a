"""Turns what the store knows of a session into the messages of the public contract.

It knows both forms and decides nothing.
"""

from __future__ import annotations

from google.rpc.status_pb2 import Status as RpcStatus
from grpc import StatusCode

from cuelight.v1 import session_pb2 as pb
from gateway.sessions.validation import AUDIO_RATE, session_name
from services.bundle import Geometry
from services.session import Container, SessionConfig, SessionRecord, SessionState
from services.wire import duration_from_seconds, state_to_proto, timestamp_from_unix

_CONTAINERS = {
    Container.FMP4: pb.MEDIA_CONTAINER_FMP4,
    Container.ELEMENTARY: pb.MEDIA_CONTAINER_ELEMENTARY,
}


def session_message(record: SessionRecord, geometry: Geometry) -> pb.Session:
    """A session as its client sees it; portrait and voice are left out, they are the client's own."""
    message = pb.Session(
        name=session_name(record.tenant, record.session_id),
        state=state_to_proto(record.state),
        config=config_message(record.config, geometry),
        create_time=timestamp_from_unix(record.create_time_s),
        expire_time=timestamp_from_unix(record.expire_time_s),
        detach_ttl=duration_from_seconds(record.detach_ttl_s),
        oldest_media_offset=2 * record.oldest_chunk_index,
        next_media_offset=2 * record.next_chunk_index,
        epoch=record.epoch,
        etag=f"{record.version:x}",
    )
    if record.state is SessionState.FAILED:
        message.error.CopyFrom(RpcStatus(code=StatusCode.INTERNAL.value[0], message=record.error))
    return message


def config_message(config: SessionConfig, geometry: Geometry) -> pb.SessionConfig:
    """A configuration with what the bundle decides filled in; portrait and voice are left out."""
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
        message.max_ahead.CopyFrom(duration_from_seconds(config.max_ahead_s))
    return message
