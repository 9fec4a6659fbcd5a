"""The streams a session is carried by, one after another: what came is settled, what is owed is sent, and a stream that
breaks, or whose gateway goes away, is followed by the next.

Knows the contract and no surface: who drives a session, and how, is not its business.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import grpc

from cuelight import convert
from cuelight.attachment import Attachment
from cuelight.errors import (
    ConnectionLost,
    CuelightError,
    MediaExpired,
    NotFound,
    ServerFault,
    SessionFailed,
    Superseded,
)
from cuelight.events import (
    Attached,
    Media,
    Progress,
    ResponseEnded,
    ResponseStarted,
    ResumeCause,
    Resumed,
    Retired,
    SessionInfo,
    SessionState,
    StateChanged,
    TrackInfo,
)
from cuelight.inbox import Inbox
from cuelight.line import Lines
from cuelight.outbox import Outbox
from cuelight.patience import Patience
from cuelight.rpc import Timeouts, from_status
from cuelight.timeline import Timeline, Verdict
from cuelight.v1 import session_pb2 as pb
from cuelight.v1.session_pb2_grpc import SessionServiceStub

if TYPE_CHECKING:
    from cuelight.v1.session_pb2_grpc import SessionServiceAsyncStub

_LOOK_ELSEWHERE_S = 0.5
"""Between looking for another gateway, again and again, while the one that goes away still serves."""
_YOUNG_S = 15.0
"""A store that fails over may lose a session that is no older, and nothing else: it is made again."""
_PARTING_S = 1.0
"""For the last words on a connection that is left."""
_STALLED = "READER_STALLED"
_ON_A_GOOD_LINE = ("DATA_LOSS", "ABORTED", "NOT_FOUND")
_AWAY = (pb.GO_AWAY_REASON_DRAINING, pb.GO_AWAY_REASON_MAX_AGE)
_log = logging.getLogger(__name__)
MakeAgain: TypeAlias = Callable[[], Awaitable[str]]
"""Makes the session once more under its name, and gives its attach token."""


@dataclass(slots=True)
class SessionStats:
    """What a session has seen so far."""

    attachments: int = 0
    """Streams opened: 1 when the first one never broke."""
    media_taken: int = 0
    media_dropped: int = 0
    """Media that came twice, or was retired before it was read."""
    ttfc_s: float | None = None
    """Time to first chunk: from the first ``say`` to the first chunk with speech, complete at the client."""


class Streams:
    """What a session has received and owes, and the stream it stands on now."""

    def __init__(
        self,
        lines: Lines,
        stub: SessionServiceAsyncStub,
        info: SessionInfo,
        token: str,
        *,
        timeouts: Timeouts,
        window_chunks: int,
        make_again: MakeAgain,
    ) -> None:
        if window_chunks < 1:
            raise ValueError("window_chunks must be at least 1")
        self.name = info.name
        self.info = info
        self.tracks: tuple[TrackInfo, ...] = ()
        self.state = info.state
        self.stats = SessionStats()
        self._lines, self._stub, self._token, self._timeouts = lines, stub, token, timeouts
        self._make_again, self._made_at = make_again, time.monotonic()
        self._channel: grpc.aio.Channel | None = None
        """The session's own connection, once the client's has broken under it."""
        self._window_media = 2 * window_chunks
        self._inbox, self._outbox, self._timeline = Inbox(), Outbox(), Timeline()
        self._resume_token = ""
        self._patience = Patience(timeouts)
        self._heard_at = time.monotonic()
        self._recovering_since: float | None = None
        self._known_epoch = 0
        """Of whoever performs, as told last: a gateway that is new to the session tells of its last move again."""
        self._leaving: asyncio.Task[tuple[Attachment, pb.Attached]] | None = None
        self._missing_offset: int | None = None
        self._last_server_seq = 0
        self._said_at: float | None = None
        self._speech_tracks: dict[int, set[int]] = {}
        self._wake = asyncio.Event()
        self._room = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._closing: list[asyncio.Task[None]] = []
        self._is_closed = False

    async def _detach(self) -> None:
        self._is_closed = True
        self._inbox.finish()
        self._room.set()
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait({self._task})
        channel, self._channel = self._channel, None
        if channel is not None:
            await channel.close()
        if self._closing:
            await asyncio.wait(self._closing)

    async def _open(self, stub: SessionServiceAsyncStub) -> tuple[Attachment, pb.Attached]:
        attachment = Attachment(stub, self._token, self._timeouts)
        attach = pb.Attach(
            session=self.name,
            resume_token=self._resume_token,
            last_server_seq=self._last_server_seq,
            media_offset=self._timeline.next_offset,
            initial_credit=max(1, self._window_media - self._inbox.media_count),
        )
        try:
            return attachment, await attachment.open(attach)
        except BaseException:
            attachment.close()
            raise

    async def _first_stream(self) -> tuple[Attachment, pb.Attached]:
        """A session that was made is not given up for what also passes once it stands."""
        try:
            return await self._open(self._stub)
        except Superseded:  # whoever came first shall have it
            raise
        except CuelightError as error:
            return await self._reopen(error)

    async def _open_elsewhere(self) -> tuple[Attachment, pb.Attached]:
        """Attaches over a new connection, to the next gateway where there are several; the session keeps it."""
        channel = self._lines.turn().open()
        stub: SessionServiceAsyncStub = SessionServiceStub(channel)
        try:
            opened = await self._open(stub)
        except BaseException:
            await channel.close()
            raise
        former, self._channel, self._stub = self._channel, channel, stub
        if former is not None:
            self._closing.append(asyncio.create_task(former.close(_PARTING_S)))
        return opened

    def _settle_attached(self, attachment: Attachment, attached: pb.Attached) -> None:
        self._outbox.restart_credit()
        self.stats.attachments += 1
        self.tracks = tuple(convert.track_info(track) for track in attached.tracks)
        self.state = convert.session_state(attached.session.state)
        attachment.sent_seq = attached.last_client_seq
        self._outbox.forget(attached.last_client_seq)
        self._known_epoch = max(self._known_epoch, attached.session.epoch)
        self._timeline.start_at(attached.media_offset)
        is_first = self.stats.attachments == 1
        self._inbox.put(Attached(self.tracks, attached.media_offset, attached.state_preserved, is_first))

    async def _run(self, attachment: Attachment, attached: pb.Attached) -> None:
        """Serves stream after stream until the session is over."""
        try:
            while True:
                failure = await self._serve(attachment)
                if self.state.is_final:
                    break
                attachment, attached = await self._next_stream(failure)
        except CuelightError as error:
            self._inbox.finish(error)
        except ValueError as error:  # a number this version does not know: whoever reads must not wait for ever
            self._inbox.finish(ServerFault(f"The stream holds something this client does not know: {error}"))
        finally:
            attachment.close()
            self._room.set()
            if self._leaving is not None:
                self._leaving.cancel()
        if self.state is SessionState.FAILED:
            self._inbox.finish(self._failure(attached))
        self._inbox.finish()

    def _failure(self, attached: pb.Attached) -> CuelightError:
        status = attached.session.error
        return SessionFailed(from_status(status).args[0] if status.message else "The session failed on the server.")

    async def _next_stream(self, failure: CuelightError | None) -> tuple[Attachment, pb.Attached]:
        """The stream at the gateway that was gone to, else one that is opened again; and says so."""
        heard_at, cause = self._heard_at, ResumeCause.CONNECTION_LOST
        opened: tuple[Attachment, pb.Attached] | None = None
        leaving, self._leaving = self._leaving, None
        if leaving is not None:
            is_overlap = leaving.done()
            await asyncio.wait({leaving}, timeout=_PARTING_S)
            if not leaving.done():
                leaving.cancel()
                await asyncio.wait({leaving})
            elif (error := leaving.exception()) is None:
                cause, opened = ResumeCause.GATEWAY_LEFT, leaving.result()
                heard_at = time.monotonic() if is_overlap else heard_at
            elif isinstance(error, CuelightError):
                failure = error
        attachment, attached = opened or await self._reopen(failure)
        self._settle_attached(attachment, attached)
        gap_ms = max(0.0, time.monotonic() - heard_at) * 1000
        epoch = max(attached.session.epoch, self._timeline.epoch)
        attempts = max(1, self._patience.tries)
        self._inbox.put(Resumed(cause, attached.state_preserved, gap_ms, attempts, epoch))
        return attachment, attached

    async def _reopen(self, failure: CuelightError | None) -> tuple[Attachment, pb.Attached]:
        """Attaches again, with growing pauses, until the budget of ``Timeouts`` is used up."""
        while True:
            _log.info("session %s lost its stream, attaching again: %s", self.name, failure)
            if failure is not None and failure.reason == _STALLED:
                await self._inbox.caught_up()  # it was let go because nobody read: that may take as long as it likes
            elif failure is not None and not (_is_worth_retrying(failure) or self._was_lost_young(failure)):
                raise failure
            pause_s = self._patience.next_pause_s(failure.retry_after_s if failure is not None else None)
            if pause_s is None:
                budget = f"in {self._timeouts.recover_s:g} s or {self._timeouts.recover_tries} tries"
                raise ConnectionLost(f"The session could not be reached again {budget}: {failure}") from failure
            await asyncio.sleep(pause_s)
            try:
                if self._was_lost_young(failure):
                    self._token, self._resume_token = await self._make_again(), ""
                is_line_good = failure is None or failure.status in _ON_A_GOOD_LINE or failure.reason == _STALLED
                return await (self._open(self._stub) if is_line_good else self._open_elsewhere())
            except CuelightError as error:
                failure = error

    def _was_lost_young(self, failure: CuelightError | None) -> bool:
        """Whether the store has lost a session that had just been made, before anything of it was shown."""
        is_young = time.monotonic() - self._made_at < _YOUNG_S
        return isinstance(failure, NotFound) and is_young and self._timeline.next_offset == 0

    async def _leave(self, attachment: Attachment) -> tuple[Attachment, pb.Attached]:
        """Attaches elsewhere while the gateway that goes away still serves; the stream there ends with that."""
        while True:
            try:
                opened = await self._open_elsewhere()
            except CuelightError as error:
                if not _is_worth_retrying(error):
                    raise
                _log.info("session %s found no other gateway yet: %s", self.name, error)
                await asyncio.sleep(_LOOK_ELSEWHERE_S * random.random())
            else:
                attachment.close()
                return opened

    async def _serve(self, attachment: Attachment) -> CuelightError | None:
        """Moves messages both ways until the stream ends, that of an ended session too; says why when it broke."""
        sending = asyncio.create_task(self._send_all(attachment))
        try:
            async for response in attachment.responses():
                self._last_server_seq, self._heard_at = response.server_seq, time.monotonic()
                if not self._settle(response):
                    return self._missing_media()
                if response.WhichOneof("message") == "go_away" and response.go_away.reason in _AWAY:
                    self._resume_token = response.go_away.resume_token or self._resume_token
                    self._leaving = self._leaving or asyncio.create_task(self._leave(attachment))
                self._patience.recovered()
        except CuelightError as error:
            return error
        finally:
            sending.cancel()
            attachment.close()
            await asyncio.wait({sending})
        return None

    def _missing_media(self) -> CuelightError:
        """A hole is worth asking once more for what is in it, not twice."""
        offset = self._timeline.next_offset
        is_repeated, self._missing_offset = offset == self._missing_offset, offset
        if is_repeated:
            return MediaExpired(f"The media from offset {offset} on is missing from the stream.")
        return ServerFault(f"The media at offset {offset} is missing from the stream.", status="DATA_LOSS")

    async def _send_all(self, attachment: Attachment) -> None:
        self._wake.set()
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                for _, request in self._outbox.after(attachment.sent_seq):
                    await attachment.send(request)
                acknowledge = self._outbox.take_acknowledge(attachment.server_seq)
                if acknowledge is not None:
                    await attachment.send(acknowledge)
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            return  # the stream has ended: reading it says how

    def _settle(self, response: pb.StreamSessionResponse) -> bool:
        """Takes in one message; False when media is missing before it."""
        kind = response.WhichOneof("message")
        if kind == "media":
            return self._settle_media(response.media)
        if kind == "resume_update":
            self._resume_token = response.resume_update.resume_token
            self._outbox.forget(response.resume_update.durable_client_seq)
            self._room.set()
            return True
        event = convert.control_event(response)
        if isinstance(event, Progress | ResponseStarted | ResponseEnded | Retired) and not self._timeline.is_new(event):
            return True
        if isinstance(event, Retired):
            self._retire(event)
        if event is not None:
            self._inbox.put(event)
        if isinstance(event, StateChanged):
            self._change_state(event)
        return True

    def _change_state(self, changed: StateChanged) -> None:
        self.state, now = changed.state, time.monotonic()
        since, self._recovering_since = self._recovering_since, None
        if changed.state is SessionState.RECOVERING:
            self._recovering_since = since or now
        elif since is not None and not changed.state.is_final:
            is_preserved = changed.checkpoint_offset is not None or self._timeline.next_offset == 0
            gap_ms = (now - since) * 1000
            self._inbox.put(Resumed(ResumeCause.WORKER_LOST, is_preserved, gap_ms, 0, changed.epoch))
        elif changed.reason == "WORKER_MOVED" and changed.epoch > self._known_epoch:
            self._inbox.put(Resumed(ResumeCause.WORKER_MOVED, True, 0.0, 0, changed.epoch))
        self._known_epoch = max(self._known_epoch, changed.epoch)

    def _settle_media(self, message: pb.MediaChunk) -> bool:
        media = convert.media(message, {track.track: track.timescale for track in self.tracks})
        verdict = self._timeline.judge(media)
        if verdict is Verdict.GAP:
            return False
        if verdict is Verdict.DROP:
            self.stats.media_dropped += 1
            self._outbox.kept(media.offset)
            self._wake.set()
            return True
        self.stats.media_taken += 1
        self._note_first_chunk(media)
        self._inbox.put(media)
        return True

    def _retire(self, retired: Retired) -> None:
        self._timeline.retire(retired)
        for media in self._inbox.retire(retired):
            self.stats.media_dropped += 1
            self._outbox.kept(media.offset)
        self._wake.set()

    def _note_first_chunk(self, media: Media) -> None:
        if self._said_at is None or self.stats.ttfc_s is not None or not media.response_id:
            return
        tracks = self._speech_tracks.setdefault(media.chunk_index, set())
        tracks.add(media.track)
        if len(tracks) == len(self.tracks):
            self.stats.ttfc_s = time.monotonic() - self._said_at


def _is_worth_retrying(error: CuelightError) -> bool:
    """True for a stream that may stand when opened again: a broken connection, a gateway that went away."""
    return error.is_retryable or error.status in ("INTERNAL", "UNKNOWN", "CANCELLED", "DATA_LOSS", "ABORTED")
