"""One attachment of a client to its session: requests in, responses out, whatever transport carries them.

gRPC and the WebSocket both stand on this. It knows the contract, the store's cue stream and the session's hosting.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import replace
from typing import TypeAlias

from cuelight.v1 import session_pb2 as pb
from cuelight.v1.types_pb2 import Notice
from gateway.auth.caller import Caller
from gateway.sessions import validation
from gateway.sessions.admission import check_open
from gateway.sessions.convert import session_message
from gateway.sessions.cues import CueDesk, patiently
from gateway.sessions.errors import AttachExpected, MessageTooLarge, ReaderStalled
from gateway.sessions.hosting import Backstage, Hosting
from gateway.sessions.hostings import Hostings
from gateway.sessions.ring import Item
from gateway.sessions.subscription import Subscription, Urgent
from gateway.sessions.tokens import resume_ordinal, resume_token
from services import tracing
from services.errors import CuelightError, InvalidInput, Superseded
from services.serving import status_from_error
from services.session import Cue, CueKind, SessionRecord
from services.wire import timestamp_from_unix

Requests: TypeAlias = AsyncIterator[pb.StreamSessionRequest]

ATTACH_DEADLINE_S = 10.0
MESSAGE_BYTES = 64 * 1024
CREDIT_MOST = 65_536
_WAITING_CUES = 64
"""Cues that wait while the store is away; then the stream itself is held up."""
_PLAYED_S = 0.25
"""Media that end so little behind the playhead count as played: sound and picture do not end together."""

_FIELDS: dict[type[Item | Urgent], str] = {
    pb.MediaChunk: "media",
    pb.ResponseStarted: "response_started",
    pb.ResponseEnded: "response_ended",
    pb.StateChanged: "state_changed",
    pb.ResumeUpdate: "resume_update",
    pb.ErrorNotice: "error",
    pb.GoAway: "go_away",
    pb.Pong: "pong",
    pb.Progress: "progress",
    Notice: "notice",
    pb.Retired: "retired",
}


class Attachments:
    """Opens attachments; of one session the newest holds the stage and the older one is told so."""

    def __init__(self, backstage: Backstage, hostings: Hostings, *, tenant_text_bytes_per_minute: int = 0) -> None:
        """Let the sessions of a tenant send so much text; 0 sets no limit."""
        self.store = backstage.store
        self.tenant_text_bytes_per_minute = tenant_text_bytes_per_minute
        self.geometry = backstage.manifest.geometry
        self.reader_stall_s = backstage.policy.reader_stall_s
        self._refusals = backstage.metrics.refusals
        self._hostings = hostings
        self._holders: dict[str, tuple[int, Subscription]] = {}

    async def stream(self, requests: Requests, caller: Caller) -> AsyncGenerator[pb.StreamSessionResponse]:
        """Serve one stream. Ends when the client half-closes or the session ends; raises CuelightError otherwise."""
        try:
            async with contextlib.aclosing(self._stream(requests, caller)) as responses:
                async for response in responses:
                    yield response
        except CuelightError as fault:
            self._refusals.labels(fault.reason).inc()
            raise

    async def _stream(self, requests: Requests, caller: Caller) -> AsyncGenerator[pb.StreamSessionResponse]:
        attach = await _first_attach(requests)
        offset = attach.media_offset if attach.HasField("media_offset") else None
        record = await self.store.get(validation.session_id_of(attach.session, caller, "attach.session"))
        ordinal = self._next_ordinal(attach, check_open(record, offset))
        async with self._hostings.join(record, offset) as hosting:
            first_offset = hosting.ring.live_offset if offset is None else offset
            subscription = hosting.subscribe(first_offset, attach.initial_credit or None)
            self._take_over(record.session_id, ordinal, subscription)
            if attach.resume_token and hosting.last_cut is not None:
                subscription.post(hosting.last_cut)
            attachment = Attachment(self, hosting, subscription, record, ordinal)
            try:
                async with contextlib.aclosing(attachment.serve(requests, first_offset)) as responses:
                    async for response in responses:
                        yield response
            finally:
                hosting.unsubscribe(subscription)
                if self._holders.get(record.session_id) == (ordinal, subscription):
                    del self._holders[record.session_id]

    def _next_ordinal(self, attach: pb.Attach, record: SessionRecord) -> int:
        """A number above the present holder's. Raises Superseded when the client's token is older than that."""
        held = self._holders.get(record.session_id)
        newest = held[0] if held else 0
        if attach.resume_token:
            mine = resume_ordinal(attach.resume_token, record.session_id, record.token_digests)
            if mine < newest:
                raise Superseded("a newer attachment holds this session; this one must not take it back")
        return max(newest + 1, time.time_ns() // 1_000_000)

    def _take_over(self, session_id: str, ordinal: int, subscription: Subscription) -> None:
        held = self._holders.get(session_id)
        if held is not None:
            held[1].end(Superseded("a newer attachment has taken this session over"))
        self._holders[session_id] = (ordinal, subscription)


class Attachment:
    """One client on the stage."""

    def __init__(
        self,
        attachments: Attachments,
        hosting: Hosting,
        subscription: Subscription,
        record: SessionRecord,
        ordinal: int,
    ) -> None:
        self._store = attachments.store
        self._geometry = attachments.geometry
        self._text_a_minute = attachments.tenant_text_bytes_per_minute
        self._patience_s = attachments.reader_stall_s
        self._hosting = hosting
        self._subscription = subscription
        self._record = record
        self._ordinal = ordinal
        self._playhead_s: float | None = None
        self._sent_s = 0.0
        """Media up to here on the media clock were sent."""
        self._owed_since = 0.0
        """Since when the client could have said that it plays on."""
        self._is_paused = False
        self._durable_seq = record.last_client_seq
        self._cues: asyncio.Queue[tuple[Cue, bool]] = asyncio.Queue(_WAITING_CUES)
        """What was said and is not stored yet, and whether its text had to be cleaned."""
        self._desk = CueDesk(attachments.store, record.session_id, record.last_client_seq)
        self._server_seq = 0

    async def serve(self, requests: Requests, first_offset: int) -> AsyncGenerator[pb.StreamSessionResponse]:
        """Answer with attached, then send what comes while the client's requests are taken in."""
        container = self._record.config.container
        yield self._response(attached=await self._attached(first_offset))
        self._subscription.post(self._resume_update())
        chores = (self._take_all(requests), self._store_cues(), self._desk.watch(), self._watch_reader())
        beside = {asyncio.create_task(chore) for chore in chores}
        try:
            async for item in self._subscription:
                if isinstance(item, pb.MediaChunk):
                    self._note_sent(item)
                    item = self._hosting.framing.frame(item, container)
                elif isinstance(item, pb.GoAway):
                    item = self._with_token(item)
                yield self._response(**{_FIELDS[type(item)]: item})
        finally:
            for task in beside:
                task.cancel()
            await asyncio.wait(beside)
            for task in beside:
                if not task.cancelled():
                    task.result()  # a fault of ours is not hidden

    def _note_sent(self, media: pb.MediaChunk) -> None:
        if not self._is_owed:
            self._owed_since = asyncio.get_running_loop().time()
        self._sent_s = (media.position + 1) * self._geometry.chunk_seconds

    @property
    def _is_owed(self) -> bool:
        """Whether the client was sent what it does not say to have played."""
        return not self._is_paused and self._sent_s - (self._playhead_s or 0.0) > _PLAYED_S

    async def _watch_reader(self) -> None:
        """End the stream of a client that takes nothing: neither plays what it was sent nor says anything else."""
        loop = asyncio.get_running_loop()
        while not (self._is_owed and loop.time() - self._owed_since >= self._patience_s):
            await asyncio.sleep(self._patience_s / 8)
        self._subscription.end(ReaderStalled(self._patience_s))

    async def _attached(self, first_offset: int) -> pb.Attached:
        record = await self._store.get(self._record.session_id)
        self._durable_seq = record.last_client_seq
        session = session_message(record, self._geometry)
        session.epoch = max(session.epoch, self._hosting.epoch)
        ring = self._hosting.ring
        session.oldest_media_offset, session.next_media_offset = ring.oldest_offset, ring.next_offset
        return pb.Attached(
            session=session,
            last_client_seq=record.last_client_seq,
            media_offset=first_offset,
            tracks=self._hosting.framing.tracks(record.config.container),
            state_preserved=self._hosting.is_state_preserved,
        )

    async def _take_all(self, requests: Requests) -> None:
        """Take requests until the client half-closes; a fault of the stream itself ends it."""
        ended: CuelightError | None = None
        try:
            try:
                async for request in requests:
                    _check_message_size(request)
                    await self._take(request)
            except CuelightError as fault:
                ended = fault
            await self._cues.join()  # whoever half-closes, or breaks off, has said all this
        finally:
            self._subscription.end(ended)

    async def _take(self, request: pb.StreamSessionRequest) -> None:
        kind = request.WhichOneof("message")
        if kind is None:
            raise InvalidInput("a stream message must hold one of input, interrupt, acknowledge, ping", field="message")
        if kind == "attach":
            raise AttachExpected("attach may only be the first message of a stream")
        if kind == "ping":
            self._subscription.post(
                pb.Pong(client_time=request.ping.client_time, receive_time=timestamp_from_unix(time.time()))
            )
            return
        self._owed_since = asyncio.get_running_loop().time()
        try:
            if kind == "acknowledge":
                self._acknowledge(request.acknowledge)
            else:
                await self._cues.put(_cue_from(request, self._playhead_s))
        except CuelightError as fault:
            self._refuse(fault, request.client_seq)

    def _refuse(self, fault: CuelightError, client_seq: int) -> None:
        """What is wrong with one message is no reason to end the performance."""
        self._subscription.post(pb.ErrorNotice(status=status_from_error(fault), client_seq=client_seq))

    def _acknowledge(self, acknowledge: pb.Acknowledge) -> None:
        if acknowledge.credit > CREDIT_MOST:
            raise InvalidInput(f"acknowledge.credit may be {CREDIT_MOST} at most", field="acknowledge.credit")
        if acknowledge.HasField("playhead"):
            self._playhead_s = validation.playhead_s(acknowledge.playhead, "acknowledge.playhead")
            self._hosting.played(self._playhead_s)
        self._subscription.grant(acknowledge.credit)

    async def _store_cues(self) -> None:
        """Store what was said, in order; while the store is away it waits here, and all else goes on."""
        try:
            while True:
                cue, is_cleaned = await self._cues.get()
                try:
                    await self._store_cue(cue, is_cleaned=is_cleaned)
                except CuelightError as fault:
                    self._refuse(fault, cue.client_seq)
                self._cues.task_done()
        finally:
            self._subscription.end()

    async def _store_cue(self, cue: Cue, *, is_cleaned: bool) -> None:
        if self._text_a_minute and cue.text and cue.client_seq > self._durable_seq:
            size, tenant = len(cue.text.encode()), self._record.tenant
            await patiently(lambda: self._store.take_text(tenant, size, a_minute=self._text_a_minute))
        session_id = self._record.session_id
        with tracing.trace("cue", session_id=session_id, client_seq=cue.client_seq, kind=cue.kind.value):
            is_new = await self._desk.append(replace(cue, trace=tracing.current()))
        if cue.kind in (CueKind.PAUSE, CueKind.RESUME):
            self._is_paused = cue.kind is CueKind.PAUSE
        self._hosting.nudge()
        if is_new and is_cleaned:
            text = "The text held control characters; blanks took their place."
            self._subscription.post(Notice(code="CONTROL_CHARACTERS_REMOVED", text=text, client_seq=cue.client_seq))
        self._durable_seq = max(self._durable_seq, cue.client_seq)
        self._subscription.post(self._resume_update())

    @property
    def _token(self) -> str:
        return resume_token(self._record.session_id, self._ordinal, self._record.token_digests[-1])

    def _with_token(self, leave: pb.GoAway) -> pb.GoAway:
        """What all readers are told, with what this one attaches again with."""
        told = pb.GoAway(resume_token=self._token)
        told.MergeFrom(leave)
        return told

    def _resume_update(self) -> pb.ResumeUpdate:
        return pb.ResumeUpdate(
            resume_token=self._token,
            durable_client_seq=self._durable_seq,
            expire_time=timestamp_from_unix(self._record.expire_time_s),
        )

    def _response(self, **message: object) -> pb.StreamSessionResponse:
        self._server_seq += 1
        return pb.StreamSessionResponse(
            server_seq=self._server_seq,
            send_time=timestamp_from_unix(time.time()),
            **message,  # type: ignore[arg-type]
        )


