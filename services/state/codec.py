"""How the session's dataclasses are laid down in Redis: JSON for what is small, raw float32 with its shape for latents.

What cannot be read is StateCorrupt: it says what it was and never what stands there. Knows the form, not the keys.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
from pydantic import TypeAdapter

from services.errors import StateCorrupt
from services.session import (
    ChunkCommit,
    ChunkInputs,
    Cue,
    CueKind,
    Latents,
    SessionConfig,
    SessionRecord,
    SessionState,
)

Fields = Mapping[bytes, bytes]
MOST_AXES = 8

_COMMIT = TypeAdapter(ChunkCommit)
_INPUTS = TypeAdapter(ChunkInputs)
_CONFIG = TypeAdapter(SessionConfig)


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Turn whatever goes wrong inside, or in the function this decorates, into StateCorrupt."""
    try:
        yield
    except (KeyError, IndexError, TypeError, ValueError, struct.error):
        # Without its cause, which would quote users' words in a log.
        raise StateCorrupt(f"what Redis holds as {what} cannot be that") from None


def commit_to_json(commit: ChunkCommit) -> bytes:
    """Lay down a commit."""
    return _COMMIT.dump_json(commit)


@reading("a commit")
def commit_from_json(data: bytes) -> ChunkCommit:
    """Read a commit."""
    return _COMMIT.validate_json(data)


def inputs_to_json(inputs: ChunkInputs) -> bytes:
    """Lay down a chunk's inputs."""
    return _INPUTS.dump_json(inputs)


@reading("a chunk's inputs")
def inputs_from_json(data: bytes) -> ChunkInputs:
    """Read a chunk's inputs."""
    return _INPUTS.validate_json(data)


def config_to_json(config: SessionConfig) -> bytes:
    """Lay down a configuration without its portrait and voice, which have a key of their own."""
    return _CONFIG.dump_json(replace(config, portrait=b"", voice=b""))


def latents_to_bytes(latents: Latents) -> bytes:
    """Lay down an array, little-endian: number of axes and their lengths (uint32), then float32 in row-major order."""
    array = np.asarray(latents, dtype="<f4", order="C")
    if not np.isfinite(array).all():
        raise ValueError("latents hold values that are not finite")
    return struct.pack(f"<I{array.ndim}I", array.ndim, *array.shape) + array.tobytes()


@reading("latents")
def latents_from_bytes(data: bytes) -> Latents:
    """Read an array that `latents_to_bytes` laid down."""
    (axes,) = struct.unpack_from("<I", data)
    if axes > MOST_AXES:
        raise ValueError(f"{axes} axes")
    shape = struct.unpack_from(f"<{axes}I", data, 4)
    return np.frombuffer(data, dtype="<f4", offset=4 + 4 * axes).reshape(shape).astype(np.float32)


def cue_to_fields(cue: Cue) -> list[str]:
    """Lay down a cue as the fields of a stream entry whose id is its client_seq."""
    playhead = "" if cue.playhead_s is None else repr(float(cue.playhead_s))
    barge_in = "1" if cue.barge_in else "0"
    traced = ["trace", cue.trace] if cue.trace else []
    return ["kind", cue.kind.value, "text", cue.text, "playhead_s", playhead, "barge_in", barge_in, *traced]


@reading("a cue")
def cue_from_entry(entry_id: bytes, fields: Fields) -> Cue:
    """Read a cue."""
    playhead = fields[b"playhead_s"]
    return Cue(
        client_seq=int(entry_id.partition(b"-")[0]),
        kind=CueKind(fields[b"kind"].decode()),
        text=fields[b"text"].decode(),
        playhead_s=float(playhead) if playhead else None,
        barge_in=fields[b"barge_in"] == b"1",
        trace=fields.get(b"trace", b"").decode(),
    )


@reading("a session's record")
def record_from_fields(session_id: str, fields: Fields) -> SessionRecord:
    """Read a record; portrait and voice stay empty."""

    def text(name: str) -> str:
        return fields[name.encode()].decode()

    return SessionRecord(
        session_id=session_id,
        tenant=text("tenant"),
        config=_CONFIG.validate_json(fields[b"config"]),
        state=SessionState(text("state")),
        bundle=text("bundle"),
        create_time_s=int(text("created_ms")) / 1000,
        expire_time_s=int(text("expire_ms")) / 1000,
        detach_ttl_s=int(text("detach_ttl_ms")) / 1000,
        epoch=int(text("epoch")),
        generation=int(text("generation")),
        next_chunk_index=int(text("next_chunk")),
        oldest_chunk_index=int(text("oldest_chunk")),
        last_client_seq=int(text("last_client_seq")),
        error=text("error"),
        owner=text("owner"),
        version=int(text("version")),
        token_digests=tuple(text("token_digests").split()),
        state_schema=int(fields.get(b"state_schema", b"1")),  # a gateway of before the first change wrote none
    )
