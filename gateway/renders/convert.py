"""Turns what the store knows of a render into the messages of the public contract. It decides nothing."""

from __future__ import annotations

from google.rpc.status_pb2 import Status as RpcStatus
from grpc import StatusCode

from cuelight.v1 import render_pb2 as pb
from gateway.renders.validation import render_name
from gateway.sessions.convert import config_message
from services.bundle import Geometry
from services.render import RenderRecord, RenderState
from services.wire import duration_from_seconds, timestamp_from_unix

_STATES: dict[RenderState, pb.RenderState.ValueType] = {
    RenderState.QUEUED: pb.RENDER_STATE_QUEUED,
    RenderState.RUNNING: pb.RENDER_STATE_RUNNING,
    RenderState.SUCCEEDED: pb.RENDER_STATE_SUCCEEDED,
    RenderState.FAILED: pb.RENDER_STATE_FAILED,
    RenderState.CANCELLED: pb.RENDER_STATE_CANCELLED,
}


def render_message(record: RenderRecord, geometry: Geometry) -> pb.Render:
    """A render as its owner sees it; portrait, voice and script are left out, they are the owner's own."""
    progress = record.progress
    message = pb.Render(
        name=render_name(record.key),
        state=_STATES[record.state],
        config=config_message(record.config, geometry),
        create_time=timestamp_from_unix(record.create_time_s),
        update_time=timestamp_from_unix(record.update_time_s),
        expire_time=timestamp_from_unix(record.expire_time_s),
        chunks_done=progress.chunks,
        media_done=duration_from_seconds(progress.media_s),
        words_done=progress.words,
        words_total=progress.words_total,
        is_waiting=progress.is_waiting,
        attempts=record.attempts,
    )
    if record.state is RenderState.FAILED:
        message.error.CopyFrom(RpcStatus(code=StatusCode.INTERNAL.value[0], message=record.error))
    if record.file is not None:
        message.file.CopyFrom(
            pb.RenderFile(
                size_bytes=record.file.size_bytes,
                sha256=bytes.fromhex(record.file.sha256),
                duration=duration_from_seconds(record.file.duration_s),
            )
        )
    return message
