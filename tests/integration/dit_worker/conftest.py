"""A worker and an orchestrator in this process, over real gRPC and a real Redis, with a tiny bundle."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from dit_worker.engine import warmup
from dit_worker.engine.costs import ChunkCost
from dit_worker.engine.engine import Engine
from dit_worker.engine.loader import Models
from dit_worker.service import worker as worker_process
from dit_worker.service.worker import Worker, running
from orchestrator_llm.service.process import Orchestrator
from services.session import Cue, CueKind, Regime, SessionConfig
from services.settings import OrchestratorSettings, WorkerSettings
from services.state import SessionStore
from tests.fixtures.audience import Audience
from tests.fixtures.tiny_bundle import build_tiny_bundle

PATIENCE_S = 60.0
CHUNK_S = 1.375


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights in the pocket's geometry."""
    return build_tiny_bundle(tmp_path_factory.mktemp("worker") / "tiny", has_light=True)


@pytest.fixture(scope="session", autouse=True)
def warm() -> Iterator[None]:
    """Only the first worker of a run measures what a chunk costs here, which most of a start is spent on."""
    measured: dict[str, list[ChunkCost]] = {}

    def warm_up(engine: Engine, models: Models) -> list[ChunkCost]:
        bundle = models.manifest.digest
        if bundle not in measured:
            measured[bundle] = warmup.warm_up(engine, models)
        return measured[bundle]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worker_process, "warm_up", warm_up)
        yield


@dataclass
class Theatre:
    """The running parts and a client's hand on them."""

    store: SessionStore
    worker: Worker
    sequence: int = 0

    async def session(self, session_id: str, *, regime: Regime = Regime.SCRIPTED, **options: object) -> str:
        """Creates a session."""
        await self.store.create_session(SessionConfig(regime=regime, **options), session_id=session_id)
        return session_id

    async def cue(self, session_id: str, kind: CueKind, text: str = "", **options: object) -> int:
        """Appends a cue; returns its client_seq."""
        self.sequence += 1
        await self.store.append_cue(session_id, Cue(self.sequence, kind, text, **options))
        return self.sequence

    @contextlib.asynccontextmanager
    async def audience(
        self, session_id: str, *, plays: bool = True, media_offset: int | None = None
    ) -> AsyncIterator[Audience]:
        """Somebody who follows a session in the background."""
        audience = Audience(session_id, CHUNK_S, plays)
        following = asyncio.create_task(audience.follow(self.worker.server.address, media_offset=media_offset))
        audience.following = following
        try:
            yield audience
        finally:
            following.cancel()
            await asyncio.wait({following})


async def until(condition: Callable[[], bool]) -> None:
    """Waits for something that will come; fails when it does not."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.02)


@pytest.fixture
async def theatre(
    tiny_bundle: Path, redis_url: str, store: SessionStore, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Theatre]:
    """One orchestrator, one worker with two slots."""
    monkeypatch.setenv("CUELIGHT_LOG_LEVEL", "WARNING")
    common = {"bundle": tiny_bundle, "verify_bundle": False, "redis_url": redis_url}
    async with Orchestrator.running(OrchestratorSettings(**common)) as orchestrator:
        settings = WorkerSettings(
            **common,
            worker_id="w",
            worker_slots=2,
            utilisation_bound=100,  # the machine that runs the tests may be slow: slots alone refuse
            orchestrator_address=orchestrator.rpc.address,
        )
        async with running(settings) as worker:
            yield Theatre(store, worker)
