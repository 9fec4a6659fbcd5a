"""A scripted SessionService on a real socket: speaks the public contract with test media, and breaks when told to.

A few words make a chunk. It keeps a session over broken streams, as a gateway does; it knows no worker.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cache

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc import code_pb2, error_details_pb2, status_pb2

from cuelight.v1 import session_pb2 as pb
from cuelight.v1.session_pb2_grpc import SessionServiceServicer, add_SessionServiceServicer_to_server
from tests.fakes.media import (
    AUDIO_TRACK,
    CHUNK_SAMPLES,
    FRAMES_PER_CHUNK,
    PACKET_SAMPLES,
    SAMPLE_RATE,
    VIDEO_TRACK,
    EncodedChunk,
    TestMedia,
    first_packet,
)

CHUNK_S = CHUNK_SAMPLES / SAMPLE_RATE
TOKEN = "attach-token"
_VIDEO_TIMESCALE = 24_000
_FRAME_TICKS = 1_000
_media = TestMedia()
Context = grpc.aio.ServicerContext


@dataclass
class Script:
    """What goes wrong, and when. Counts are of media messages over the whole session."""

    words_per_chunk: int = 3
    break_after: list[int] = field(default_factory=list)
    """Breaks the stream with UNAVAILABLE after so many media messages, one entry for each break."""
    repeat_offsets: bool = False
    """After attaching again, sends from the beginning, as if it knew no offset."""
    lose_offset: int | None = None
    """Leaves this offset out, once, or always with `is_lost_for_good`."""
    is_lost_for_good: bool = False
    refuse_create: status_pb2.Status | None = None
    refuse_attach: status_pb2.Status | None = None
    attaches_refused: float = float("inf")
    """How many, before the first is taken."""
    is_mute: bool = False
    """Answers nothing after attach, not even a ping."""
    go_away_after: int | None = None
    """Goes away after so many media messages: says so, goes on, and takes no new stream."""
    tell_after: dict[int, list[pb.StreamSessionResponse]] = field(default_factory=dict)
    """What else is said after so many media messages."""
    forget_after: int | None = None
    """Once, when so many media messages were sent, there is no such session any more."""
    fail_after: int | None = None
    """The session fails after so many media messages."""


@dataclass
class _Session:
    name: str
    config: pb.SessionConfig
    words: list[str] = field(default_factory=list)
    spoken: int = 0
    log: list[pb.StreamSessionResponse] = field(default_factory=list)
    next_chunk: int = 0
    next_position: int = 0
    generation: int = 0
    last_client_seq: int = 0
    is_ending: bool = False
    is_closed: bool = False
    is_failed: bool = False
    media_sent: int = 0
    changed: asyncio.Event = field(default_factory=asyncio.Event)


class FakeGateway(SessionServiceServicer):
    """The service. What clients sent can be read from ``requests`` and ``creates``."""

    def __init__(self, script: Script | None = None, beside: FakeGateway | None = None) -> None:
        """beside: another gateway of the same deployment, which has the same sessions."""
        self.script = script or Script()
        self.sessions: dict[str, _Session] = beside.sessions if beside else {}
        self.is_leaving = False
        self.creates: list[pb.CreateSessionRequest] = []
        self.requests: list[pb.StreamSessionRequest] = []
        self.closes: list[pb.CloseSessionRequest] = []
        self.attaches: list[pb.Attach] = []
        self.address = ""
        self.backlogs: list[int] = []
        """Words that waited to be spoken when a say came, for every say."""
        self.largest_burst = 0
        """Most media messages sent without an acknowledgement between them."""

    async def CreateSession(self, request: pb.CreateSessionRequest, context: Context) -> pb.CreateSessionResponse:
        self.creates.append(request)
        if self.script.refuse_create is not None:
            status, self.script.refuse_create = self.script.refuse_create, None
            await _abort(context, status)
        name = request.session_id or f"s{len(self.sessions)}"
        session = _Session(f"tenants/local/sessions/{name}", request.config)
        self.sessions[session.name] = session
        return pb.CreateSessionResponse(session=_describe(session), attach_token=TOKEN)

    async def GetSession(self, request: pb.GetSessionRequest, context: Context) -> pb.GetSessionResponse:
        if request.name not in self.sessions:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"no session {request.name}")
        return pb.GetSessionResponse(session=_describe(self.sessions[request.name]))

    async def ListSessions(self, request: pb.ListSessionsRequest, context: Context) -> pb.ListSessionsResponse:
        return pb.ListSessionsResponse(sessions=[_describe(each) for each in self.sessions.values()])

    async def CloseSession(self, request: pb.CloseSessionRequest, context: Context) -> pb.CloseSessionResponse:
        self.closes.append(request)
        session = self.sessions[request.name]
        session.is_closed = True
        session.changed.set()
        return pb.CloseSessionResponse(session=_describe(session))

    async def StreamSession(
        self, request_iterator: AsyncIterator[pb.StreamSessionRequest], context: Context
    ) -> AsyncIterator[pb.StreamSessionResponse]:
        first = await anext(request_iterator)
        self.attaches.append(first.attach)
        if ("authorization", f"Bearer {TOKEN}") not in (context.invocation_metadata() or ()):
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "the token is missing")
        if self.is_leaving:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "this gateway goes away")
        if self.script.refuse_attach is not None and len(self.attaches) <= self.script.attaches_refused:
            await _abort(context, self.script.refuse_attach)
        session = self.sessions[first.attach.session]
        stream = _Stream(self, session, first.attach, context)
        reader = asyncio.create_task(stream.read(request_iterator))
        try:
            async for response in stream.write():
                yield response
        finally:
            reader.cancel()

    async def ReadMedia(self, request: pb.ReadMediaRequest, context: Context) -> AsyncIterator[pb.ReadMediaResponse]:
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "not part of this fake")
        yield pb.ReadMediaResponse()


class _Stream:
    """One attachment: takes inputs, makes chunks while credit lasts."""

    def __init__(self, fake: FakeGateway, session: _Session, attach: pb.Attach, context: Context) -> None:
        self.fake, self.session, self.attach, self.context = fake, session, attach, context
        self.credit = attach.initial_credit
        self.next_offset = 0 if fake.script.repeat_offsets else attach.media_offset
        self.outgoing: list[pb.StreamSessionResponse] = []
        self.server_seq = 0
        self.burst = 0

    async def read(self, requests: AsyncIterator[pb.StreamSessionRequest]) -> None:
        async for request in requests:
            self.fake.requests.append(request)
            self._take(request)
            self.session.changed.set()

    async def write(self) -> AsyncIterator[pb.StreamSessionResponse]:
        yield self._number(pb.StreamSessionResponse(attached=self._attached()))
        if self.fake.script.is_mute:
            await asyncio.sleep(60)
        while True:
            while self.outgoing:
                yield self._number(self.outgoing.pop(0))
            if (response := self._next()) is not None:
                if response.WhichOneof("message") == "media":
                    await self._count_media()
                yield self._number(response)
                continue
            if self.session.is_closed or self.session.is_failed:
                yield self._number(_state(self.session))
                return
            self.session.changed.clear()
            await self.session.changed.wait()

    async def _count_media(self) -> None:
        script = self.fake.script
        if script.break_after and self.session.media_sent >= script.break_after[0]:
            script.break_after.pop(0)
            await self.context.abort(grpc.StatusCode.UNAVAILABLE, "the gateway goes away")
        if script.forget_after is not None and self.session.media_sent >= script.forget_after:
            script.forget_after = None
            del self.fake.sessions[self.session.name]
            await self.context.abort(grpc.StatusCode.NOT_FOUND, "there is no such session")
        if script.go_away_after is not None and self.session.media_sent >= script.go_away_after:
            script.go_away_after, self.fake.is_leaving = None, True
            leave = pb.GoAway(reason=pb.GO_AWAY_REASON_DRAINING, resume_token="elsewhere")
            self.outgoing.append(pb.StreamSessionResponse(go_away=leave))
        self.outgoing += script.tell_after.pop(self.session.media_sent, [])
        self.session.media_sent += 1
        self.burst += 1
        self.fake.largest_burst = max(self.fake.largest_burst, self.burst)

    def _take(self, request: pb.StreamSessionRequest) -> None:
        kind = request.WhichOneof("message")
        if kind == "ping":
            pong = pb.Pong(client_time=request.ping.client_time)
            self.outgoing.append(pb.StreamSessionResponse(pong=pong))
        elif kind == "acknowledge":
            self.credit += request.acknowledge.credit
            self.burst = 0
        elif request.client_seq > self.session.last_client_seq:
            self.session.last_client_seq = request.client_seq
            self._take_cue(request)
            update = pb.ResumeUpdate(resume_token="again", durable_client_seq=request.client_seq)
            self.outgoing.append(pb.StreamSessionResponse(resume_update=update))

    def _take_cue(self, request: pb.StreamSessionRequest) -> None:
        session = self.session
        if request.WhichOneof("message") == "interrupt":
            self._interrupt(request.interrupt)
            return
        kind = request.input.WhichOneof("kind")
        if kind == "say":
            self.fake.backlogs.append(len(session.words) - session.spoken)
            session.words += request.input.say.split()
            started = pb.ResponseStarted(response_id=f"r{request.client_seq}", client_seq=request.client_seq)
            self.outgoing.append(pb.StreamSessionResponse(response_started=started))
        elif kind == "end":
            session.is_ending = True

    def _interrupt(self, interrupt: pb.Interrupt) -> None:
        session = self.session
        session.generation += 1
        first = int(interrupt.playhead.ToTimedelta().total_seconds() / CHUNK_S) + 1
        gone = sorted({e.media.chunk_index for e in session.log if e.HasField("media") and e.media.position >= first})
        session.log = [e for e in session.log if not (e.HasField("media") and e.media.chunk_index in gone)]
        session.next_position = min(first, session.next_position)
        session.words = session.words[: session.spoken]
        retired = pb.Retired(generation=session.generation, first_position=first, chunk_indices=gone)
        self.outgoing.append(pb.StreamSessionResponse(retired=retired))
        ended = pb.ResponseEnded(response_id="r1", reason=pb.END_REASON_INTERRUPTED)
        self.outgoing.append(pb.StreamSessionResponse(response_ended=ended))

    def _next(self) -> pb.StreamSessionResponse | None:
        """The next message of the log that this stream has not sent, making chunks as needed."""
        session, script = self.session, self.fake.script
        if script.fail_after is not None and session.media_sent >= script.fail_after:
            session.is_failed = True
            return None
        response = self._from_log()
        if response is None and session.spoken < len(session.words) and self.credit > 0:
            session.log += _make_chunk(session, script.words_per_chunk)
            response = self._from_log()
        is_all_sent = not any(_place(entry) >= self.next_offset for entry in session.log)
        if response is None and is_all_sent and session.spoken == len(session.words) and session.is_ending:
            session.is_closed = True
        return response

    def _from_log(self) -> pb.StreamSessionResponse | None:
        for entry in self.session.log:
            if _place(entry) < self.next_offset:
                continue
            if entry.HasField("media"):
                if self.credit == 0:
                    return None
                self.credit -= 1
                if entry.media.offset == self.fake.script.lose_offset:
                    if not self.fake.script.is_lost_for_good:
                        self.fake.script.lose_offset = None
                    continue
            self.next_offset = _place(entry) + 0.25
            return entry
        return None

    def _attached(self) -> pb.Attached:
        session = _describe(self.session)
        tracks = [
            pb.TrackInit(
                track=VIDEO_TRACK, codec="avc1.42C01E", timescale=_VIDEO_TIMESCALE, init_data=_media.parameter_sets
            ),
            pb.TrackInit(track=AUDIO_TRACK, codec="opus", timescale=SAMPLE_RATE, init_data=_media.opus_head),
        ]
        return pb.Attached(
            session=session,
            last_client_seq=self.session.last_client_seq,
            media_offset=self.attach.media_offset,
            tracks=tracks,
            state_preserved=True,
        )

    def _number(self, response: pb.StreamSessionResponse) -> pb.StreamSessionResponse:
        self.server_seq += 1
        numbered = pb.StreamSessionResponse()
        numbered.CopyFrom(response)
        numbered.server_seq = self.server_seq
        return numbered


def _place(entry: pb.StreamSessionResponse) -> float:
    """Order of an entry of the log: media by offset, a chunk's words after its media."""
    return entry.media.offset if entry.HasField("media") else 2 * entry.progress.chunk_index + 1.5


