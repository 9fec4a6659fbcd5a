"""The same client without ``await``, for scripts, notebooks and web frameworks that block.

    from cuelight import sync

    with sync.connect("127.0.0.1:50051") as client, client.create_session(character="ada") as session:
        session.say("Hello. It is good to see you.")
        session.end()
        for event in session: ...

Arguments, events and errors are those of the asyncio surface, on which it stands: the streams live on a thread of their
own, so that acknowledging and attaching again go on while your code computes. Sessions may be used from several
threads, each call by itself.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc

from cuelight import background, client, recording, session
from cuelight.client import DEFAULT_ADDRESS
from cuelight.events import Event, Media, SessionInfo, SessionState, TrackInfo
from cuelight.line import KEEPALIVE_S, Key
from cuelight.recording import RecordingSummary
from cuelight.rpc import Timeouts
from cuelight.session import SessionStats

__all__ = ["Client", "Session", "connect", "write_mp4"]


def connect(
    address: str | Sequence[str] = DEFAULT_ADDRESS,
    *,
    key: Key = "",
    ca_certificate: str | Path | None = None,
    credentials: grpc.ChannelCredentials | None = None,
    interceptors: Sequence[grpc.aio.ClientInterceptor] = (),
    keepalive_s: float = KEEPALIVE_S,
    timeouts: Timeouts | None = None,
) -> Client:
    """A client as :func:`cuelight.connect` gives it, for ``with``; interceptors are those of ``grpc.aio``."""
    return Client(
        client.connect(
            address,
            key=key,
            ca_certificate=ca_certificate,
            credentials=credentials,
            interceptors=interceptors,
            keepalive_s=keepalive_s,
            timeouts=timeouts,
        )
    )


class Client:
    """A connection to one of the gateways of a deployment; see :class:`cuelight.Client`."""

    def __init__(self, inner: client.Client) -> None:
        self._inner = inner

    def __enter__(self) -> Self:
        background.run(self._inner.__aenter__())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        background.run(self._inner.__aexit__(kind, error, trace))

    @contextmanager
    def create_session(self, **options: Any) -> Iterator[Session]:  # noqa: ANN401
        """Makes a session, with the options of :meth:`cuelight.Client.create_session`; closes it at the block's end."""
        with background.entered(self._inner.create_session(**options)) as inner:
            yield Session(inner)

    def get_session(self, name: str) -> SessionInfo:
        """A session's present state."""
        return background.run(self._inner.get_session(name))

    def list_sessions(self) -> list[SessionInfo]:
        """All sessions of the tenant, newest first."""
        return background.run(self._inner.list_sessions())


class Session:
    """A running session; see :class:`cuelight.Session`, whose methods these are. Iterate it for events."""

    def __init__(self, inner: session.Session) -> None:
        self.inner = inner
        """The session itself, on the other thread's loop."""

    @property
    def name(self) -> str:
        """``tenants/.../sessions/...``."""
        return self.inner.name

    @property
    def state(self) -> SessionState:
        """Its place in its life, as far as was heard."""
        return self.inner.state

    @property
    def stats(self) -> SessionStats:
        """What it has seen so far."""
        return self.inner.stats

    @property
    def tracks(self) -> tuple[TrackInfo, ...]:
        """Start of each track."""
        return self.inner.tracks

    @property
    def playhead_s(self) -> float:
        """What has been played, on the media clock."""
        return self.inner.playhead_s

    def say(self, text: str, *, barge_in: bool = False) -> int:
        """Gives the character words to speak."""
        return background.run(self.inner.say(text, barge_in=barge_in))

    def hear(self, text: str, *, barge_in: bool = False) -> int:
        """Tells the character what the user says."""
        return background.run(self.inner.hear(text, barge_in=barge_in))

    def prompt(self, text: str) -> int:
        """Changes the picture from the next chunk made on."""
        return background.run(self.inner.prompt(text))

    def pause(self) -> int:
        """Holds generation where it stands."""
        return background.run(self.inner.pause())

    def resume(self) -> int:
        """Goes on after ``pause``."""
        return background.run(self.inner.resume())

    def end(self) -> int:
        """Says that no more input will come."""
        return background.run(self.inner.end())

    def interrupt(self, playhead_s: float | None = None) -> int:
        """Stops what is being said."""
        return background.run(self.inner.interrupt(playhead_s))

    def report_playhead(self, playhead_s: float) -> None:
        """Says where playback really stands."""

        async def report() -> None:
            self.inner.report_playhead(playhead_s)

        background.run(report())

    def close(self, *, immediate: bool = True) -> None:
        """Ends the session and frees its place; safe to call twice."""
        background.run(self.inner.close(immediate=immediate))

    def __iter__(self) -> Iterator[Event]:
        return self.events()

    def events(self, *, until: type[Event] | None = None) -> Iterator[Event]:
        """All events; with ``until``, up to and including the first of that type."""
        events = self.inner.events(until=until)
        while (event := background.run(_next(events))) is not None:
            yield event

    def media(self) -> Iterator[Media]:
        """The media alone."""
        return (event for event in self.events() if isinstance(event, Media))


def write_mp4(session: Session, path: str | Path) -> RecordingSummary:
    """Writes the session's pictures, sound and captions to a file, as :func:`cuelight.write_mp4` does."""
    return background.run(recording.write_mp4(session.inner, path))


async def _next(events: AsyncIterator[Event]) -> Event | None:
    return await anext(events, None)
