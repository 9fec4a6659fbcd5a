"""A viewer watches one session after the other through the SDK and writes down what it is shown."""

from __future__ import annotations

import asyncio
from itertools import repeat

from evaluation.chaos.history import Ended, History, Joined, Rendered, Sent, Stored, Told
from evaluation.chaos.rules import check
from evaluation.chaos.viewers import Viewer, scripted_part
from tests.fakes.session_service import FakeGateway, Script, serve

PATIENCE_S = 60.0


async def watched(fake: FakeGateway, sessions: int) -> tuple[Viewer, History]:
    """So many sessions of one part, one after the other."""
    history = History()
    async with serve(fake):
        viewer = Viewer(0, fake.address, repeat(scripted_part(1, 2), sessions), history.events.append)
        async with asyncio.timeout(PATIENCE_S):
            await viewer.watch()
    return viewer, history


def closed(history: History) -> History:
    """The history with what a witness at the store would add."""
    records = [Stored(0.0, session, "closed", "w", 0, 0, 1, 2) for session in history.sessions]
    return History([*history.events, *records])


async def test_all_that_is_shown_is_written_down() -> None:
    """Cues, media, words and the end of two sessions; no rule is broken."""
    viewer, history = await watched(FakeGateway(), 2)
    assert viewer.finished == 2
    assert set(viewer.parts_of_sessions.values()) == {"scripted-1"}
    assert len(history.sessions) == len(viewer.parts_of_sessions)
    kinds = {type(event) for event in history.events}
    assert {Joined, Sent, Rendered, Told, Ended} <= kinds
    assert viewer.media == sum(isinstance(event, Rendered) for event in history.events)
    assert check(closed(history)) == []


async def test_a_broken_stream_leaves_no_mark_on_what_is_shown() -> None:
    """Streams that break and servers that repeat themselves: still each offset once, and every word."""
    _, history = await watched(FakeGateway(Script(break_after=[3, 5], repeat_offsets=True)), 1)
    assert sum(isinstance(event, Joined) for event in history.events) > 1
    assert check(closed(history)) == []
