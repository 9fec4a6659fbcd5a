"""A session as its client drives it: inputs out, events in, over as many streams as it takes.

Acknowledgement and credit happen here by themselves, attaching again below. Knows no media format and no player.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from types import TracebackType
from typing import TYPE_CHECKING, Self

from cuelight import convert
from cuelight.errors import CuelightError, DeadlineExceeded, SessionFailed, Superseded
from cuelight.events import Event, Media, SessionInfo
from cuelight.line import Lines
from cuelight.rpc import Timeouts, call
from cuelight.streams import MakeAgain, SessionStats, Streams
from cuelight.transcript import split_transcript
from cuelight.v1 import session_pb2 as pb

if TYPE_CHECKING:
    from cuelight.v1.session_pb2_grpc import SessionServiceAsyncStub

__all__ = ["Session", "SessionStats"]

MAX_HEAR_BYTES = 4 * 1024
MAX_PROMPT_BYTES = 4 * 1024
_MAX_WAITING_BYTES = 64 * 1024
_log = logging.getLogger(__name__)


class Session(Streams):
    """A running session. Comes from ``Client.create_session``; iterate it for events.

    Iteration ends when the session has been closed, and raises ``SessionFailed`` when it failed. Taking an event
    acknowledges it: a client that reads fast gets media faster than playback, one that stops reading holds generation
    back. Media read counts as played, unless ``report_playhead`` is used.
    """

    def __init__(
        self,
        lines: Lines,
        stub: SessionServiceAsyncStub,
        info: SessionInfo,
        token: str,
        *,
        timeouts: Timeouts,
        make_again: MakeAgain,
        window_chunks: int = 8,
    ) -> None:
        super().__init__(
            lines, stub, info, token, timeouts=timeouts, window_chunks=window_chunks, make_again=make_again
        )
        self._has_reported_playhead = False
        self._played: dict[int, float] = {}

    async def __aenter__(self) -> Self:
        """Attaches, with the patience for a stream that breaks. Raises when that does not work, and frees the place."""
        try:
            attachment, attached = await self._first_stream()
        except Superseded:  # whoever took it has it
            raise
        except CuelightError as failure:
            await self.__aexit__(type(failure), failure, failure.__traceback__)
            raise
        self._settle_attached(attachment, attached)
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
