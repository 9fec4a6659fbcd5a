"""A session on a real Redis, with a teller that makes its chunks."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from redis.crc import key_slot

from services.session import SessionConfig
from services.state import SessionStore
from services.state.calls import Argument, RedisCalls
from tests.fakes.chunks import POLICY, Teller


@pytest.fixture(autouse=True)
def one_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    """All keys of every script that these tests run are in one slot, as a cluster wants it."""
    run = RedisCalls._script

    async def looked_at(store: RedisCalls, name: str, keys: Sequence[str], *args: Argument) -> list[bytes]:
        assert len({key_slot(key.encode()) for key in keys}) == 1, f"{name} touches several slots"
        return await run(store, name, keys, *args)

    monkeypatch.setattr(RedisCalls, "_script", looked_at)


@pytest.fixture
async def teller(store: SessionStore) -> Teller:
    """Holder of the lease of a new session `s1`."""
    await store.create_session(SessionConfig(), session_id="s1")
    lease = await store.acquire_lease("s1", "worker-0-aa", POLICY)
    assert lease is not None
    return Teller(store, lease)
