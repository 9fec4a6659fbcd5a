"""Between the session's dataclasses and the messages of the contract, in both directions."""

from services.wire.clock import duration_from_seconds, seconds_from_duration, timestamp_from_unix
from services.wire.direction import (
    action_from_proto,
    action_to_proto,
    chunk_progress_from_proto,
    chunk_progress_to_proto,
    snapshot_from_proto,
    snapshot_to_proto,
)
from services.wire.media import (
    media_from_proto,
    media_to_proto,
    notice_from_proto,
    notice_to_proto,
    progress_to_proto,
    retired_from_proto,
    retired_to_proto,
    state_from_proto,
    state_to_proto,
)
from services.wire.tensors import tensor_from_proto, tensor_to_proto

__all__ = [
    "action_from_proto",
    "action_to_proto",
    "chunk_progress_from_proto",
    "chunk_progress_to_proto",
    "duration_from_seconds",
    "media_from_proto",
    "media_to_proto",
    "notice_from_proto",
    "notice_to_proto",
    "progress_to_proto",
    "retired_from_proto",
    "retired_to_proto",
    "seconds_from_duration",
    "snapshot_from_proto",
    "snapshot_to_proto",
    "state_from_proto",
    "state_to_proto",
    "tensor_from_proto",
    "tensor_to_proto",
    "timestamp_from_unix",
]
