"""What a session's worker writes down: again while the store is away, and anew where a fail-over has lost it.

Every write is one that may be repeated. What was committed last is kept here until as much has been committed after it
as the store itself keeps, so that a store that went back can be brought forward. It knows leases and commits, and
nothing of how chunks are made.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import NamedTuple, TypeVar

from dit_worker.service.lease import LeaseKeeper
from services.errors import CommitConflict, StaleEpoch, StaleGeneration, StoreUnavailable
from services.logs import get_logger
from services.session import ChunkCommit, ChunkInputs, Latents, SessionSnapshot
from services.state.lease import Lease
from services.state.store import SessionStore

log = get_logger(__name__)
_AGAIN_S = 0.05
T = TypeVar("T")


async def persistently(write: Callable[[], Awaitable[T]], limit_s: float) -> T:
    """Write again while the store is away, and begin no more tries after `limit_s`. Raises what the last one raised."""
    loop = asyncio.get_running_loop()
    give_up_at = loop.time() + limit_s
    while True:
        try:
            return await write()
        except StoreUnavailable:
            if loop.time() > give_up_at:
                raise
            await asyncio.sleep(_AGAIN_S)


class Made(NamedTuple):
    """A committed chunk with its latents, (C_v, T_v, H, W) and (T_a, C_a)."""

    commit: ChunkCommit
    video: Latents
    audio: Latents


class Ledger:
    """Writes under one keeper's lease. Raises StaleEpoch when that is lost; waits for as long as the store is away."""

    def __init__(self, store: SessionStore, keeper: LeaseKeeper) -> None:
        self._store = store
        self._keeper = keeper
        self._made: deque[Made] = deque(maxlen=keeper.lease.policy.run_ahead_chunks + 1)
        self._laid: tuple[int, int] | None = None
        """Chunk and epoch of the latents that were laid down last."""

    async def write_inputs(self, inputs: ChunkInputs) -> ChunkInputs:
        """Write down what decides the next chunk, or return what was written first."""
        return await self._patiently(lambda lease: self._store.write_inputs(lease, inputs))

    async def lay(self, chunk_index: int, video: Latents, audio: Latents) -> None:
        """Lay a chunk's latents down."""

        async def lay(lease: Lease) -> None:
            await self._lay(lease, chunk_index, video, audio)

        await self._patiently(lay)

    async def commit(self, made: Made) -> None:
        """Make a chunk exist. Raises StaleGeneration and CommitConflict."""

        async def commit(lease: Lease) -> None:
            if self._laid != (made.commit.chunk_index, lease.epoch):
                await self._lay(lease, made.commit.chunk_index, made.video, made.audio)
            await self._store.commit(lease, made.commit)

        await self._patiently(commit)
        if not self._made or self._made[-1].commit.chunk_index < made.commit.chunk_index:
            self._made.append(made)

    async def mend(self, snapshot: SessionSnapshot) -> SessionSnapshot:
        """Commit again what was committed here and is not there any more, and return how the session stands then."""
        lost = [made for made in self._made if made.commit.chunk_index >= snapshot.next_chunk_index]
        if not lost or not _follows(lost[0].commit, snapshot):
            return snapshot
        log.warning("commits_written_again", chunks=[made.commit.chunk_index for made in lost])
        try:
            for made in lost:
                self._laid = None  # the latents may be lost as well
                await self.commit(made)
        except (CommitConflict, StaleGeneration):
            log.warning("commits_not_written_again")
            self._made.clear()  # they have no place there: the session goes on from what is
        return await self._store.load_snapshot(snapshot.record.session_id)

    async def _lay(self, lease: Lease, chunk_index: int, video: Latents, audio: Latents) -> None:
        await self._store.put_latents(lease, chunk_index, video, audio)
        self._laid = chunk_index, lease.epoch

    async def _patiently(self, write: Callable[[Lease], Awaitable[T]]) -> T:
        while True:
            lease = await self._keeper.held()
            try:
                answer = await write(lease)
            except StoreUnavailable:
                self._keeper.hear(answers=False)
                await asyncio.sleep(_AGAIN_S)
            except StaleEpoch:
                await self._keeper.confirm()
            else:
                self._keeper.hear(answers=True)
                return answer


def _follows(commit: ChunkCommit, snapshot: SessionSnapshot) -> bool:
    """Whether the commit is the one that comes next there."""
    parent = snapshot.parent.chunk_index if snapshot.parent else None
    mine = (commit.chunk_index, commit.position, commit.generation, commit.parent)
    return mine == (snapshot.next_chunk_index, snapshot.next_position, snapshot.generation, parent)
