"""A store that is away for longer than a lease, or went back to an earlier moment: no session ends, nothing is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
import redis as redis_client
from grpc import aio

from services.session import CueKind, Regime
from tests.fixtures.audience import Audience
from tests.fixtures.past import Past
from tests.integration.dit_worker.conftest import CHUNK_S, Theatre, until

LONG = "this is a small character that speaks the words you give it and idles when nothing is left to say. " * 2


@pytest.fixture
def client(redis_url: str) -> Iterator[redis_client.Redis]:
    """A client of the test's Redis."""
    with redis_client.Redis.from_url(redis_url) as opened:
        yield opened


def assert_whole(audience: Audience) -> None:
    """Every offset came once, in order, and every word was told once, in order; neither epoch nor generation fell."""
    assert [media.offset for media in audience.media] == list(range(len(audience.media)))
    assert audience.words == LONG.split()
    for name in ("epoch", "generation"):
        told = [getattr(media, name) for media in audience.media]
        assert told == sorted(told), name


async def test_a_store_that_went_back_is_brought_forward(theatre: Theatre, client: redis_client.Redis) -> None:
    """What a fail-over of the store lost is written again, under a new epoch as even that was lost."""
    # Media lag behind what is stored; held back, the worker has something left to commit when the store goes back.
    name = await theatre.session("forgotten", max_ahead_s=2 * CHUNK_S)
    await theatre.cue(name, CueKind.SAY, LONG)
    async with theatre.audience(name) as audience:
        await until(lambda: len(audience.media) >= 4)
        past = Past(client, name)
        await until(lambda: len(audience.media) >= 8)
        epoch = audience.hosted[0].epoch
        past.come_back(epoch=epoch - 1)
        await until(lambda: len(audience.of("response_ended")) == 1)
    assert_whole(audience)
    assert "FAILED" not in audience.states
    assert audience.media[-1].epoch > epoch
    snapshot = await theatre.store.load_snapshot(name)
    assert snapshot.next_chunk_index == len(audience.media) // 2
    assert snapshot.pointer_word == len(LONG.split())


async def test_a_store_that_is_away_for_longer_than_the_lease_is_waited_for(
    theatre: Theatre, client: redis_client.Redis
) -> None:
    """The worker fences itself, keeps what it has made, and goes on under a new epoch when the store is back."""
    name = await theatre.session("fenced")
    await theatre.cue(name, CueKind.SAY, LONG)
    async with theatre.audience(name) as audience:
        await until(lambda: len(audience.media) >= 4)
        client.execute_command("CLIENT", "PAUSE", "7000", "ALL")
        await until(lambda: "RECOVERING" in audience.states)
        await until(lambda: len(audience.of("response_ended")) == 1)
    assert_whole(audience)
    assert audience.media[-1].epoch > audience.hosted[0].epoch
    assert len(audience.hosted) == 1, "its reader was never sent away"
    lost = audience.states.index("RECOVERING")
    assert audience.states[lost + 1] == "ACTIVE"


async def test_an_interrupt_cuts_what_was_heard_though_the_store_went_back(
    theatre: Theatre, client: redis_client.Redis
) -> None:
    """Chunks that a fail-over took are written again before the cut, so that no word of what comes next is lost."""
    name = await theatre.session("cut", max_ahead_s=2 * CHUNK_S)
    await theatre.cue(name, CueKind.SAY, LONG)
    async with theatre.audience(name, plays=False) as audience:
        await until(lambda: len(audience.media) == 4)
        past = Past(client, name)  # held up by the playhead, it makes nothing now
        audience.play(2 * CHUNK_S)
        await until(lambda: len(audience.media) == 8)
        told = len(audience.words)
        past.come_back()
        await theatre.cue(name, CueKind.SAY, "hello there my friend.", playhead_s=3.5 * CHUNK_S, barge_in=True)
        audience.nudge()
        await until(lambda: bool(audience.of("retired")))
        audience.play(4 * CHUNK_S)
        await until(lambda: len(audience.words) >= told + 4)
    assert audience.words == [*LONG.split()[:told], *"hello there my friend.".split()]
    assert [media.offset for media in audience.media] == list(range(len(audience.media)))
    (retired,) = audience.of("retired")
    assert retired.first_position == 4


async def test_a_pause_is_kept_through_a_loss(theatre: Theatre) -> None:
    """A session that was interrupted while paused is taken up paused, and the cut is told to readers who missed it."""
    name = await theatre.session("paused", regime=Regime.CONVERSATION)
    async with theatre.audience(name) as audience:
        await until(lambda: len(audience.media) >= 2)
        await theatre.cue(name, CueKind.PAUSE)
        interrupt = await theatre.cue(name, CueKind.INTERRUPT, playhead_s=CHUNK_S / 2)
        audience.nudge()
        await until(lambda: bool(audience.of("retired")))
        assert (await theatre.store.load_snapshot(name)).cue_cursor == interrupt
    await theatre.worker.house._performers[name].stop()
    async with theatre.audience(name) as heir:
        await until(lambda: bool(heir.of("retired")))
        assert heir.of("retired")[0] == audience.of("retired")[0]
        stood = heir.hosted[0].next_chunk_index
        await asyncio.sleep(1.0)
        assert (await theatre.store.load_snapshot(name)).next_chunk_index == stood
        await theatre.cue(name, CueKind.RESUME)
        heir.nudge()
        await until(lambda: any(media.chunk_index == stood for media in heir.media))


async def test_what_was_made_can_be_read_after_the_end(theatre: Theatre) -> None:
    """A session that ended at a worker which is gone is read to its end at another, from what is stored."""
    name = await theatre.session("ended")
    await theatre.cue(name, CueKind.SAY, "hello there my friend.")
    await theatre.cue(name, CueKind.END)
    async with theatre.audience(name) as audience:
        await audience.following
    assert audience.states[-1] == "CLOSED"
    theatre.worker.house._performers.clear()
    # It says nothing: gRPC forgets how a call ended when a write comes too late (grpc/grpc#36066).
    async with theatre.audience(name, plays=False, media_offset=1) as late:
        await late.following
    assert late.states == ["CLOSED"]
    assert [media.offset for media in late.media] == [media.offset for media in audience.media[1:]]
    assert [media.pts for media in late.media] == [media.pts for media in audience.media[1:]]
    assert [media.data for media in late.media if media.track == 1] == [
        media.data for media in audience.media[1:] if media.track == 1
    ]
    with pytest.raises(aio.AioRpcError) as unknown:
        await Audience("nobody", CHUNK_S).follow(theatre.worker.server.address, media_offset=0)
    assert unknown.value.code().name == "NOT_FOUND"
