"""Committed chunks to published media: two stages of their own, beside the steps.

    put ─▶ [2] ─▶ decode, in the worker's decoding thread ─▶ [1] ─▶ encode, in a pool ─▶ publish

While a chunk is encoded, the session's next one is decoded, and the one after that is performed. Short queues hold the
performer back when one of them is the slowest. It knows the order of chunks and nothing of cues.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Awaitable, Callable, Collection
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from dit_worker.engine.arrays import Floats
from dit_worker.engine.costs import ChunkCost
from dit_worker.engine.media import Decoded, EncodedChunk, MediaWriter, Restart
from services import tracing
from services.metrics import Metrics
from services.session import ChunkCommit

_WAITING_CHUNKS = 2
_DECODED_CHUNKS = 1
R = TypeVar("R")


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
    trace: str = ""
    """Trace context of its making; empty when it is not traced."""

    @property
    def is_light(self) -> bool:
        """Whether its pictures are decoded by the light decoder."""
        return self.cost is not None and self.cost.is_light

    @property
    def is_after_cut(self) -> bool:
        """Whether the timeline was cut just before it."""
        return self.commit.parent is not None and self.commit.parent != self.commit.chunk_index - 1


@dataclass(frozen=True, slots=True)
class Cut:
    """The timeline goes on at `position`, after a parent with these audio latents, or after silence."""

    position: int
    parent_audio: Floats | None


class Executors(NamedTuple):
    """Where the stages run, shared by all sessions."""

    decode: Executor
    """A thread, or a few: what they call is the device's, beside the steps."""
    encode: Executor
    """A pool: encoding takes processors only."""


@dataclass(frozen=True, slots=True)
class _Filmed:
    """A take after decoding, which took so long; nothing was decoded of one that had been retired."""

    take: Take
    decoded: Decoded | None
    decode_s: float


class MediaPipeline:
    """One session's takes, in order. `decoding` and `encoding` run beside each other."""

    def __init__(
        self,
        writer: MediaWriter,
        executors: Executors,
        metrics: Metrics,
        publish: Callable[[Take, EncodedChunk, float], Awaitable[None]],
    ) -> None:
        self._writer = writer
        self._metrics = metrics
        self._executors = executors
        self._publish = publish
        self._work: asyncio.Queue[Take | Cut] = asyncio.Queue(_WAITING_CHUNKS)
        self._filmed: asyncio.Queue[_Filmed | Restart] = asyncio.Queue(_DECODED_CHUNKS)
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
        await self._filmed.join()

    async def decoding(self) -> None:
        """Decode until cancelled."""
        while True:
            work = await self._work.get()
            await self._filmed.put(await self._decode(work))
            self._work.task_done()

    async def encoding(self) -> None:
        """Encode and publish until cancelled."""
        while True:
            filmed = await self._filmed.get()
            if isinstance(filmed, Restart):
                await _run(self._executors.encode, functools.partial(self._writer.restart, filmed))
            else:
                await self._encode(filmed)
            self._filmed.task_done()

    async def _decode(self, work: Take | Cut) -> _Filmed | Restart:
        executor, writer = self._executors.decode, self._writer
        if isinstance(work, Cut):
            return (await _run(executor, lambda: writer.stand(work.position, work.parent_audio)))[0]
        if work.commit.chunk_index in self._retired:
            return _Filmed(work, None, 0.0)
        at, video, audio, is_light = work.commit.position, work.video, work.audio, work.is_light
        with self._metrics.stage("decode"), tracing.span("decode", work.trace):
            decoded = await _run(executor, lambda: writer.decode(at, video, audio, is_light=is_light))
        self._metrics.light_chunks.inc(is_light)
        return _Filmed(work, *decoded)

    async def _encode(self, filmed: _Filmed) -> None:
        index, decoded = filmed.take.commit.chunk_index, filmed.decoded
        if decoded is not None and index not in self._retired:
            with self._metrics.stage("encode"), tracing.span("encode", filmed.take.trace):
                encoded, encode_s = await _run(self._executors.encode, lambda: self._writer.encode(decoded))
            if index not in self._retired:
                await self._publish(filmed.take, encoded, filmed.decode_s + encode_s)
        if index in self._retired:
            self._metrics.drops.labels("retired_chunk").inc()
        self._newest = index


async def _run(executor: Executor, work: Callable[[], R]) -> tuple[R, float]:
    """What the work comes to, and the seconds it took without waiting for other sessions'."""

    def timed() -> tuple[R, float]:
        began_at = time.monotonic()
        done = work()
        return done, time.monotonic() - began_at

    return await asyncio.get_running_loop().run_in_executor(executor, timed)
