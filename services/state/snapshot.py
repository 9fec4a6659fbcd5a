"""What was read of a session in one look, and the snapshot a worker goes on from.

Knows the form of the keys' values, not Redis.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from services.session import (
    ChunkInputs,
    HistoryChunk,
    Latents,
    Retired,
    SessionSnapshot,
    StoredChunk,
)
from services.state import codec
from services.state.timeline import Position, TimelineChunk


@dataclass(frozen=True)
class StoredSession:
    """The values of a session's keys, as Redis gave them at one moment."""

    record: Mapping[bytes, bytes]
    assets: Mapping[bytes, bytes]
    chunks: Sequence[tuple[bytes, Mapping[bytes, bytes]]]
    transcript: Sequence[bytes]
    inputs: bytes | None
    latents: Mapping[bytes, bytes]

    def text(self, name: str) -> str:
        """Return one field of the record."""
        return self.record[name.encode()].decode()

    def position(self) -> Position:
        """Return where the next chunk goes on from."""
        return Position(
            head=int(self.text("head")) if self.text("head") else None,
            next_position=int(self.text("next_position")),
            pointer_token=float(self.text("pointer_token")),
            pointer_word=int(self.text("pointer_word")),
            word_token=int(self.text("word_token")),
        )

    def pieces(self) -> tuple[str, ...]:
        """Return the accepted transcript."""
        return tuple(piece.decode() for piece in self.transcript)

    def prompt(self) -> str:
        """Return what was asked of the picture and still holds."""
        return self.record.get(b"prompt", b"").decode()  # a session begun by an earlier version has none

    def memory(self) -> str:
        """Return what the planner remembers."""
        return self.record.get(b"memory", b"").decode()

    def is_interrupted(self) -> bool:
        """Say whether an interrupt came since the last commit."""
        return self.record.get(b"is_interrupted", b"") == b"1"

    def is_paused(self) -> bool:
        """Say whether it was paused at the cue cursor."""
        return self.record.get(b"is_paused", b"") == b"1"

    def heard(self) -> tuple[str, ...]:
        """Return what users said that an interrupt settled and no chunk has taken since."""
        text = self.record.get(b"heard", b"").decode()
        return tuple(str(words) for words in json.loads(text)) if text and not self.inputs else ()

    def last_cut(self) -> Retired | None:
        """Return the newest cut."""
        if b"cut_retired" not in self.record:
            return None
        retired = tuple(int(index) for index in self.text("cut_retired").split())
        return Retired(
            int(self.text("generation")), int(self.text("cut_position")), retired, int(self.text("cut_word"))
        )

    def pending(self) -> ChunkInputs | None:
        """Return the inputs of the next chunk, when they were written."""
        return None if self.inputs is None else codec.inputs_from_json(self.inputs)

    def timeline(self) -> tuple[TimelineChunk, ...]:
        """Return the retained end of the timeline, oldest first."""
        return self._timeline

    @cached_property
    def _timeline(self) -> tuple[TimelineChunk, ...]:
        return tuple(self._timeline_chunk(fields) for _, fields in self.chunks)

    def _timeline_chunk(self, fields: Mapping[bytes, bytes]) -> TimelineChunk:
        commit = codec.commit_from_json(fields[b"commit"])
        heard = self.latents.get(f"{commit.chunk_index}:heard".encode())
        epoch = int(fields[b"epoch"])
        return TimelineChunk(
            commit=commit,
            epoch=epoch,
            pointer_before=float(fields[b"pointer_before"]),
            word_before=int(fields[b"word_before"]),
            word_token_before=int(fields[b"word_token_before"]),
            # The sink's latents are kept for ever, but what came after it may be gone.
            has_video=commit.chunk_index >= int(self.text("oldest_chunk"))
            and f"{commit.chunk_index}:{epoch}:v".encode() in self.latents,
            heard_s=None if heard is None else float(heard),
        )

    def latent(self, chunk: str, track: str) -> Latents | None:
        """Return the latents of `index:epoch` and track `v` or `a`; None when they are not kept."""
        data = self.latents.get(f"{chunk}:{track}".encode())
        return None if data is None else codec.latents_from_bytes(data)


@codec.reading("a session")
def build_snapshot(session_id: str, stored: StoredSession) -> SessionSnapshot:
    """Return what a worker needs to go on."""
    now = stored.position()
    record = codec.record_from_fields(session_id, stored.record)
    portrait, voice = stored.assets.get(b"portrait", b""), stored.assets.get(b"voice", b"")
    chunks = tuple(_stored_chunk(stored, chunk) for chunk in stored.timeline())
    head = chunks[-1] if chunks else None
    return SessionSnapshot(
        record=replace(record, config=replace(record.config, portrait=portrait, voice=voice)),
        epoch=record.epoch,
        generation=record.generation,
        next_chunk_index=record.next_chunk_index,
        next_position=now.next_position,
        parent=head.commit if head else None,
        transcript=stored.pieces(),
        pointer_token=now.pointer_token,
        pointer_word=now.pointer_word,
        cue_cursor=int(stored.text("cue_cursor")),
        sink_video=stored.latent(stored.text("sink"), "v"),
        motion_video=head.video if head else None,
        history=_history(chunks, int(stored.text("history_chunks"))),
        chunks=chunks,
        pending=stored.pending(),
        prompt=stored.prompt(),
        memory=stored.memory(),
        is_interrupted=stored.is_interrupted(),
        is_paused=stored.is_paused(),
        heard=stored.heard(),
        last_cut=stored.last_cut(),
    )


def _stored_chunk(stored: StoredSession, chunk: TimelineChunk) -> StoredChunk:
    name = f"{chunk.commit.chunk_index}:{chunk.epoch}"
    return StoredChunk(
        commit=chunk.commit,
        epoch=chunk.epoch,
        pointer_before=chunk.pointer_before,
        video=stored.latent(name, "v") if chunk.has_video else None,
        audio=stored.latent(name, "a"),
        heard_s=None if chunk.heard_s is None else max(0.0, chunk.heard_s),
    )


def _history(chunks: Sequence[StoredChunk], count: int) -> tuple[HistoryChunk, ...]:
    newest = chunks[-count:] if count else ()
    return tuple(
        HistoryChunk(chunk.pointer_before, chunk.audio, chunk.heard_s) for chunk in newest if chunk.audio is not None
    )
