"""Committed chunks to published media: a stage of its own, beside the steps.

Chunks are decoded and encoded one after the other in a worker thread, while the next chunk is performed. A short queue
holds the performer back when decoding is the slower of the two. It knows the order of chunks and nothing of cues.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection
from concurrent.futures import Executor
from dataclasses import dataclass

from dit_worker.engine.arrays import Floats
from dit_worker.engine.costs import ChunkCost
from dit_worker.engine.media import EncodedChunk, MediaWriter
from services.metrics import Metrics
from services.session import ChunkCommit

_WAITING_CHUNKS = 2


@dataclass(frozen=True, slots=True)
class Take:
    """A committed chunk on its way to the audience."""

    commit: ChunkCommit
    video: Floats
    audio: Floats
    compute_s: float | None = None
    """From the beginning of its planning to its commit; None for a chunk that another worker made."""
    asked_at: float | None = None
    """When it was asked for, on the monotonic clock, if it is the first that answers; None for all others."""
    cost: ChunkCost | None = None
    """What it took until here, by stage; None for a chunk that another worker made."""
    slack_s: float = 0.0
    """What was left before its deadline when its steps were done."""

    @property
    def is_after_cut(self) -> bool:
        """Whether the timeline was cut just before it."""
        return self.commit.parent is not None and self.commit.parent != self.commit.chunk_index - 1


@dataclass(frozen=True, slots=True)
class Cut:
    """The timeline goes on at `position`, after a parent with these audio latents, or after silence."""

    position: int
    parent_audio: Floats | None


class MediaPipeline:
    """One session's takes, in order."""

    def __init__(
        self,
        writer: MediaWriter,
        executor: Executor,
        metrics: Metrics,
        publish: Callable[[Take, EncodedChunk, float], Awaitable[None]],
    ) -> None:
        self._writer = writer
        self._metrics = metrics
        self._executor = executor
        self._publish = publish
        self._work: asyncio.Queue[Take | Cut] = asyncio.Queue(_WAITING_CHUNKS)
        self._retired: set[int] = set()
        self._newest = -1
        """The chunk that was published, or let go, last: indices only rise."""

    async def put(self, work: Take | Cut) -> None:
        """Hand over what comes next on the timeline; waits while decoding is behind."""
        await self._work.put(work)

    def retire(self, chunk_indices: Collection[int]) -> None:
        """What is still on its way of these chunks is not published."""
        self._retired = {index for index in (*self._retired, *chunk_indices) if index > self._newest}

    async def drain(self) -> None:
        """Wait until everything handed over is published."""
        await self._work.join()

    async def run(self) -> None:
        """Decode, encode and publish until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            work = await self._work.get()
            if isinstance(work, Cut):
                await loop.run_in_executor(self._executor, self._writer.start, work.position, work.parent_audio)
            else:
                await self._take(loop, work)
            self._work.task_done()

    async def _take(self, loop: asyncio.AbstractEventLoop, take: Take) -> None:
        index = take.commit.chunk_index
        if index not in self._retired:
            with self._metrics.stage("media"):
                encoded, media_s = await loop.run_in_executor(self._executor, self._write, take)
            if index not in self._retired:
                await self._publish(take, encoded, media_s)
        if index in self._retired:
            self._metrics.drops.labels("retired_chunk").inc()
        self._newest = index

    def _write(self, take: Take) -> tuple[EncodedChunk, float]:
        """The chunk's media, and the seconds they took without their waiting for other sessions'."""
        began_at = time.monotonic()
        encoded = self._writer.write(take.commit.position, take.video, take.audio)
        return encoded, time.monotonic() - began_at
