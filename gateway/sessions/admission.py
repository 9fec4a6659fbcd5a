"""Creates, shows, lists and closes sessions. Creating is the only call that is ever refused for load.

It knows the store and the workers' slots; streams are not its business.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field

from cuelight.v1 import session_pb2 as pb
from gateway.auth.caller import Caller
from gateway.sessions import validation
from gateway.sessions.convert import session_message
from gateway.sessions.hosting import Backstage
from gateway.sessions.hostings import Hostings
from gateway.sessions.planning import planners_for
from gateway.sessions.queue import Queue, QueueFull
from gateway.sessions.tokens import attach_token, new_secret
from services.errors import (
    CuelightError,
    NoCapacity,
    QuotaExceeded,
    SessionClosed,
    SessionNotFound,
    StoreUnavailable,
    WorkerUnavailable,
)
from services.logs import get_logger
from services.session import Cue, CueKind, Pin, SessionRecord, SessionState, token_digest

log = get_logger(__name__)

_QUEUE_LOOK_S = 0.25
_WANT_S = 2.0


@dataclass(frozen=True, slots=True)
class AdmissionPolicy:
    """Lives of sessions, in seconds, and who may plan them."""

    limit_s: float = 4 * 3600.0
    detach_ttl_s: float = 60.0
    planners: validation.PlannerNames = field(default_factory=validation.PlannerNames)
    tenant_sessions: int = 0
    """Sessions that a tenant may have at a time; 0 sets no limit."""
    tenant_creations_per_minute: int = 0
    queue: int = 64
    """Creations that may wait for a slot at a time."""


class Admission:
    """The calls of the session service that are answered at once."""

    def __init__(self, backstage: Backstage, hostings: Hostings, policy: AdmissionPolicy) -> None:
        self._store = backstage.store
        self._hostings = hostings
        self._manifest = backstage.manifest
        self._refusals = backstage.metrics.refusals
        self._policy = policy
        self.queue = Queue(policy.queue)

    async def create(self, request: pb.CreateSessionRequest, caller: Caller) -> pb.CreateSessionResponse:
        """Admit a session. Raises InvalidInput, SessionExists, NoCapacity, or WorkerUnavailable when there is none."""
        try:
            return await self._create(request, caller)
        except CuelightError as fault:
            self._refusals.labels(fault.reason).inc()
            raise

    async def _create(self, request: pb.CreateSessionRequest, caller: Caller) -> pb.CreateSessionResponse:
        validation.check_parent(request.parent, caller.tenant)
        validation.check_new_id(request.session_id)
        validation.check_request_id(request.request_id)
        queue_s = validation.queue_timeout_s(request)
        if self._policy.tenant_creations_per_minute:
            # First of all: what is refused for this must cost next to nothing.
            await self._store.take_creation(caller.tenant, a_minute=self._policy.tenant_creations_per_minute)
        planners = await planners_for(request.config, self._policy.planners, self._store)
        # Decoding a large portrait takes a while: not on the loop that carries the streams.
        config = await asyncio.to_thread(validation.session_config, request.config, self._manifest, planners)
        secret = new_secret()
        record = await self._store.create_session(
            config,
            session_id=request.session_id,
            request_id=request.request_id,
            tenant=caller.tenant,
            token_digest=token_digest(secret),
            bundle=self._manifest.digest,
            limit_s=self._policy.limit_s,
            detach_ttl_s=self._policy.detach_ttl_s,
        )
        if record.state.is_final:
            raise SessionClosed("the session that this request_id created has ended; use a new request_id")
        await self._hold_place(record)
        if self._hostings.find(record.session_id) is None:
            # Before the wait for a slot: the client may be gone by its end, and nobody else would close the session.
            self._hostings.expect(record.session_id, queue_s + record.detach_ttl_s)
        await self._reserve(record, queue_s)
        log.info("session_admitted", session_id=record.session_id)
        return pb.CreateSessionResponse(
            session=self._message(record), attach_token=attach_token(record.session_id, secret)
        )

    async def get(self, request: pb.GetSessionRequest, caller: Caller) -> pb.GetSessionResponse:
        """The session's present state. Raises SessionNotFound."""
        return pb.GetSessionResponse(session=self._message(await self._record(request.name, caller)))

    async def list_page(self, request: pb.ListSessionsRequest, caller: Caller) -> pb.ListSessionsResponse:
        """One page of the tenant's sessions, newest first."""
        validation.check_parent(request.parent, caller.tenant)
        size, token = validation.page(request)
        page = await self._store.list_sessions(caller.tenant, limit=size, token=token)
        return pb.ListSessionsResponse(
            sessions=[self._message(record) for record in page.sessions], next_page_token=page.next_token
        )

    async def close(self, request: pb.CloseSessionRequest, caller: Caller) -> pb.CloseSessionResponse:
        """End a session, at once or after what is queued has been played. Idempotent."""
        record = await self._record(request.name, caller)
        if record.state.is_final:
            return pb.CloseSessionResponse(session=self._message(record))
        hosting = self._hostings.find(record.session_id)
        if not request.immediate and hosting is not None:
            await self._store.append_cue(record.session_id, Cue(record.last_client_seq + 1, CueKind.END))
            hosting.nudge()
            return pb.CloseSessionResponse(session=self._message(record))
        record = await self._store.close(record.session_id)
        if hosting is not None:
            hosting.announce(pb.SESSION_STATE_CLOSED)
        await self._hostings.let_go(record.session_id)
        return pb.CloseSessionResponse(session=self._message(record))

    async def _record(self, name: str, caller: Caller) -> SessionRecord:
        record = await self._store.get(validation.session_id_of(name, caller))
        if record.tenant != caller.tenant:
            raise validation.unknown_session()
        return record

    async def _hold_place(self, record: SessionRecord) -> None:
        """Count the session among its tenant's; one that is too many is closed again. Raises QuotaExceeded."""
        if not self._policy.tenant_sessions:
            return
        try:
            await self._store.hold_place(
                record.tenant,
                record.session_id,
                most=self._policy.tenant_sessions,
                life_s=self._policy.limit_s,
                has_ended=self._has_ended,
            )
        except QuotaExceeded:
            if record.state is SessionState.PENDING:  # else it is somebody's repeat of what goes on already
                await self._store.close(record.session_id)
            raise

    async def _has_ended(self, session_id: str) -> bool:
        try:
            return (await self._store.get(session_id)).state.is_final
        except SessionNotFound:
            return True

    async def _reserve(self, record: SessionRecord, queue_s: float) -> None:
        """Reserve a slot, waiting in line for one up to `queue_s`; a session that gets none is closed again."""
        is_repeat = len(record.token_digests) > 1  # it may have its slot
        if (is_repeat or not self.queue) and await self._has_slot(record):
            return
        # Also for one that does not wait: the fleet is to grow by what was refused.
        await self._store.want_slot(record.session_id)
        wanting = asyncio.create_task(self._keep_wanting(record.session_id))
        try:
            async with asyncio.timeout(queue_s), self.queue.turn():
                while not await self._has_slot(record):
                    await self._store.want_slot(record.session_id)
                    await asyncio.sleep(_QUEUE_LOOK_S)
            await self._store.want_no_more(record.session_id)
        except (TimeoutError, QueueFull) as fault:
            await self._store.close(record.session_id)
            await self._refuse(f"{len(self.queue)} creations wait already" if isinstance(fault, QueueFull) else "")
        finally:
            wanting.cancel()

    async def _keep_wanting(self, session_id: str) -> None:
        """Count a session that waits, for as long as it does, wherever it stands in line."""
        while True:
            await asyncio.sleep(_WANT_S)
            with contextlib.suppress(StoreUnavailable):
                await self._store.want_slot(session_id)

    async def _has_slot(self, record: SessionRecord) -> bool:
        try:
            await self._store.reserve_slot(record.session_id, Pin(self._manifest.digest))
        except NoCapacity:
            return False
        return True

    async def _refuse(self, why: str) -> None:
        workers = await self._store.list_workers()
        if not workers:
            raise WorkerUnavailable(
                "no worker is running; start one (`cuelight up`, or `python -m dit_worker`) and try again",
                retry_after_s=5.0,
            )
        suited = [worker for worker in workers if worker.suits(Pin(self._manifest.digest))]
        if not suited:
            raise WorkerUnavailable(
                f"the workers that run hold another bundle than this gateway's {self._manifest.name!r}; "
                "start all processes with the same CUELIGHT_BUNDLE",
                retry_after_s=5.0,
            )
        slots = sum(worker.slots for worker in suited)
        free_in_s = min((worker.free_in_s for worker in suited if worker.is_ready), default=0.0)
        raise NoCapacity(
            f"all {slots} slots of {len(suited)} workers are taken; {why or 'try again, or give queue_timeout'}",
            retry_after_s=max(free_in_s, NoCapacity.retry_after_s),
        )

    def _message(self, record: SessionRecord) -> pb.Session:
        message = session_message(record, self._manifest.geometry)
        hosting = self._hostings.find(record.session_id)
        if hosting is not None and hosting.has_ring:
            message.oldest_media_offset = min(message.oldest_media_offset, hosting.ring.oldest_offset)
            message.next_media_offset = max(message.next_media_offset, hosting.ring.next_offset)
        return message


def check_open(record: SessionRecord, media_offset: int | None = None) -> SessionRecord:
    """The record of a session that can still be attached to. Raises SessionClosed.

    One that has ended can be while somebody wants the rest of its media, from an offset on.
    """
    if record.state.is_final and media_offset is None:
        why = f": {record.error}" if record.error else ""
        raise SessionClosed(f"the session is {record.state}{why}; create a new one")
    return record
