"""The blocking surface against the scripted SessionService, which shares its loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

import cuelight
from cuelight import background, sync
from tests.fakes.session_service import FakeGateway, Script, serve
from tests.integration.sdk.test_session import PATIENT, TEXT


@contextmanager
def served(script: Script | None = None) -> Iterator[FakeGateway]:
    """A fake gateway that runs while the test blocks."""
    with background.entered(serve(FakeGateway(script))) as fake:
        yield fake


def test_a_transcript_comes_back_without_await() -> None:
    """Words, media and the end come in order, over a stream that broke meanwhile, and the session is closed."""
    with (
        served(Script(break_after=[1])) as fake,
        sync.connect(fake.address, timeouts=PATIENT) as client,
        client.create_session(regime="scripted", window_chunks=2) as session,
    ):
        session.say(TEXT)
        session.end()
        events = list(session)
        assert [event.offset for event in events if isinstance(event, cuelight.Media)] == list(range(8))
        assert [event.cause for event in events if isinstance(event, cuelight.Resumed)] == ["connection_lost"]
        assert session.state is cuelight.SessionState.CLOSED and session.stats.attachments == 2
        assert [info.name for info in client.list_sessions()] == [session.name]


def test_errors_come_as_they_are() -> None:
    """What the asyncio surface raises, this one does; leaving the block early closes the session."""
    with pytest.raises(cuelight.Unavailable), sync.connect("127.0.0.1:1", timeouts=cuelight.Timeouts(connect_s=0.2)):
        pass
    with served() as fake, sync.connect(fake.address, timeouts=PATIENT) as client:
        with client.create_session() as session, pytest.raises(ValueError, match="blank"):
            session.say(" ")
        assert fake.closes[0].name == session.name
        with pytest.raises(cuelight.SessionFailed):
            session.say("too late")


def test_threads_share_a_session() -> None:
    """One thread reads while another speaks."""
    with (
        served() as fake,
        sync.connect(fake.address, timeouts=PATIENT) as client,
        client.create_session(regime="scripted") as session,
    ):
        words: list[str] = []
        reading = threading.Thread(
            target=lambda: words.extend(
                word.text for event in session if isinstance(event, cuelight.Progress) for word in event.words
            )
        )
        reading.start()
        session.say("one two three")
        session.end()
        reading.join(30)
        assert words == ["one", "two", "three"]


async def test_blocking_an_event_loop_is_refused() -> None:
    """Inside a loop the sentence says to await instead, and nothing is left behind."""
    with pytest.raises(RuntimeError, match="asyncio surface"), sync.connect("127.0.0.1:1"):
        pass
    await asyncio.sleep(0)
