"""Builds chunks as a worker would, for tests of what is stored: latents one can recognise, words at even times.

A `Teller` speaks a transcript of one token a word at a fixed number of words a chunk. It knows no models.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from services.session import (
    Action,
    ChunkCommit,
    ChunkInputs,
    ChunkPolicy,
    ChunkProgress,
    Latents,
    SessionSnapshot,
    TimedWord,
)
from services.state import Lease, SessionStore

CHUNK_S = 1.375
POLICY = ChunkPolicy(chunk_seconds=CHUNK_S, history_chunks=2, run_ahead_chunks=2)
WORDS_PER_CHUNK = 3


def latents_of(chunk_index: int, epoch: int = 0) -> tuple[Latents, Latents]:
    """Video (2, 3, 2, 2) and audio (5, 4) latents that no other chunk and epoch has."""
    value = chunk_index + (epoch % 1000) / 1000
    return np.full((2, 3, 2, 2), value, np.float32), np.full((5, 4), -value, np.float32)


def inputs_for(snapshot: SessionSnapshot, *, say: tuple[str, ...] = (), cue_cursor: int | None = None) -> ChunkInputs:
    """Inputs of the chunk that comes next."""
    cursor = snapshot.cue_cursor if cue_cursor is None else cue_cursor
    words = [word for piece in (*snapshot.transcript, *say) for word in piece.split()]
    spoken = snapshot.pointer_word
    return ChunkInputs(
        chunk_index=snapshot.next_chunk_index,
        parent=snapshot.parent.chunk_index if snapshot.parent else None,
        position=snapshot.next_position,
        generation=snapshot.generation,
        cue_cursor=cursor,
        say=say,
        action=Action(spoken, len(words), " ".join(words[spoken:]), is_idle=spoken >= len(words)),
        steps=4,
    )


def commit_for(snapshot: SessionSnapshot, inputs: ChunkInputs) -> ChunkCommit:
    """The commit of a chunk that speaks the next few words, each taking an equal share of it."""
    words = [word for piece in (*snapshot.transcript, *inputs.say) for word in piece.split()]
    first = snapshot.pointer_word
    end = min(first + WORDS_PER_CHUNK, len(words))
    share = CHUNK_S / WORDS_PER_CHUNK
    timed = tuple(
        TimedWord(index, words[index], (index - first) * share, (index - first + 1) * share, index + 1)
        for index in range(first, end)
    )
    progress = ChunkProgress(inputs.chunk_index, float(end), end, timed, len(words), end == len(words))
    return ChunkCommit(
        chunk_index=inputs.chunk_index,
        parent=inputs.parent,
        position=inputs.position,
        generation=inputs.generation,
        progress=progress,
        is_idle=inputs.action.is_idle,
        cue_cursor=inputs.cue_cursor,
        say=inputs.say,
    )


@dataclass
class Teller:
    """A worker without models: every call makes one chunk of the session it holds the lease of."""

    store: SessionStore
    lease: Lease

    async def prepare(self, *say: str, cue_cursor: int | None = None) -> ChunkCommit:
        """Write inputs and latents of the next chunk; the commit that is left to do is returned."""
        snapshot = await self.store.load_snapshot(self.lease.session_id)
        inputs = await self.store.write_inputs(self.lease, inputs_for(snapshot, say=say, cue_cursor=cue_cursor))
        video, audio = latents_of(inputs.chunk_index, self.lease.epoch)
        await self.store.put_latents(self.lease, inputs.chunk_index, video, audio)
        return commit_for(snapshot, inputs)

    async def tell(self, *say: str, cue_cursor: int | None = None) -> ChunkCommit:
        """Make the next chunk exist."""
        commit = await self.prepare(*say, cue_cursor=cue_cursor)
        await self.store.commit(self.lease, commit)
        return commit

    async def handed_to(self, owner: str) -> Teller:
        """The session under another owner, as after the first one's death."""
        await self.store.release(self.lease)
        lease = await self.store.acquire_lease(self.lease.session_id, owner, self.lease.policy)
        assert lease is not None
        return replace(self, lease=lease)