def _make_chunk(session: _Session, words: int) -> list[pb.StreamSessionResponse]:
    index, position = session.next_chunk, session.next_position
    session.next_chunk, session.next_position = index + 1, position + 1
    first = session.spoken
    session.spoken = min(first + words, len(session.words))
    chunk = _encoded(position % 4)  # packets fall on borders in the same way every fourth chunk
    video = _media_message(session, index, position, VIDEO_TRACK, chunk.video, _FRAME_TICKS)
    video.media.pts = position * FRAMES_PER_CHUNK * _FRAME_TICKS
    audio = _media_message(session, index, position, AUDIO_TRACK, chunk.audio, PACKET_SAMPLES)
    audio.media.pts = first_packet(position) * PACKET_SAMPLES
    return [video, audio, _progress(session, index, position, first)]


@cache
def _encoded(position: int) -> EncodedChunk:
    return _media.chunk(position)


def _media_message(
    session: _Session, index: int, position: int, track: int, units: list[bytes], ticks: int
) -> pb.StreamSessionResponse:
    media = pb.MediaChunk(
        offset=2 * index + track - 1,
        track=track,
        duration=len(units) * ticks,
        keyframe=True,
        response_id="r1",
        generation=session.generation,
        epoch=1,
        data=b"".join(units),
        chunk_index=index,
        position=position,
        unit_sizes=[len(unit) for unit in units],
        unit_duration=ticks,
    )
    return pb.StreamSessionResponse(media=media)


