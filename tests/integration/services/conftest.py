"""A session on a real Redis, with a teller that makes its chunks."""

from __future__ import annotations

import pytest

from services.session import SessionConfig
from services.state import SessionStore
from tests.fakes.chunks import POLICY, Teller


@pytest.fixture
async def teller(store: SessionStore) -> Teller:
    """Holder of the lease of a new session `s1`."""
    await store.create_session(SessionConfig(), session_id="s1")
    lease = await store.acquire_lease("s1", "worker-0-aa", POLICY)
    assert lease is not None
    return Teller(store, lease)
