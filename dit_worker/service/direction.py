"""The worker's end of the orchestrator's stream: one session's Direct, one question and one answer at a time.

Every answer has a deadline. A stream that breaks is OrchestratorUnavailable and is opened anew from a snapshot; a
refusal (another bundle, say) is raised as what it is. It knows no engine and no store.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Self

import grpc
from grpc import aio

from cuelight.v1 import orchestrator_pb2 as pb
from cuelight.v1 import orchestrator_pb2_grpc
from dit_worker.engine.arrays import Floats
from dit_worker.engine.performance import StepRequest
from services import tracing
from services.bundle import Manifest
from services.errors import CuelightError, Draining, OrchestratorUnavailable
from services.serving import error_from_rpc
from services.session import Action, ChunkProgress, Notice, SessionConfig, Snapshot
from services.wire import (
    action_from_proto,
    chunk_progress_from_proto,
    duration_from_seconds,
    notice_from_proto,
    snapshot_to_proto,
    tensor_from_proto,
    tensor_to_proto,
)

OPEN_S = 15.0
"""Opening computes the voice's and the history's caches."""
ANSWER_S = 5.0


@dataclass(frozen=True, slots=True)
class Opening:
    """What a stream is opened with; `reference` are latents of the voice, (R, D)."""

    session_id: str
    manifest: Manifest
    reference: Floats
    config: SessionConfig
    """Regime, planner and instructions are what the orchestrator reads of it."""


@dataclass(frozen=True, slots=True)
class Asking:
    """What a chunk is planned from: pieces of transcript, prompts and what the user said, accepted since the last."""

    say: tuple[str, ...] = ()
    prompts: tuple[str, ...] = ()
    hear: tuple[str, ...] = ()
    memory: str | None = None
    """Set when the chunk was planned before: nothing is planned anew."""
    patience_s: float = 0.0
    """How long the answer may wait for words that are being written."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The answer to begin."""

    action: Action
    notices: tuple[Notice, ...]
    """What was done with words that could not be taken literally."""


class OrchestratorLeaves(OrchestratorUnavailable):
    """The replica goes away between two chunks: another one is to be asked, at once."""


class Direction:
    """An open stream. `async with` it, or close it."""

    def __init__(self, stub: orchestrator_pb2_grpc.OrchestratorServiceAsyncStub, manifest: Manifest) -> None:
        self._call = stub.Direct()
        self._audio_latents = manifest.geometry.audio_latents_per_chunk

    @classmethod
    async def open(
        cls, stub: orchestrator_pb2_grpc.OrchestratorServiceAsyncStub, opening: Opening, snapshot: Snapshot
    ) -> Self:
        """Open a stream where the snapshot stands. Raises OrchestratorUnavailable, or what it was refused with."""
        direction = cls(stub, opening.manifest)
        request = pb.Open(
            session_id=opening.session_id,
            bundle_name=opening.manifest.name,
            bundle_digest=opening.manifest.digest,
            snapshot=snapshot_to_proto(snapshot),
            reference=tensor_to_proto(opening.reference),
            regime=opening.config.regime,
            planner=opening.config.planner,
            instructions=opening.config.instructions,
        )
        try:
            await direction._ask(pb.DirectRequest(open=request), "opened", OPEN_S)
        except BaseException:
            direction.close()
            raise
        return direction

    async def begin(self, chunk_index: int, asking: Asking) -> Plan:
        """Plan a chunk."""
        request = pb.Begin(
            chunk_index=chunk_index,
            say=asking.say,
            prompts=asking.prompts,
            hear=asking.hear,
            memory=asking.memory,
            patience=duration_from_seconds(asking.patience_s),
        )
        answer = await self._ask(pb.DirectRequest(begin=request), "action", ANSWER_S + asking.patience_s)
        return Plan(action_from_proto(answer.action), tuple(map(notice_from_proto, answer.action.notices)))

    async def denoise(self, request: StepRequest) -> Floats:
        """The condition (A, width) of one step."""
        asked = pb.Denoise(
            chunk_index=request.chunk_index,
            step=request.step,
            timestep=request.timestep,
            noisy=tensor_to_proto(request.noisy),
        )
        answer = await self._ask(pb.DirectRequest(denoise=asked), "condition", ANSWER_S)
        if (answer.condition.chunk_index, answer.condition.step) != (request.chunk_index, request.step):
            raise OrchestratorUnavailable("the orchestrator answered another step than was asked for")
        return tensor_from_proto(
            answer.condition.condition, expect_shape=(self._audio_latents, None), field="condition.condition"
        )

    async def end(self, chunk_index: int, clean: Floats) -> ChunkProgress:
        """Hand over the finished audio (A, D) and learn how far the speech has come."""
        request = pb.End(chunk_index=chunk_index, clean=tensor_to_proto(clean))
        answer = await self._ask(pb.DirectRequest(end=request), "progress", ANSWER_S)
        return chunk_progress_from_proto(answer.progress)

    async def replace(self, snapshot: Snapshot) -> None:
        """Set the session's state anew, after a cut."""
        request = pb.Replace(snapshot=snapshot_to_proto(snapshot))
        await self._ask(pb.DirectRequest(replace=request), "opened", OPEN_S)

    def close(self) -> None:
        """Let the stream go."""
        self._call.cancel()

    async def _ask(self, request: pb.DirectRequest, expected: str, deadline_s: float) -> pb.DirectResponse:
        request.traceparent = tracing.current()
        try:
            async with asyncio.timeout(deadline_s):
                await self._call.write(request)
                answer = await self._call.read()
        except TimeoutError as error:
            raise OrchestratorUnavailable(f"the orchestrator did not answer within {deadline_s:g} s") from error
        except (aio.AioRpcError, asyncio.InvalidStateError) as error:
            raise await self._fault(error) from error
        if not isinstance(answer, pb.DirectResponse) or answer.WhichOneof("message") != expected:
            raise OrchestratorUnavailable("the orchestrator ended the stream")
        return answer

    async def _fault(self, error: Exception) -> CuelightError:
        """What a broken stream means: gone for now, unless it was refused for good."""
        if isinstance(error, asyncio.InvalidStateError):
            error = await self._status() or error
        if isinstance(error, aio.AioRpcError):
            known = error_from_rpc(error)
            if known is not None and not known.is_retryable:
                return known
            if isinstance(known, Draining):
                return OrchestratorLeaves(known.message)
            if error.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION):
                return CuelightError(f"the orchestrator refused a message: {error.details()}")
        return OrchestratorUnavailable("the orchestrator's stream broke")

    async def _status(self) -> aio.AioRpcError | None:
        """How the orchestrator ended a stream that nothing was asked on meanwhile; None when it did not say."""
        if self._call.done() and not self._call.cancelled():
            try:
                await self._call.read()
            except aio.AioRpcError as status:
                return status
        return None