def _progress(session: _Session, index: int, position: int, first: int) -> pb.StreamSessionResponse:
    progress = pb.Progress(
        chunk_index=index,
        position=position,
        generation=session.generation,
        words_spoken=session.spoken,
        words_total=len(session.words),
    )
    progress.compute_time.FromMilliseconds(400)
    progress.chunk_duration.FromMilliseconds(round(CHUNK_S * 1000))
    for number in range(first, session.spoken):
        word = progress.words.add(index=number, text=session.words[number])
        start_ms = round((position * CHUNK_S + (number - first) * 0.4) * 1000)
        word.start.FromMilliseconds(start_ms)
        word.end.FromMilliseconds(start_ms + 350)
    return pb.StreamSessionResponse(progress=progress)


def _describe(session: _Session) -> pb.Session:
    state = pb.SESSION_STATE_FAILED if session.is_failed else pb.SESSION_STATE_ACTIVE
    if session.is_closed:
        state = pb.SESSION_STATE_CLOSED
    return pb.Session(name=session.name, state=state, config=session.config, epoch=1)


def _state(session: _Session) -> pb.StreamSessionResponse:
    state = pb.SESSION_STATE_FAILED if session.is_failed else pb.SESSION_STATE_CLOSED
    return pb.StreamSessionResponse(state_changed=pb.StateChanged(state=state, epoch=1))


async def _abort(context: Context, status: status_pb2.Status) -> None:
    code = next(each for each in grpc.StatusCode if each.value[0] == status.code)
    details = (("grpc-status-details-bin", status.SerializeToString()),)
    await context.abort(code, status.message, trailing_metadata=details)


def status(code: str, message: str, *details: object) -> status_pb2.Status:
    """A google.rpc.Status with details."""
    made = status_pb2.Status(code=code_pb2.Code.Value(code), message=message)
    for detail in details:
        packed = AnyMessage()
        packed.Pack(detail)
        made.details.append(packed)
    return made


def error_info(reason: str, **metadata: str) -> error_details_pb2.ErrorInfo:
    """An ErrorInfo detail."""
    return error_details_pb2.ErrorInfo(reason=reason, domain="cuelight.dev", metadata=metadata)


@asynccontextmanager
async def serve(fake: FakeGateway) -> AsyncIterator[FakeGateway]:
    """Serves ``fake`` on a free loopback port, written to ``fake.address``."""
    server = grpc.aio.server()
    add_SessionServiceServicer_to_server(fake, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    fake.address = f"127.0.0.1:{port}"
    try:
        yield fake
    finally:
        await server.stop(None)
