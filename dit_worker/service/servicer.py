"""WorkerService: converts, hands on, streams back. It knows no session from inside."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any, TypeAlias

from grpc import aio

from cuelight.v1 import worker_pb2 as pb
from cuelight.v1 import worker_pb2_grpc
from dit_worker.service.house import House
from dit_worker.service.mover import Mover
from dit_worker.service.performer import Performer
from dit_worker.service.station import Station
from dit_worker.service.succession import Heir, Terms
from services.errors import InvalidInput, WorkerUnavailable
from services.logs import get_logger
from services.wire import duration_from_seconds, seconds_from_duration

log = get_logger(__name__)
Context: TypeAlias = aio.ServicerContext[Any, Any]
_CLAIM_S = 10.0
"""The first message of a stream must come within this."""
_HOSTED_S = 25.0
"""A lease may have to run out first, caches to be rebuilt."""
_TERMS_S = 60.0
"""A worker that is prepared to take a session waits so long for the other one to come to a chunk boundary."""


class WorkerServicer(worker_pb2_grpc.WorkerServiceServicer):
    """The worker's hosting API."""

    def __init__(self, station: Station, house: House, mover: Mover) -> None:
        self._station = station
        self._house = house
        self._mover = mover
        self._emptying: asyncio.Task[None] | None = None

    async def Host(
        self, request_iterator: AsyncIterator[pb.HostRequest], _context: Context
    ) -> AsyncIterator[pb.HostResponse]:
        """Claim a session and stream what it publishes."""
        claim = await _first_claim(request_iterator)
        if (moved := self._house.moved(claim.session_id)) is not None:
            yield pb.HostResponse(moved=moved)
            return
        performer, is_newcomer = self._house.take(claim.session_id)
        try:
            async with asyncio.timeout(_HOSTED_S):
                hosted = await performer.hosted(is_newcomer=is_newcomer)
        except TimeoutError as error:
            raise WorkerUnavailable(f"the session could not be taken within {_HOSTED_S:g} s") from error
        offset = claim.media_offset if claim.HasField("media_offset") else 2 * hosted.next_chunk_index
        if not claim.HasField("media_offset"):
            performer.join()
        listening = asyncio.create_task(_listen(request_iterator, performer))
        try:
            yield pb.HostResponse(hosted=hosted)
            async with contextlib.aclosing(performer.read(offset)) as published:
                async for message in published:
                    yield message
        finally:
            listening.cancel()

    async def GetStatus(self, _request: pb.GetStatusRequest, _context: Context) -> pb.GetStatusResponse:
        """Who this worker is, what it hosts, how fast it is."""
        figures, manifest = self._station.figures, self._station.bundle.manifest
        return pb.GetStatusResponse(
            worker_id=self._station.settings.owner_name,
            slots=self._house.slots,
            session_ids=self._house.session_ids,
            bundle_name=manifest.name,
            bundle_digest=manifest.digest,
            rtf_p50=figures.rtf(0.5),
            rtf_p95=figures.rtf(0.95),
            ttfc=None if figures.ttfc_s is None else duration_from_seconds(figures.ttfc_s),
            is_draining=self._house.is_draining,
        )

    async def Drain(self, request: pb.DrainRequest, _context: Context) -> pb.DrainResponse:
        """Take no new sessions, and move those that are here where that is asked for."""
        self._house.drain()
        if request.move_sessions and (self._emptying is None or self._emptying.done()):
            self._emptying = asyncio.create_task(self._mover.empty(), name="emptying")
        return pb.DrainResponse(sessions_left=len(self._house.session_ids))

    async def Move(self, request: pb.MoveRequest, _context: Context) -> pb.MoveResponse:
        """Have another worker go on with a session."""
        handed = await self._mover.move(request.session_id, request.worker_id)
        return pb.MoveResponse(
            worker_id=handed.slot.worker_id,
            epoch=handed.epoch,
            next_chunk_index=handed.next_chunk_index,
            handed_over_in=duration_from_seconds(handed.idle_s),
        )

    async def TakeOver(
        self, request_iterator: AsyncIterator[pb.TakeOverRequest], _context: Context
    ) -> AsyncIterator[pb.TakeOverResponse]:
        """Stand where a session stands that another worker performs, then take it from that one."""
        first = await _next_of(request_iterator, "prepare", _CLAIM_S)
        heir = Heir()
        performer = await self._house.succeed(first.prepare.session_id, heir)
        try:
            async with asyncio.timeout(_HOSTED_S):
                await asyncio.shield(heir.prepared)
            yield pb.TakeOverResponse(prepared=pb.Prepared())
            terms = (await _next_of(request_iterator, "take", _TERMS_S)).take
            heir.terms.set_result(_terms(terms))
            yield pb.TakeOverResponse(taken=pb.Taken(epoch=await asyncio.shield(heir.taken)))
        except TimeoutError as error:
            raise WorkerUnavailable(f"the session could not be prepared within {_HOSTED_S:g} s") from error
        finally:
            if performer.is_preparing:
                await performer.stop()

    async def close(self) -> None:
        """Stop what goes on behind calls that were answered."""
        if self._emptying is not None:
            self._emptying.cancel()
            await asyncio.wait({self._emptying})


def _terms(take: pb.Take) -> Terms:
    return Terms(
        epoch=take.epoch,
        acknowledged_s=seconds_from_duration(take.playhead),
        is_paused=take.is_paused,
        response_seq=take.response_seq,
        generated_s=seconds_from_duration(take.generated),
    )


async def _next_of(requests: AsyncIterator[pb.TakeOverRequest], expected: str, deadline_s: float) -> pb.TakeOverRequest:
    try:
        async with asyncio.timeout(deadline_s):
            request = await anext(requests)
    except (StopAsyncIteration, TimeoutError) as error:
        raise InvalidInput(f"the stream ended or fell silent before {expected}", field=expected) from error
    if request.WhichOneof("message") != expected:
        raise InvalidInput(f"{expected} was expected", field="message")
    return request


async def _first_claim(requests: AsyncIterator[pb.HostRequest]) -> pb.Claim:
    try:
        async with asyncio.timeout(_CLAIM_S):
            first = await anext(requests)
    except (StopAsyncIteration, TimeoutError) as error:
        raise InvalidInput("the stream ended or fell silent before its claim", field="claim") from error
    if first.WhichOneof("message") != "claim" or not first.claim.session_id:
        raise InvalidInput("the first message must be a claim that names a session", field="claim.session_id")
    return first.claim


async def _listen(requests: AsyncIterator[pb.HostRequest], performer: Performer) -> None:
    """Hand on what the gateway says until it says no more."""
    async for request in requests:
        kind = request.WhichOneof("message")
        if kind == "playhead":
            performer.acknowledge(seconds_from_duration(request.playhead.position_on_media_clock))
        elif kind == "cue_ready":
            performer.nudge()
        else:
            log.warning("request_dropped", kind=kind)
