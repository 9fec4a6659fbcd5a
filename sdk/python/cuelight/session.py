"""A session as its client drives it: inputs out, events in, over as many streams as it takes.

Acknowledgement, credit and re-attachment happen here by themselves. Knows no media format and no player.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Self

import grpc

from cuelight import convert
from cuelight.attachment import Attachment
from cuelight.errors import ConnectionLost, CuelightError, DeadlineExceeded, MediaExpired, ServerFault, SessionFailed
from cuelight.events import Attached, Event, Media, Retired, SessionInfo, SessionState, StateChanged, TrackInfo
from cuelight.inbox import Inbox
from cuelight.outbox import Outbox
from cuelight.rpc import Timeouts, call, from_status
from cuelight.timeline import Timeline, Verdict
from cuelight.transcript import split_transcript
from cuelight.v1 import session_pb2 as pb

if TYPE_CHECKING:
    from cuelight.v1.session_pb2_grpc import SessionServiceAsyncStub

MAX_HEAR_BYTES = 4 * 1024
MAX_PROMPT_BYTES = 4 * 1024
_MAX_WAITING_BYTES = 64 * 1024
_FIRST_BACKOFF_S, _MAX_BACKOFF_S = 0.1, 5.0
_log = logging.getLogger(__name__)


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


class Session:
    """A running session. Comes from ``Client.create_session``; iterate it for events.

    Iteration ends when the session has been closed, and raises ``SessionFailed`` when it failed. Taking an event
    acknowledges it: a client that reads fast gets media faster than playback, one that stops reading holds generation
    back. Media read counts as played, unless ``report_playhead`` is used.
    """

    def __init__(
        self,
        stub: SessionServiceAsyncStub,
        info: SessionInfo,
        token: str,
        *,
        timeouts: Timeouts,
        window_chunks: int = 8,
    ) -> None:
        if window_chunks < 1:
            raise ValueError("window_chunks must be at least 1")
        self.name = info.name
        self.info = info
        self.tracks: tuple[TrackInfo, ...] = ()
        self.state = info.state
        self.stats = SessionStats()
        self._stub, self._token, self._timeouts = stub, token, timeouts
        self._window_media = 2 * window_chunks
        self._inbox, self._outbox, self._timeline = Inbox(), Outbox(), Timeline()
        self._resume_token = ""
        self._broken_since: float | None = None
        self._retries = 0
        self._missing_offset: int | None = None
        self._last_server_seq = 0
        self._has_reported_playhead = False
        self._played: dict[int, float] = {}
        self._said_at: float | None = None
        self._speech_tracks: dict[int, set[int]] = {}
        self._wake = asyncio.Event()
        self._room = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._is_closed = False

    async def __aenter__(self) -> Self:
        """Attaches; raises when that does not work in time."""
        attachment, attached = await self._open()
        self._task = asyncio.create_task(self._run(attachment, attached), name=f"cuelight {self.name}")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self.close()
        except CuelightError as failure:
            _log.warning("session %s could not be closed; the server will let it go: %s", self.name, failure)

    @property
    def playhead_s(self) -> float:
        """What has been played, on the media clock: all that was read, or what ``report_playhead`` said."""
        return self._outbox.playhead_s

    async def say(self, text: str, *, barge_in: bool = False) -> int:
        """Gives the character words to speak; long text is cut into several messages at sentence ends.

        Args:
            text: Words, in any length. Waits while the server has more input than it has stored.
            barge_in: Interrupt what is being said first.

        Returns:
            The number (client_seq) of the last message, as named by ``ResponseStarted`` and ``Notice``.

        Raises:
            ValueError: the text is blank.
            DeadlineExceeded: the server took no more input for ``Timeouts.send_s``.
        """
        pieces = split_transcript(text.encode(errors="replace").decode())
        if not pieces:
            raise ValueError("there is nothing to say: the text is blank")
        seq = 0
        for index, piece in enumerate(pieces):
            user_input = pb.UserInput(say=piece, barge_in=barge_in and index == 0)
            if user_input.barge_in:
                user_input.playhead.CopyFrom(convert.duration(self.playhead_s))
            seq = await self._send(user_input)
        return seq

    async def hear(self, text: str, *, barge_in: bool = False) -> int:
        """Tells the character what the user says; the planner's language model writes the answer.

        Args:
            text: The user's words, at most 4 KiB.
            barge_in: Interrupt what is being said first.

        Returns:
            The number (client_seq) of the message. With the rule planner, or in another regime than conversation, a
            ``Notice`` says that nobody answers (HEARD_NOT_ANSWERED).

        Raises:
            ValueError: the text is blank or too long.
        """
        if not text.strip() or len(text.encode(errors="replace")) > MAX_HEAR_BYTES:
            raise ValueError(f"what is heard must not be blank and holds at most {MAX_HEAR_BYTES} bytes")
        user_input = pb.UserInput(hear=text.encode(errors="replace").decode(), barge_in=barge_in)
        if barge_in:
            user_input.playhead.CopyFrom(convert.duration(self.playhead_s))
        return await self._send(user_input)

    async def prompt(self, text: str) -> int:
        """Changes the picture from the next chunk made on, for instance "smiles, looks left".

        What was asked before of other things still holds; ``Progress.prompt`` tells all that was asked of a chunk. A
        ``Notice`` says when the bundle reads no prompts (PROMPT_NOT_SUPPORTED), does not know some of the words
        (PROMPT_WORDS_UNKNOWN), or can hold no more (PROMPT_SHORTENED).

        Args:
            text: What shall be seen; at most 4 KiB of UTF-8.

        Returns:
            The number (client_seq) of the message, as named by ``Notice``.

        Raises:
            ValueError: the text is blank or too long.
        """
        if not text.strip() or len(text.encode(errors="replace")) > MAX_PROMPT_BYTES:
            raise ValueError(f"a prompt must not be blank and holds at most {MAX_PROMPT_BYTES} bytes")
        return await self._send(pb.UserInput(prompt=text))

    async def pause(self) -> int:
        """Holds generation where it stands."""
        return await self._send(pb.UserInput(pause=True))

    async def resume(self) -> int:
        """Goes on after ``pause``."""
        return await self._send(pb.UserInput(pause=False))

    async def end(self) -> int:
        """Says that no more input will come: the session closes when the transcript has been spoken."""
        return await self._send(pb.UserInput(end=True))

    async def interrupt(self, playhead_s: float | None = None) -> int:
        """Stops what is being said.

        Args:
            playhead_s: What the user has in fact seen and heard, on the media clock; by default the playhead known
                here. What lies behind is taken off the timeline (``Retired``).
        """
        if playhead_s is not None and playhead_s < 0:
            raise ValueError("playhead_s must not be negative")
        playhead = self.playhead_s if playhead_s is None else playhead_s
        return await self._send(interrupt=pb.Interrupt(playhead=convert.duration(playhead)))

    def report_playhead(self, playhead_s: float) -> None:
        """Says where playback really stands; from then on, reading media no longer counts as playing it."""
        if playhead_s < 0:
            raise ValueError("playhead_s must not be negative")
        self._has_reported_playhead = True
        self._outbox.played(playhead_s)
        self._wake.set()

    async def close(self, *, immediate: bool = True) -> None:
        """Ends the session and frees its place; safe to call twice.

        Args:
            immediate: Drop what is queued; False lets the server play it out first.
        """
        if not self._is_closed and not self.state.is_final:
            request = pb.CloseSessionRequest(name=self.name, immediate=immediate)
            # Whoever holds the connection's key may close it; a token beside that key would be taken for a wrong one.
            closing = self._stub.CloseSession(request, timeout=self._timeouts.call_s)
            try:
                await call(closing, "close the session")
            finally:
                await self._detach()
        await self._detach()

    def __aiter__(self) -> AsyncIterator[Event]:
        return self.events()

    async def events(self, *, until: type[Event] | None = None) -> AsyncIterator[Event]:
        """All events; with ``until``, up to and including the first of that type.

        Raises:
            CuelightError: what ended the session, when it did not end well.
        """
        while (event := await self._inbox.get()) is not None:
            if isinstance(event, Media):
                self._acknowledge(event)
            yield event
            if until is not None and isinstance(event, until):
                return

    async def media(self) -> AsyncIterator[Media]:
        """The media alone; the other events are passed over."""
        async for event in self.events():
            if isinstance(event, Media):
                yield event

    async def _send(self, user_input: pb.UserInput | None = None, *, interrupt: pb.Interrupt | None = None) -> int:
        self._check_open()
        try:
            async with asyncio.timeout(self._timeouts.send_s):
                while self._outbox.waiting_bytes > _MAX_WAITING_BYTES:
                    self._room.clear()
                    await self._room.wait()
                    self._check_open()
        except TimeoutError as error:
            raise DeadlineExceeded(f"The server took no input for {self._timeouts.send_s:g} s.") from error
        if user_input is not None and user_input.WhichOneof("kind") == "say" and self._said_at is None:
            self._said_at = time.monotonic()
        seq = self._outbox.add(user_input=user_input, interrupt=interrupt)
        self._wake.set()
        return seq

    def _check_open(self) -> None:
        if self._task is None:
            raise RuntimeError("use the session inside `async with`")
        if self._task.done() or self._is_closed:
            raise SessionFailed(f"The session is over ({self.state}).", status="FAILED_PRECONDITION")

    def _acknowledge(self, media: Media) -> None:
        self._outbox.kept(media.offset)
        self._played[media.track] = media.end_s
        if not self._has_reported_playhead and len(self._played) == len(self.tracks):
            self._outbox.played(min(self._played.values()))
        self._wake.set()

    async def _detach(self) -> None:
        self._is_closed = True
        self._inbox.finish()
        self._room.set()
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait({self._task})

    # ---- the life of the streams ----

    async def _open(self) -> tuple[Attachment, pb.Attached]:
        attachment = Attachment(self._stub, self._token, self._timeouts)
        attach = pb.Attach(
            session=self.name,
            resume_token=self._resume_token,
            last_server_seq=self._last_server_seq,
            media_offset=self._timeline.next_offset,
            initial_credit=max(1, self._window_media - self._inbox.media_count),
        )
        try:
            attached = await attachment.open(attach)
        except BaseException:
            attachment.close()
            raise
        self._outbox.restart_credit()
        self._settle_attached(attachment, attached)
        return attachment, attached

    def _settle_attached(self, attachment: Attachment, attached: pb.Attached) -> None:
        self.stats.attachments += 1
        self.tracks = tuple(convert.track_info(track) for track in attached.tracks)
        self.state = convert.session_state(attached.session.state)
        attachment.sent_seq = attached.last_client_seq
        self._timeline.start_at(attached.media_offset)
        is_first = self.stats.attachments == 1
        self._inbox.put(Attached(self.tracks, attached.media_offset, attached.state_preserved, is_first))

    async def _run(self, attachment: Attachment, attached: pb.Attached) -> None:
        """Serves stream after stream until the session is over."""
        try:
            while True:
                failure = await self._serve(attachment, attached)
                if self.state.is_final:
                    break
                attachment, attached = await self._reopen(failure)
        except CuelightError as error:
            self._inbox.finish(error)
        except ValueError as error:  # a number this version does not know: whoever reads must not wait for ever
            self._inbox.finish(ServerFault(f"The stream holds something this client does not know: {error}"))
        finally:
            attachment.close()
            self._room.set()
        if self.state is SessionState.FAILED:
            self._inbox.finish(self._failure(attached))
        self._inbox.finish()

    def _failure(self, attached: pb.Attached) -> CuelightError:
        status = attached.session.error
        return SessionFailed(from_status(status).args[0] if status.message else "The session failed on the server.")

    async def _reopen(self, failure: CuelightError | None) -> tuple[Attachment, pb.Attached]:
        """Attaches again, with growing pauses, until nothing has come for ``Timeouts.recover_s``."""
        while True:
            _log.info("session %s lost its stream, attaching again: %s", self.name, failure)
            if failure is not None and not _is_worth_retrying(failure):
                raise failure
            self._broken_since = self._broken_since or time.monotonic()
            if time.monotonic() - self._broken_since >= self._timeouts.recover_s:
                text = f"The session could not be reached again in {self._timeouts.recover_s:g} s: {failure}"
                raise ConnectionLost(text) from failure
            pause_s = min(_FIRST_BACKOFF_S * 2**self._retries, _MAX_BACKOFF_S) * random.uniform(0.5, 1.0)
            self._retries += 1
            await asyncio.sleep(max(pause_s, (failure and failure.retry_after_s) or 0.0))
            try:
                return await self._open()
            except CuelightError as error:
                failure = error

    async def _serve(self, attachment: Attachment, attached: pb.Attached) -> CuelightError | None:
        """Moves messages both ways until the stream ends; gives the reason when it broke."""
        if convert.session_state(attached.session.state).is_final:
            return None
        sending = asyncio.create_task(self._send_all(attachment))
        try:
            async for response in attachment.responses():
                self._last_server_seq = response.server_seq
                if not self._settle(response):
                    return self._missing_media()
                self._broken_since, self._retries = None, 0
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
        if isinstance(event, StateChanged):
            self.state = event.state
        elif isinstance(event, Retired):
            self._retire(event)
        if event is not None:
            self._inbox.put(event)
        return True

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
