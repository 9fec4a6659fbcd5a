"""Fixtures that every test may use: a real Redis server, emptied for each test, and the bundle of the repository.

All logs of a run are read at its end (`tests/fixtures/canaries.py`).
And one that every test has: it finds connections to Redis left open in the test that left them.

`CUELIGHT_TEST_REDIS_SERVER` names one redis-server binary to test with; by default the preferred one of this machine.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.asyncio.connection import AbstractConnection

from cuelight import Session
from services.bundle import MANIFEST_NAME
from services.errors import StoreUnavailable
from services.state import EmbeddedRedis, SessionStore

ROOT = Path(__file__).resolve().parents[1]
pytest_plugins = ["tests.fixtures.canaries", "tests.fixtures.sharing"]


def _absent(what: str) -> None:
    """Skip where something is missing, but fail in CI, where it must be there."""
    if os.environ.get("CI"):
        pytest.fail(what)
    pytest.skip(what)


@pytest.fixture(scope="session", autouse=True)
def overheard() -> Iterator[None]:
    """Whatever a test says through the SDK is looked for in the run's logs."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("say", "hear", "prompt"):
            patch.setattr(Session, name, _noting(getattr(Session, name)))
        yield


def _noting(send: Callable[..., Awaitable[int]]) -> Callable[..., Awaitable[int]]:
    from tests.fixtures.canaries import note  # pytest must be the first to import a plugin

    async def noted(session: Session, text: str, **options: Any) -> int:
        note(text)
        return await send(session, text, **options)

    return noted


@pytest.fixture(autouse=True)
def connections(monkeypatch: pytest.MonkeyPatch) -> Iterator[weakref.WeakSet[AbstractConnection]]:
    """The connections to Redis that the test makes; it fails when one of them is still open at its end."""
    made: weakref.WeakSet[AbstractConnection] = weakref.WeakSet()
    make = AbstractConnection.__init__

    def noted(connection: AbstractConnection, **options: Any) -> None:
        make(connection, **options)
        made.add(connection)

    monkeypatch.setattr(AbstractConnection, "__init__", noted)
    yield made
    left = [connection for connection in made if connection.is_connected]
    assert not left, f"the test left connections to Redis open: {left}"


@pytest.fixture(scope="session")
def redis_server() -> Iterator[EmbeddedRedis]:
    """A Redis server of this test run's own."""
    chosen = os.environ.pop("CUELIGHT_TEST_REDIS_SERVER", "")
    server = EmbeddedRedis(Path(chosen) if chosen else None)
    try:
        server.start()
    except StoreUnavailable as fault:
        _absent(fault.message)
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture
def redis_url(redis_server: EmbeddedRedis) -> str:
    """URL of the test run's Redis server, empty."""
    redis_server.flush()
    return redis_server.url


@pytest.fixture
def raw_redis(redis_url: str) -> Iterator[redis.Redis]:
    """The same server, for what no call of the store does."""
    with redis.Redis.from_url(redis_url) as opened:
        yield opened


@pytest.fixture
async def store(redis_url: str) -> AsyncIterator[SessionStore]:
    """A session store on an empty Redis, patient with a busy machine."""
    async with SessionStore.connect(redis_url, call_timeout_s=20) as opened:
        yield opened


@pytest.fixture(scope="session")
def pocket_bundle() -> Path:
    """Directory of the `pocket` bundle."""
    path = ROOT / "bundles" / "pocket"
    if not (path / MANIFEST_NAME).is_file():
        _absent("bundles/pocket has no manifest.json: the bundle has not been trained in this checkout")
    return path
