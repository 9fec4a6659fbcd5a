"""A live session whose Redis fails over under Sentinels: the audience waits, and misses nothing."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from services.session import CueKind
from tests.fixtures import sentinels
from tests.fixtures.sentinels import Group, client
from tests.integration.dit_worker.conftest import Theatre, until

LONG = "this is a small character that speaks the words you give it and idles when nothing is left to say. " * 2


@pytest.fixture
def group() -> Iterator[Group]:
    """A primary, a replica and three Sentinels."""
    with sentinels.group() as made:
        yield made


@pytest.fixture
def redis_url(group: Group) -> str:
    """Worker and store know the Sentinels alone."""
    return group.url


async def test_a_session_goes_on_at_the_new_primary(theatre: Theatre, group: Group) -> None:
    """The primary dies in mid-speech: every offset and word comes once, from the same worker, before and after."""
    name = await theatre.session("followed")
    await theatre.cue(name, CueKind.SAY, LONG)
    async with theatre.audience(name) as audience:
        await until(lambda: len(audience.media) >= 4)
        was = group.primary()
        with client(was) as server:
            assert server.wait(1, 5000) == 1
        group.kill(was)
        await until(lambda: len(audience.of("response_ended")) == 1)
    assert group.primary() != was
    assert [media.offset for media in audience.media] == list(range(len(audience.media)))
    assert audience.words == LONG.split()
    epochs = [media.epoch for media in audience.media]
    assert epochs == sorted(epochs) and len(audience.hosted) == 1
    snapshot = await theatre.store.load_snapshot(name)
    assert snapshot.next_chunk_index >= len(audience.media) // 2 and snapshot.pointer_word == len(LONG.split())
