"""Takes renders on, tells how far they are, hands their files out. Performs none.

It knows the render store, Celery's queue and the folder of results; who performs renders, and how, it does not know.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from pathlib import Path

from kombu.exceptions import OperationalError

from cuelight.v1 import render_pb2 as pb
from gateway.auth.caller import Caller
from gateway.renders import validation
from gateway.renders.convert import render_message
from gateway.sessions.planning import planners_for
from gateway.sessions.validation import PlannerNames
from services.bundle import Manifest
from services.errors import (
    CuelightError,
    OffsetBeyondEnd,
    RenderingNotOffered,
    RenderNotDone,
    RenderNotFound,
    SessionNotFound,
)
from services.jobs import make_app, send_render
from services.logs import get_logger
from services.metrics import Metrics
from services.render import RenderKey, RenderRecord, RenderState
from services.settings import GatewaySettings
from services.state import SessionStore
from services.state.renders import RenderStore

log = get_logger(__name__)

_WATCH_S = 0.25
_PIECE_BYTES = 256 * 1024


class Desk:
    """The calls of the render service."""

    def __init__(
        self, settings: GatewaySettings, stores: tuple[SessionStore, RenderStore], manifest: Manifest, metrics: Metrics
    ) -> None:
        self._settings = settings
        self._sessions, self._renders = stores
        self._manifest = manifest
        self._planners = PlannerNames.of(settings)
        self._refusals = metrics.refusals
        self._celery = None if settings.render_folder is None else make_app(settings)

    def close(self) -> None:
        """Close the connections to the queue."""
        if self._celery is not None:
            self._celery.close()

    async def submit(self, request: pb.SubmitRenderRequest, caller: Caller) -> pb.SubmitRenderResponse:
        """Take a render on. Raises InvalidInput, RenderExists, QuotaExceeded, NoCapacity."""
        try:
            return await self._submit(request, caller)
        except CuelightError as fault:
            self._refusals.labels(fault.reason).inc()
            raise

    async def _submit(self, request: pb.SubmitRenderRequest, caller: Caller) -> pb.SubmitRenderResponse:
        settings = self._settings
        self._check_offered()
        key = validation.new_key(request, caller)
        if settings.tenant_creations_per_minute:
            await self._sessions.take_creation(caller.tenant, a_minute=settings.tenant_creations_per_minute)
        planners = await planners_for(request.config, self._planners, self._sessions)
        order = await asyncio.to_thread(validation.order, request, self._manifest, planners)
        await self._hold_place(key)
        record = await self._renders.submit(key, order, limit_s=settings.render_limit_s, keep_s=settings.render_keep_s)
        if record.state is RenderState.QUEUED and record.attempts == 0:
            await self._send(key)
        log.info("render_taken_on", render=record.uid)
        return pb.SubmitRenderResponse(render=self._message(record))

    async def get(self, request: pb.GetRenderRequest, caller: Caller) -> pb.GetRenderResponse:
        """The render's present state."""
        return pb.GetRenderResponse(render=self._message(await self._record(request.name, caller)))

    async def watch(self, request: pb.WatchRenderRequest, caller: Caller) -> AsyncGenerator[pb.WatchRenderResponse]:
        """The present state, then every change, until it is final."""
        told: pb.Render | None = None
        while True:
            record = await self._record(request.name, caller)
            message = self._message(record)
            if message != told:
                yield pb.WatchRenderResponse(render=message)
                told = message
            if record.state.is_final:
                return
            await asyncio.sleep(_WATCH_S)

    async def cancel(self, request: pb.CancelRenderRequest, caller: Caller) -> pb.CancelRenderResponse:
        """End a render that is not final, and its session with it."""
        record = await self._record(request.name, caller)
        record = await self._renders.cancel(record.key, keep_s=self._settings.render_keep_s)
        if record.state is RenderState.CANCELLED and record.session_id:
            with contextlib.suppress(SessionNotFound):
                await self._sessions.close(record.session_id)
        return pb.CancelRenderResponse(render=self._message(record))

    async def read(self, request: pb.ReadRenderRequest, caller: Caller) -> AsyncGenerator[pb.ReadRenderResponse]:
        """The file, from an offset on. Raises RenderNotDone, OffsetBeyondEnd, RenderNotFound when it was deleted."""
        record = await self._record(request.name, caller)
        if record.file is None:
            raise RenderNotDone(f"the render is {record.state}: there is no file to read")
        if request.offset > record.file.size_bytes:
            size = record.file.size_bytes
            raise OffsetBeyondEnd(f"offset {request.offset} lies beyond the file's end at {size}")
        offset = request.offset
        while offset < record.file.size_bytes:
            data = await asyncio.to_thread(_piece, self._folder / record.file_name, offset)
            yield pb.ReadRenderResponse(offset=offset, data=data)
            offset += len(data)

    async def _hold_place(self, key: RenderKey) -> None:
        """Count the render among its tenant's. Raises QuotaExceeded."""
        if self._settings.tenant_renders:
            await self._sessions.hold_render(
                key.tenant,
                key.render_id,
                most=self._settings.tenant_renders,
                life_s=self._settings.render_limit_s,
                has_ended=lambda render_id: self._has_ended(RenderKey(key.tenant, render_id)),
            )

    async def _has_ended(self, key: RenderKey) -> bool:
        try:
            return (await self._renders.get(key)).state.is_final
        except RenderNotFound:
            return True

    async def _send(self, key: RenderKey) -> None:
        """Put it into Celery's queue; where that fails a render worker finds it in the store, a little later."""
        assert self._celery is not None, "renders are offered"
        try:
            async with asyncio.timeout(self._settings.redis_call_timeout_ms / 1000):
                await asyncio.to_thread(send_render, self._celery, key)
        except (OperationalError, OSError, TimeoutError) as fault:
            log.warning("render_not_sent", error=type(fault).__name__)

    async def _record(self, name: str, caller: Caller) -> RenderRecord:
        self._check_offered()
        return await self._renders.get(validation.render_key(name, caller))

    def _check_offered(self) -> None:
        if self._settings.render_folder is None:
            raise RenderingNotOffered("nothing is rendered here: CUELIGHT_RENDER_FOLDER is not set")

    @property
    def _folder(self) -> Path:
        assert self._settings.render_folder is not None, "checked before"
        return self._settings.render_folder

    def _message(self, record: RenderRecord) -> pb.Render:
        return render_message(record, self._manifest.geometry)


def _piece(path: Path, offset: int) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(offset)
            data = file.read(_PIECE_BYTES)
    except FileNotFoundError as fault:
        raise RenderNotFound("the render's file is not on this gateway's volume, or was deleted") from fault
    if not data:
        raise RenderNotFound("the render's file is shorter than it was")
    return data
