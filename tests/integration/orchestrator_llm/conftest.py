"""A running orchestrator on the tiny bundle, and a client that speaks as a worker does."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from grpc import aio

from cuelight.v1 import orchestrator_pb2 as pb
from cuelight.v1.orchestrator_pb2_grpc import OrchestratorServiceStub
from orchestrator_llm.service.process import Orchestrator
from services.bundle import Manifest, load_manifest
from services.serving import channel_options, error_from_rpc
from services.session import ChunkProgress, HistoryChunk, Latents, Snapshot
from services.settings import OrchestratorSettings
from services.wire import chunk_progress_from_proto, snapshot_to_proto, tensor_from_proto, tensor_to_proto
from tests.fixtures.tiny_bundle import build_tiny_bundle

STEPS = (1.0, 0.75, 0.5, 0.25)
EMPTY = Snapshot((), 0.0, 0, ())


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of the tiny bundle."""
    return build_tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny")


@pytest.fixture(scope="session")
def manifest(tiny_bundle: Path) -> Manifest:
    """Its manifest."""
    return load_manifest(tiny_bundle)


@pytest.fixture
def settings(tiny_bundle: Path) -> OrchestratorSettings:
    """Settings of an orchestrator on a free port."""
    return OrchestratorSettings(bundle=tiny_bundle, orchestrator_listen="127.0.0.1:0", orchestrator_max_sessions=16)


@pytest.fixture
async def orchestrator(settings: OrchestratorSettings) -> AsyncIterator[Orchestrator]:
    """A running orchestrator."""
    async with Orchestrator.running(settings) as running:
        yield running


@pytest.fixture
async def stub(orchestrator: Orchestrator) -> AsyncIterator[OrchestratorServiceStub]:
    """A client of it."""
    options = channel_options(8 * 1024 * 1024)
    async with aio.insecure_channel(orchestrator.rpc.address, options=options) as channel:
        yield OrchestratorServiceStub(channel)


def latents(seed: int, number: int) -> Latents:
    """Random latents that depend on the arguments alone."""
    return np.random.Generator(np.random.Philox(key=[seed, number])).standard_normal((33, 24), dtype=np.float32)


def voice(seed: int) -> Latents:
    """Latents of a reference voice that depend on the seed alone."""
    return latents(seed, 1_000)[:24]


class WorkerStream:
    """One Direct stream, one question and one answer at a time."""

    def __init__(self, stub: OrchestratorServiceStub, manifest: Manifest, session_id: str = "s") -> None:
        self.call = stub.Direct()
        self._manifest = manifest
        self._session_id = session_id

    async def ask(self, **message: Any) -> pb.DirectResponse:
        """Sends one message; raises our error, or the RpcError of a status that is not ours."""
        try:
            await self.call.write(pb.DirectRequest(**message))
        except aio.AioRpcError as fault:
            raise (error_from_rpc(fault) or fault) from fault
        return await self.answer()

    async def answer(self) -> pb.DirectResponse:
        """The next answer, or the error that ended the stream."""
        try:
            answer = await self.call.read()
            if answer is aio.EOF:
                raise EOFError(await self.call.code())
            return answer
        except aio.AioRpcError as fault:
            raise (error_from_rpc(fault) or fault) from fault

    async def open(self, state: Snapshot = EMPTY, **changed: Any) -> pb.DirectResponse:
        """Opens the session."""
        fields = {
            "session_id": self._session_id,
            "bundle_name": self._manifest.name,
            "bundle_digest": self._manifest.digest,
            "snapshot": snapshot_to_proto(state),
            "reference": tensor_to_proto(voice(1)),
        }
        return await self.ask(open=pb.Open(**{**fields, **changed}))

    async def begin(self, index: int, say: Sequence[str] = ()) -> pb.Action:
        """Plans a chunk."""
        return (await self.ask(begin=pb.Begin(chunk_index=index, say=say))).action

    async def denoise(self, index: int, step: int, noisy: Latents) -> Latents:
        """The condition of one step."""
        message = pb.Denoise(chunk_index=index, step=step, timestep=STEPS[step], noisy=tensor_to_proto(noisy))
        answer = (await self.ask(denoise=message)).condition
        assert (answer.chunk_index, answer.step) == (index, step)
        return tensor_from_proto(answer.condition)

    async def end(self, index: int, clean: Latents) -> ChunkProgress:
        """Ends a chunk."""
        message = pb.End(chunk_index=index, clean=tensor_to_proto(clean))
        return chunk_progress_from_proto((await self.ask(end=message)).progress)

    async def perform(
        self, index: int, say: Sequence[str] = (), seed: int = 1
    ) -> tuple[pb.Action, list[Latents], ChunkProgress]:
        """One chunk on random latents."""
        action = await self.begin(index, say)
        conditions = [await self.denoise(index, n, latents(seed, 10 * index + n)) for n in range(len(STEPS))]
        return action, conditions, await self.end(index, latents(seed, 10 * index + 9))


def committed(transcript: tuple[str, ...], progress: ChunkProgress, before: float, index: int, seed: int) -> Snapshot:
    """The snapshot after the chunk `index` of `WorkerStream.perform`."""
    history = (HistoryChunk(before, latents(seed, 10 * index + 9)),)
    return Snapshot(transcript, progress.pointer_token, progress.pointer_word, history)
