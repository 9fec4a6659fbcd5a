"""A worker that makes test pictures and tones instead of performing, over a real socket and the real contract.

It reads cues from the real store, keeps to the playhead, speaks three words a chunk, discards idle chunks when there is
something to say, cuts at interrupts and sends again what is asked for. What it "commits" lives in a `Stage`, which two
fake workers may share, so that one can go on where the other was killed. It has no models and no leases.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import google_crc32c
from google.protobuf.duration_pb2 import Duration
from grpc import aio
from grpc_status import rpc_status

from cuelight.v1 import session_pb2 as pb
from cuelight.v1 import worker_pb2, worker_pb2_grpc
from services.errors import CuelightError
from services.serving import inner_limits, status_from_error
from services.session import Cue, CueKind, Regime, SessionRecord
from services.state import SessionStore, WorkerReport
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
WORDS_A_CHUNK = 3
VIDEO_TIMESCALE = 24_000
FRAME_TICKS = 1_000

_media = TestMedia()


def encoded(position: int, is_silent: bool) -> EncodedChunk:
    """The chunk at a position. Packets and chunks meet every four chunks, so that four of them serve all."""
    made = _encoded(position % 4, is_silent)
    return replace(made, first_audio_packet=first_packet(position))


@lru_cache(maxsize=8)
def _encoded(position: int, is_silent: bool) -> EncodedChunk:
    return _media.chunk(position, is_silent)


def duration(seconds: float) -> Duration:
    """Seconds on the wire."""
    message = Duration()
    message.FromNanoseconds(round(seconds * 1e9))
    return message


@dataclass(frozen=True)
class MadeChunk:
    """One chunk as it was committed."""

    chunk_index: int
    position: int
    generation: int
    words: tuple[str, ...]
    first_word: int
    response_id: str


@dataclass
class Performance:
    """The committed state of one session."""

    timeline: list[MadeChunk] = field(default_factory=list)
    words: list[str] = field(default_factory=list)
    spoken: int = 0
    next_index: int = 0
    generation: int = 0
    epoch: int = 0
    cursor: int = 0
    playhead_s: float = 0.0
    response: int = 0
    is_speaking: bool = False
    is_paused: bool = False
    is_ending: bool = False
    prompt: str = ""

    @property
    def next_position(self) -> int:
        return self.timeline[-1].position + 1 if self.timeline else 0


Stage = dict[str, Performance]


@dataclass
class FakeWorker(worker_pb2_grpc.WorkerServiceServicer):
    """Start it with `start`, end it as a crash would with `kill`."""

    store: SessionStore
    bundle: str
    stage: Stage = field(default_factory=dict)
    worker_id: str = "fake-0"
    slots: int = 2
    run_ahead: int = 2
    compute_s: float = 0.05
    claims: list[tuple[str, int | None]] = field(default_factory=list)
    refuse: CuelightError | None = None
    is_breaking: bool = False
    """Takes every session and has a fault at once."""
    silent_chunks: int = 0
    free_in_s: float = 0.0
    render_slots: int = 1
    address: str = field(init=False, default="")

    async def start(self) -> None:
        """Listen on a free port and report to the fleet."""
        self._server = aio.server(options=inner_limits())
        worker_pb2_grpc.add_WorkerServiceServicer_to_server(self, self._server)  # type: ignore[no-untyped-call]
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        await self._server.start()
        self._hosted: set[str] = set()
        await self._beat()
        self._beating = asyncio.create_task(self._beat_for_ever())

    async def kill(self) -> None:
        """Go away without a word: no goodbye to the fleet, streams cut."""
        self._beating.cancel()
        await self._server.stop(None)

    async def stop(self) -> None:
        """Go away and say so."""
        await self.kill()
        await self.store.remove_worker(self.worker_id)

    async def _beat(self) -> None:
        hosted = tuple(self._hosted)
        report = WorkerReport(
            worker_id=self.worker_id,
            address=self.address,
            slots=self.slots,
            bundle=self.bundle,
            is_ready=True,
            sessions=hosted,
            free_in_s=self.free_in_s,
            render_slots=self.render_slots,
        )
        await self.store.heartbeat(report)

    async def _beat_for_ever(self) -> None:
        while True:
            await asyncio.sleep(0.5)
            await self._beat()

    async def Host(
        self, request_iterator: AsyncIterator[worker_pb2.HostRequest], context: Any
    ) -> AsyncIterator[worker_pb2.HostResponse]:
        requests = aiter(request_iterator)
        claim = (await anext(requests)).claim
        offset = claim.media_offset if claim.HasField("media_offset") else None
        self.claims.append((claim.session_id, offset))
        if self.refuse is not None:
            await context.abort_with_status(rpc_status.to_status(status_from_error(self.refuse)))
        record = await self.store.get(claim.session_id)
        performance = self.stage.setdefault(claim.session_id, Performance())
        performance.epoch += 1
        self._hosted.add(claim.session_id)
        await self._beat()
        listening = asyncio.create_task(_listen(requests, performance))
        try:
            yield worker_pb2.HostResponse(hosted=_hosted(performance))
            if self.is_breaking:
                await context.abort_with_status(rpc_status.to_status(status_from_error(CuelightError("it broke"))))
            first = 2 * performance.next_index if offset is None else offset
            made, untold = list(performance.timeline), performance.next_index
            for chunk in made:
                for response in _sent_again(chunk, performance, first):
                    yield response
            async for response in self._perform(record, performance, untold):
                yield response
        finally:
            listening.cancel()
            self._hosted.discard(claim.session_id)

    async def _perform(
        self, record: SessionRecord, now: Performance, untold: int
    ) -> AsyncIterator[worker_pb2.HostResponse]:
        """Perform for one reader; chunks that were made for another are told here too."""
        is_scripted = record.config.regime is Regime.SCRIPTED
        while True:
            for chunk in [chunk for chunk in now.timeline if chunk.chunk_index >= untold]:
                untold = chunk.chunk_index + 1
                for response in _sent(chunk, now):
                    yield response
            for cue in await self.store.read_cues(record.session_id, now.cursor):
                for response in _take_cue(cue, now, is_scripted):
                    yield response
            is_idle = now.spoken >= len(now.words)
            if is_idle and now.is_speaking:
                now.is_speaking = False
                yield worker_pb2.HostResponse(
                    response_ended=pb.ResponseEnded(
                        response_id=f"r{now.response}", reason=pb.END_REASON_COMPLETED, generated=duration(CHUNK_S)
                    )
                )
            if is_idle and now.is_ending:
                await self.store.close(record.session_id)
                yield worker_pb2.HostResponse(state=pb.StateChanged(state=pb.SESSION_STATE_CLOSED, epoch=now.epoch))
                return
            is_ahead = now.next_position * CHUNK_S > now.playhead_s + self.run_ahead * CHUNK_S
            if now.is_paused or (is_ahead and not is_scripted) or (is_idle and is_scripted):
                await asyncio.sleep(0.02)
                continue
            await self._make(now)

    async def _make(self, now: Performance) -> None:
        await asyncio.sleep(self.compute_s)
        words = tuple(now.words[now.spoken : now.spoken + WORDS_A_CHUNK])
        response_id = f"r{now.response}" if words else ""
        chunk = MadeChunk(now.next_index, now.next_position, now.generation, words, now.spoken, response_id)
        await asyncio.to_thread(encoded, chunk.position, not words)
        if chunk.chunk_index == now.next_index:  # else it was made for another reader meanwhile
            now.timeline.append(chunk)
            now.next_index += 1
            now.spoken += len(words)


async def _listen(requests: AsyncIterator[worker_pb2.HostRequest], now: Performance) -> None:
    async for request in requests:
        if request.WhichOneof("message") == "playhead":
            position = request.playhead.position_on_media_clock
            now.playhead_s = position.seconds + position.nanos * 1e-9


def _hosted(now: Performance) -> worker_pb2.Hosted:
    return worker_pb2.Hosted(
        epoch=now.epoch,
        state_preserved=True,
        next_chunk_index=now.next_index,
        generation=now.generation,
        tracks=[
            pb.TrackInit(
                track=VIDEO_TRACK, codec="avc1.42C01E", timescale=VIDEO_TIMESCALE, init_data=_media.parameter_sets
            ),
            pb.TrackInit(track=AUDIO_TRACK, codec="opus", timescale=SAMPLE_RATE, init_data=_media.opus_head),
        ],
    )


def _take_cue(cue: Cue, now: Performance, is_scripted: bool) -> list[worker_pb2.HostResponse]:
    now.cursor = cue.client_seq
    responses: list[worker_pb2.HostResponse] = []
    if cue.kind is CueKind.INTERRUPT or cue.barge_in:
        if now.is_speaking:
            now.is_speaking = False
            ended = pb.ResponseEnded(response_id=f"r{now.response}", reason=pb.END_REASON_INTERRUPTED)
            responses.append(worker_pb2.HostResponse(response_ended=ended))
        played = cue.playhead_s if cue.playhead_s is not None else now.playhead_s
        responses.append(_cut(now, int(played / CHUNK_S)))
        now.words, now.spoken = now.words[: now.spoken], min(now.spoken, len(now.words))
        del now.words[now.spoken :]
    if cue.kind is CueKind.PROMPT:
        now.prompt = cue.text
    if cue.kind is CueKind.SAY:
        if not is_scripted and now.timeline and not now.timeline[-1].words:
            heard = int(now.playhead_s / CHUNK_S)
            spoken = [chunk.position for chunk in now.timeline if chunk.words]
            responses.append(_cut(now, max([heard, *spoken])))
        now.words += cue.text.split()
        if not now.is_speaking:
            now.is_speaking = True
            now.response += 1
            started = pb.ResponseStarted(
                response_id=f"r{now.response}", client_seq=cue.client_seq, generation=now.generation
            )
            responses.append(worker_pb2.HostResponse(response_started=started))
    now.is_paused = cue.kind is CueKind.PAUSE or (now.is_paused and cue.kind is not CueKind.RESUME)
    now.is_ending = now.is_ending or cue.kind is CueKind.END
    return responses


def _cut(now: Performance, last_position: int) -> worker_pb2.HostResponse:
    """Retire all behind `last_position`; words of retired chunks count as never accepted."""
    gone = [chunk for chunk in now.timeline if chunk.position > last_position]
    now.timeline = [chunk for chunk in now.timeline if chunk.position <= last_position]
    now.generation += 1
    unheard = sum(len(chunk.words) for chunk in gone)
    now.spoken -= unheard
    retired = pb.Retired(
        generation=now.generation,
        first_position=now.next_position,
        chunk_indices=[chunk.chunk_index for chunk in gone],
    )
    return worker_pb2.HostResponse(retired=retired)


def _sent_again(chunk: MadeChunk, now: Performance, first_offset: int) -> list[worker_pb2.HostResponse]:
    if 2 * chunk.chunk_index + 1 < first_offset:
        return []
    return [
        response
        for response in _sent(chunk, now)
        if response.WhichOneof("message") != "media" or response.media.offset >= first_offset
    ]


def _sent(chunk: MadeChunk, now: Performance) -> list[worker_pb2.HostResponse]:
    made = encoded(chunk.position, not chunk.words)
    video = _media_chunk(chunk, now, VIDEO_TRACK, made.video, chunk.position * FRAMES_PER_CHUNK * FRAME_TICKS)
    audio = _media_chunk(chunk, now, AUDIO_TRACK, made.audio, made.first_audio_packet * PACKET_SAMPLES)
    return [
        worker_pb2.HostResponse(progress=_progress(chunk, now)),
        worker_pb2.HostResponse(media=video),
        worker_pb2.HostResponse(media=audio),
    ]


def _media_chunk(chunk: MadeChunk, now: Performance, track: int, units: list[bytes], pts: int) -> pb.MediaChunk:
    ticks = FRAME_TICKS if track == VIDEO_TRACK else PACKET_SAMPLES
    data = b"".join(units)
    return pb.MediaChunk(
        offset=2 * chunk.chunk_index + track - VIDEO_TRACK,
        track=track,
        pts=pts,
        duration=ticks * len(units),
        keyframe=True,
        response_id=chunk.response_id,
        generation=chunk.generation,
        epoch=now.epoch,
        data=data,
        crc32c=google_crc32c.value(data),
        chunk_index=chunk.chunk_index,
        position=chunk.position,
        unit_sizes=[len(unit) for unit in units],
        unit_duration=ticks,
    )


def _progress(chunk: MadeChunk, now: Performance) -> pb.Progress:
    begin = chunk.position * CHUNK_S
    words = [
        pb.SpokenWord(
            index=chunk.first_word + at,
            text=word,
            start=duration(begin + at * CHUNK_S / WORDS_A_CHUNK),
            end=duration(begin + (at + 0.9) * CHUNK_S / WORDS_A_CHUNK),
        )
        for at, word in enumerate(chunk.words)
    ]
    return pb.Progress(
        chunk_index=chunk.chunk_index,
        words_spoken=chunk.first_word + len(words),
        words_total=len(now.words),
        words=words,
        position=chunk.position,
        generation=chunk.generation,
        compute_time=duration(0.31),
        chunk_duration=duration(CHUNK_S),
        prompt=now.prompt,
    )
