"""Moves sessions of this worker to others: one that is named, or all of them when the worker is to be empty.

A session goes on here until another worker stands where it stands, and changes hands at a chunk boundary. It knows
placement and the other workers' TakeOver, and of a session only that it can be given.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypeAlias

from grpc import aio

from cuelight.v1 import worker_pb2 as pb
from cuelight.v1 import worker_pb2_grpc
from dit_worker.service.house import House
from dit_worker.service.performer import Performer
from dit_worker.service.station import Station
from dit_worker.service.succession import Gift, Handed, Terms
from services.errors import CuelightError, NoCapacity, WorkerUnavailable
from services.logs import bound, get_logger
from services.serving import error_from_rpc, internal_certificates, open_channel
from services.session import Pin, is_render
from services.state import Slot
from services.wire import duration_from_seconds

log = get_logger(__name__)
_Call: TypeAlias = "aio.StreamStreamCall[pb.TakeOverRequest, pb.TakeOverResponse]"

_PREPARE_S = 12.0
"""The other worker's caches are computed within this; the slot held there waits 15 s."""
_BOUNDARY_S = 30.0
"""The session comes to a chunk boundary within this."""
_TAKE_S = 2.5
"""The other worker answers within this: less than a lease that is not renewed holds."""
_TOGETHER = 4
"""Sessions that are moved at the same time."""
_RETRY_S = 1.0


class Mover:
    """Moves of one worker's sessions."""

    def __init__(self, station: Station, house: House) -> None:
        self._station = station
        self._house = house
        self._turns = asyncio.Semaphore(_TOGETHER)

    async def move(self, session_id: str, worker_id: str = "") -> Handed:
        """Have another worker, or the one that is named, go on with a session from its next chunk boundary on.

        Raises SessionNotFound, NoCapacity and WorkerUnavailable: the session goes on here then.
        """
        performer = self._house.performer(session_id)
        with bound(session_id=session_id):
            try:
                async with self._turns:
                    handed = await self._move(performer, worker_id)
            except CuelightError as fault:
                result = "no_capacity" if isinstance(fault, NoCapacity) else "failed"
                self._station.figures.metrics.moves.labels(result).inc()
                raise
            self._station.figures.metrics.moves.labels("moved").inc()
            self._station.figures.metrics.handover.observe(handed.idle_s)
            told = {"worker_id": handed.slot.worker_id, "chunk_index": handed.next_chunk_index}
            log.info("session_moved", epoch=handed.epoch, idle_s=round(handed.idle_s, 4), **told)
        return handed

    async def empty(self, *, is_leaving: bool = False) -> None:
        """Move every session away, trying again while there is no room, until none is left here.

        is_leaving: a session that nobody watches is let go rather than kept waiting: whoever asks for it next gets it
        placed.
        """
        while names := self._house.session_ids:
            await asyncio.gather(*(self._try(name, is_leaving=is_leaving) for name in names))
            if self._house.session_ids:
                await asyncio.sleep(_RETRY_S)

    async def _try(self, session_id: str, *, is_leaving: bool) -> None:
        try:
            await self.move(session_id)
        except CuelightError as fault:
            performer = self._house.find(session_id)
            has_no_room = isinstance(fault, NoCapacity)
            if has_no_room and performer is not None and is_render(session_id):
                performer.make_way()  # it waits for room by itself, and must not hold up who has to go
                return
            if is_leaving and has_no_room and performer is not None and not performer.is_watched:
                await performer.stop()
                return
            log.warning("session_stays", session_id=session_id, reason=fault.reason, detail=fault.message)

    async def _move(self, performer: Performer, worker_id: str) -> Handed:
        slot = await self._hold(performer.session_id, worker_id)
        try:
            async with self._preparing(slot, performer.session_id) as call:
                handed = await self._give(performer, slot, call)
        except BaseException:
            await asyncio.shield(self._give_up(performer.session_id))
            raise
        await self._settle(performer.session_id, slot.worker_id)
        return handed

    async def _hold(self, session_id: str, worker_id: str) -> Slot:
        """A slot on another worker."""
        exclude = {self._station.settings.owner_name}
        if worker_id:
            known = {worker.worker_id for worker in await self._station.store.list_workers()}
            if worker_id in exclude or worker_id not in known:
                raise NoCapacity(f"no other worker is called {worker_id[:128]!r}")
            exclude = known - {worker_id}
        pin = Pin(self._station.bundle.manifest.digest)
        return await self._station.store.hold_for_move(session_id, pin, exclude=exclude)

    @asynccontextmanager
    async def _preparing(self, slot: Slot, session_id: str) -> AsyncIterator[_Call]:
        """A stream to the other worker, which stands where the session stands. It is undone on leaving."""
        settings = self._station.settings
        channel = open_channel(slot.address, settings.grpc_max_message_bytes, internal_certificates(settings))
        async with channel:
            call = worker_pb2_grpc.WorkerServiceStub(channel).TakeOver()
            try:
                request = pb.TakeOverRequest(prepare=pb.Prepare(session_id=session_id))
                await _ask(call, request, "prepared", _PREPARE_S)
                yield call
            finally:
                call.cancel()

    async def _give(self, performer: Performer, slot: Slot, call: _Call) -> Handed:
        async def take(terms: Terms) -> int:
            request = pb.Take(
                epoch=terms.epoch,
                playhead=duration_from_seconds(terms.acknowledged_s),
                is_paused=terms.is_paused,
                response_seq=terms.response_seq,
                generated=duration_from_seconds(terms.generated_s),
            )
            answer = await _ask(call, pb.TakeOverRequest(take=request), "taken", _TAKE_S)
            return answer.taken.epoch

        gift = Gift(slot, take)
        performer.give(gift)
        try:
            async with asyncio.timeout(_BOUNDARY_S):
                return await asyncio.shield(gift.handed)
        except TimeoutError as fault:
            raise WorkerUnavailable(f"the session came to no chunk boundary within {_BOUNDARY_S:g} s") from fault
        finally:
            performer.keep(gift)

    async def _settle(self, session_id: str, worker_id: str) -> None:
        try:
            await self._station.store.settle_move(session_id, worker_id)
        except CuelightError as fault:  # its own heartbeat says where it is, a little later
            log.warning("move_not_settled", error=type(fault).__name__)

    async def _give_up(self, session_id: str) -> None:
        try:
            await self._station.store.give_up_move(session_id)
        except CuelightError as fault:  # the slot is free again by itself, a little later
            log.warning("move_not_given_up", error=type(fault).__name__)


