"""Decoding and encoding as stages: side by side, in order, bounded, and without what was retired."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch

from dit_worker.engine.arrays import Floats
from dit_worker.engine.costs import ChunkCost
from dit_worker.engine.loader import Models
from dit_worker.engine.media import Decoded, EncodedChunk, MediaWriter
from dit_worker.model.vae import LightVideoDecoder, VideoVAEConfig
from dit_worker.service.pipeline import Cut, Executors, MediaPipeline, Take
from services.metrics import Metrics
from services.session import ChunkCommit, ChunkProgress

PATIENCE_S = 60


@pytest.fixture(scope="module")
def executors() -> Iterator[Executors]:
    """One thread that decodes, two that encode."""
    with ThreadPoolExecutor(1) as decode, ThreadPoolExecutor(2) as encode:
        yield Executors(decode, encode)


def take(models: Models, index: int) -> Take:
    """A committed chunk."""
    sampling = models.sampling
    progress = ChunkProgress(index, 0.0, 0, (), 0, is_finished=True)
    parent = index - 1 if index else None
    commit = ChunkCommit(index, parent, index, 0, progress, True, 0, ())
    noise = np.random.default_rng(index)
    video = noise.standard_normal(sampling.video_shape, dtype=np.float32)
    return Take(commit, video, noise.standard_normal(sampling.audio_shape, dtype=np.float32))


class Published:
    """What came out, and the metrics of the way."""

    def __init__(self) -> None:
        self.metrics = Metrics("test")
        self.chunks: list[tuple[int, EncodedChunk]] = []
        self.media_s: list[float] = []

    async def __call__(self, done: Take, encoded: EncodedChunk, media_s: float) -> None:
        """Publish."""
        self.chunks.append((done.commit.chunk_index, encoded))
        self.media_s.append(media_s)

    @property
    def indices(self) -> list[int]:
        """Chunks in the order in which they were published."""
        return [index for index, _ in self.chunks]

    def count(self, metric: str, **labels: str) -> float:
        """A metric's value."""
        return self.metrics.registry.get_sample_value(metric, labels) or 0.0


@asynccontextmanager
async def running(pipeline: MediaPipeline) -> AsyncIterator[None]:
    """Both stages at work."""
    async with asyncio.timeout(PATIENCE_S):
        stages = [asyncio.create_task(stage) for stage in (pipeline.decoding(), pipeline.encoding())]
        try:
            yield
        finally:
            for stage in stages:
                stage.cancel()
            await asyncio.wait(stages)


async def test_two_stages_make_the_media_that_one_makes(models: Models, executors: Executors) -> None:
    """Chunks come out in order, byte for byte as from a writer that decodes and encodes in turn, also after a cut."""
    plain, published = MediaWriter(models), Published()
    takes = [take(models, index) for index in range(4)]
    pipeline = MediaPipeline(MediaWriter(models), executors, published.metrics, published)
    async with running(pipeline):
        await pipeline.put(Cut(0, None))
        for one in takes[:3]:
            await pipeline.put(one)
        await pipeline.put(Cut(3, takes[2].audio))
        await pipeline.put(takes[3])
        await pipeline.drain()
    expected = [plain.write(index, one.video, one.audio) for index, one in enumerate(takes[:3])]
    plain.start(3, takes[2].audio)
    expected.append(plain.write(3, takes[3].video, takes[3].audio))
    assert published.chunks == list(enumerate(expected))
    for stage in ("decode", "encode"):
        assert published.count("cuelight_stage_seconds_count", stage=stage) == 4
    assert all(media_s > 0 for media_s in published.media_s)


async def test_a_chunk_without_time_is_decoded_by_the_light_decoder(models: Models, executors: Executors) -> None:
    """Its pictures are that decoder's and are counted; its sound is the same, and so are the chunks around it."""
    torch.manual_seed(7)
    models = replace(models, light_video=LightVideoDecoder(VideoVAEConfig(width=8)).eval())
    plain, published = MediaWriter(models), Published()
    takes = [take(models, index) for index in range(3)]
    takes[1] = replace(takes[1], cost=ChunkCost(2, 0.1, 0.1, is_light=True))
    pipeline = MediaPipeline(MediaWriter(models), executors, published.metrics, published)
    async with running(pipeline):
        await pipeline.put(Cut(0, None))
        for one in takes:
            await pipeline.put(one)
        await pipeline.drain()
    expected = [plain.write(index, one.video, one.audio) for index, one in enumerate(takes)]
    made = [encoded for _, encoded in published.chunks]
    assert [a.audio == b.audio for a, b in zip(made, expected, strict=True)] == [True] * 3
    assert [a.video == b.video for a, b in zip(made, expected, strict=True)] == [True, False, True]
    assert published.count("cuelight_light_chunks_total") == 1


class Waiting(MediaWriter):
    """A writer whose first chunk is not encoded before the second is being decoded."""

    def __init__(self, models: Models) -> None:
        super().__init__(models)
        self.second_decoded = threading.Event()

    def decode(self, position: int, video: Floats, audio: Floats, *, is_light: bool = False) -> Decoded:
        """Tell that it was begun."""
        if position == 1:
            self.second_decoded.set()
        return super().decode(position, video, audio, is_light=is_light)

    def encode(self, decoded: Decoded) -> EncodedChunk:
        """Wait to be overtaken."""
        assert self.second_decoded.wait(PATIENCE_S), "nothing is decoded while a chunk is encoded"
        return super().encode(decoded)


async def test_a_chunk_is_decoded_while_the_one_before_is_encoded(models: Models, executors: Executors) -> None:
    """The stages overlap, or the first chunk would wait for ever."""
    published = Published()
    pipeline = MediaPipeline(Waiting(models), executors, published.metrics, published)
    async with running(pipeline):
        await pipeline.put(Cut(0, None))
        for index in range(2):
            await pipeline.put(take(models, index))
        await pipeline.drain()
    assert published.indices == [0, 1]


async def test_what_is_retired_is_dropped_and_counted_wherever_it_is(models: Models, executors: Executors) -> None:
    """One chunk is retired before it is decoded, one between the stages; the timeline goes on after the cut."""
    published, writer = Published(), Waiting(models)
    pipeline = MediaPipeline(writer, executors, published.metrics, published)
    await pipeline.put(Cut(0, None))
    await pipeline.put(take(models, 0))
    pipeline.retire([0])
    async with running(pipeline):
        await pipeline.drain()
        assert published.indices == [] and published.count("cuelight_stage_seconds_count", stage="decode") == 0
        await pipeline.put(Cut(1, None))
        await pipeline.put(take(models, 1))
        while not writer.second_decoded.is_set():
            await asyncio.sleep(0.001)
        pipeline.retire([0, 1])
        await pipeline.put(Cut(1, None))
        one = take(models, 2)
        await pipeline.put(Take(ChunkCommit(2, None, 1, 1, one.commit.progress, True, 0, ()), one.video, one.audio))
        await pipeline.drain()
    assert published.indices == [2]
    assert published.count("cuelight_drops_total", what="retired_chunk") == 2


async def test_who_is_ahead_of_decoding_waits(models: Models, executors: Executors) -> None:
    """Two pieces of work wait to be decoded; a third has to wait itself."""
    published = Published()
    pipeline = MediaPipeline(MediaWriter(models), executors, published.metrics, published)
    await pipeline.put(Cut(0, None))
    await pipeline.put(take(models, 0))
    third = asyncio.create_task(pipeline.put(take(models, 1)))
    await asyncio.sleep(0.05)
    assert not third.done()
    async with running(pipeline):
        await third
        await pipeline.drain()
    assert published.indices == [0, 1]