async def _first_attach(requests: Requests) -> pb.Attach:
    try:
        async with asyncio.timeout(ATTACH_DEADLINE_S):
            request = await anext(requests)
    except StopAsyncIteration:
        raise AttachExpected("the stream ended before its first message; the first message must be attach") from None
    except TimeoutError:
        raise AttachExpected(f"no attach came within {ATTACH_DEADLINE_S:g} s; it must be the first message") from None
    _check_message_size(request)
    if request.WhichOneof("message") != "attach":
        kind = request.WhichOneof("message") or "empty"
        raise AttachExpected(f"the first message of a stream must be attach, this one is {kind}")
    if request.attach.initial_credit > CREDIT_MOST:
        raise InvalidInput(f"attach.initial_credit may be {CREDIT_MOST} at most", field="attach.initial_credit")
    return request.attach


def _check_message_size(request: pb.StreamSessionRequest) -> None:
    size = request.ByteSize()
    if size > MESSAGE_BYTES:
        raise MessageTooLarge(
            f"a stream message may have {MESSAGE_BYTES} bytes, this one has {size}; "
            f"send text in pieces of at most {validation.SAY_BYTES} bytes"
        )


def _cue_from(request: pb.StreamSessionRequest, acknowledged_s: float | None) -> tuple[Cue, bool]:
    """The cue a message asks for, and whether its text had to be cleaned. Raises InvalidInput."""
    if request.client_seq < 1:
        raise InvalidInput("client_seq of inputs and interrupts counts from 1", field="client_seq")
    if request.WhichOneof("message") == "interrupt":
        playhead_s = acknowledged_s
        if request.interrupt.HasField("playhead"):
            playhead_s = validation.playhead_s(request.interrupt.playhead, "interrupt.playhead")
        return Cue(request.client_seq, CueKind.INTERRUPT, playhead_s=playhead_s), False
    user_input = request.input
    playhead_s = acknowledged_s if user_input.barge_in else None
    if user_input.barge_in and user_input.HasField("playhead"):
        playhead_s = validation.playhead_s(user_input.playhead, "input.playhead")
    kind, text = _kind_and_text(user_input)
    cue = Cue(request.client_seq, kind, text.text, playhead_s=playhead_s, barge_in=user_input.barge_in)
    return cue, text.is_cleaned


def _kind_and_text(user_input: pb.UserInput) -> tuple[CueKind, validation.Text]:
    kind = user_input.WhichOneof("kind")
    nothing = validation.Text("", is_cleaned=False)
    if kind == "say":
        return CueKind.SAY, validation.say_text(user_input.say)
    if kind == "hear":
        return CueKind.HEAR, validation.hear_text(user_input.hear)
    if kind == "prompt":
        return CueKind.PROMPT, validation.prompt_text(user_input.prompt)
    if kind == "pause":
        return (CueKind.PAUSE if user_input.pause else CueKind.RESUME), nothing
    if kind == "end" and user_input.end:
        return CueKind.END, nothing
    raise InvalidInput("input must hold one of say, hear, prompt, pause, or end = true", field="input.kind")