async def _ask(call: _Call, request: pb.TakeOverRequest, expected: str, deadline_s: float) -> pb.TakeOverResponse:
    """One question and its answer. Raises what the other worker refused with, or WorkerUnavailable."""
    try:
        async with asyncio.timeout(deadline_s):
            await call.write(request)
            answer = await call.read()
    except TimeoutError as fault:
        raise WorkerUnavailable(f"the other worker was not {expected} within {deadline_s:g} s") from fault
    except aio.AioRpcError as fault:
        known = error_from_rpc(fault)
        raise known or WorkerUnavailable(f"the other worker does not answer ({fault.code().name})") from fault
    except asyncio.InvalidStateError as fault:
        raise await _end_of(call) from fault
    if not isinstance(answer, pb.TakeOverResponse) or answer.WhichOneof("message") != expected:
        raise WorkerUnavailable("the other worker ended the stream")
    return answer


async def _end_of(call: _Call) -> CuelightError:
    """Why a stream ended that was written to."""
    try:
        async with asyncio.timeout(_TAKE_S):
            await call.read()
    except (aio.AioRpcError, TimeoutError, asyncio.InvalidStateError) as fault:
        known = error_from_rpc(fault) if isinstance(fault, aio.AioRpcError) else None
        return known or WorkerUnavailable("the other worker ended the stream")
    return WorkerUnavailable("the other worker ended the stream")
