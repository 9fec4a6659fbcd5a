"""A live session whose Redis is a cluster: its slot moves, its master dies, and the audience misses nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from cuelight.v1 import session_pb2
from evaluation.redis_nodes import Nodes
from services.session import CueKind, SessionState
from services.state.keys import session_keys
from tests.fixtures import redis_cluster
from tests.fixtures.redis_cluster import session_on
from tests.integration.dit_worker.conftest import Theatre, until

LONG = "this is a small character that speaks the words you give it and idles when nothing is left to say. " * 2


@pytest.fixture
def nodes() -> Iterator[Nodes]:
    """Three masters, the first of which has a replica."""
    with redis_cluster.nodes(3, replicas=1) as made:
        yield made


@pytest.fixture
def redis_url(nodes: Nodes) -> str:
    """Worker, orchestrator and store know the masters there were at the start."""
    return nodes.url


async def test_a_session_goes_on_wherever_its_slot_goes(theatre: Theatre, nodes: Nodes) -> None:
    """In mid-speech its slot goes to another master, which then dies: every offset and word comes once, as before."""
    followed, other = nodes.masters[:2]
    name = await theatre.session(session_on(nodes, other, "followed"))
    await theatre.cue(name, CueKind.SAY, LONG)
    async with theatre.audience(name) as audience:
        await until(lambda: len(audience.media) >= 4)
        await asyncio.to_thread(nodes.move_slot, session_keys(name).record, followed)
        await until(lambda: len(audience.media) >= 8)
        await asyncio.to_thread(nodes.caught_up, followed)
        nodes.kill(followed)
        await until(lambda: len(audience.of("response_ended")) == 1)
    await asyncio.to_thread(nodes.wait_for_owner, session_keys(name).record, nodes.replicas[followed])
    assert [media.offset for media in audience.media] == list(range(len(audience.media)))
    assert audience.words == LONG.split()
    epochs = [media.epoch for media in audience.media]
    assert epochs == sorted(epochs) and len(audience.hosted) == 1
    snapshot = await theatre.store.load_snapshot(name)
    assert snapshot.pointer_word == len(LONG.split())


async def test_a_session_is_cut_and_closed_over_three_masters(theatre: Theatre) -> None:
    """Cue, interrupt, another cue and the end of a session, with fleet and tenant in slots of other masters."""
    name = await theatre.session("cut")
    await theatre.cue(name, CueKind.SAY, LONG)
    async with theatre.audience(name, plays=False) as audience:
        await until(lambda: len(audience.media) >= 4)
        await theatre.cue(name, CueKind.INTERRUPT, playhead_s=1.6)
        await theatre.cue(name, CueKind.SAY, "hello there my friend.")
        audience.nudge()
        await until(lambda: audience.words[-4:] == "hello there my friend.".split())
        assert audience.of("response_ended")[0].reason == session_pb2.END_REASON_INTERRUPTED
        assert len((await theatre.store.list_sessions()).sessions) == 1
        await theatre.store.close(name)
        await until(lambda: not theatre.worker.house.session_ids)
    assert (await theatre.store.get(name)).state is SessionState.CLOSED
    (worker,) = await theatre.store.list_workers()
    assert worker.used == 0
