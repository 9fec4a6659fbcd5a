"""A worker and an orchestrator whose planner is a scripted language model: what is heard, written, remembered, cut."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import redis

from dit_worker.service.worker import running
from orchestrator_llm.service.process import Orchestrator
from services.session import ChunkPolicy, CueKind, Regime
from services.settings import OrchestratorSettings, WorkerSettings
from services.state import SessionStore
from tests.fakes.llm_server import REPLY, LlmServer, llm_server
from tests.integration.dit_worker.conftest import CHUNK_S, Theatre, until


@contextlib.asynccontextmanager
async def theatre_with(bundle: Path, redis_url: str, store: SessionStore, server: LlmServer) -> AsyncIterator[Theatre]:
    """One orchestrator with that model, one worker."""
    common = {"bundle": bundle, "verify_bundle": False, "redis_url": redis_url}
    planners = {"planner": "scripted", "planners": {"scripted": server.spec}}
    async with Orchestrator.running(OrchestratorSettings(**common, **planners)) as orchestrator:
        settings = WorkerSettings(**common, orchestrator_address=orchestrator.rpc.address, utilisation_bound=100)
        async with running(settings) as worker:
            yield Theatre(store, worker)


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only warnings are logged."""
    monkeypatch.setenv("CUELIGHT_LOG_LEVEL", "WARNING")


async def test_a_conversation_is_answered_interrupted_and_remembered(
    tiny_bundle: Path, redis_url: str, store: SessionStore
) -> None:
    """A reply is committed with the chunks that say it; after a cut the model is shown what was heard of it."""
    with llm_server("good", token_s=0.05) as server:
        async with theatre_with(tiny_bundle, redis_url, store, server) as theatre:
            await theatre.session("s", regime=Regime.CONVERSATION)
            async with theatre.audience("s", plays=False) as audience:
                await theatre.cue("s", CueKind.HEAR, "Who are you?")
                await until(lambda: len(audience.words) >= 2)
                assert audience.words[:2] == REPLY.split()[:2]
                snapshot = await store.load_snapshot("s")
                assert REPLY.startswith(" ".join(snapshot.transcript))
                assert "Who are you?" in snapshot.memory
                await theatre.cue("s", CueKind.INTERRUPT, playhead_s=0.0)
                await until(lambda: bool(audience.of("retired")))
                assert (await store.load_snapshot("s")).is_interrupted
                await theatre.cue("s", CueKind.HEAR, "Never mind. And since when?")
                await until(lambda: len(replies_asked(server)) >= 2)
                dialogue = server.data(replies_asked(server)[-1])["dialogue"]
                said = [line["words"] for line in dialogue if line["who"] == "character"]
                assert [line["words"] for line in dialogue if line["who"] == "user"] == [
                    "Who are you?",
                    "Never mind. And since when?",
                ]
                assert all(REPLY.startswith(words) and len(words) < len(REPLY) for words in said)


def replies_asked(server: LlmServer) -> list[int]:
    """Which of its questions asked for a reply."""
    return [number for number, body in enumerate(server.asked) if "response_format" not in body]


async def test_words_settled_by_an_interrupt_are_answered_by_the_next_worker(
    tiny_bundle: Path, redis_url: str, raw_redis: redis.Redis, store: SessionStore
) -> None:
    """Heard, interrupted, and then the worker loses the session without a word: its heir asks the model about them."""
    with llm_server("good") as server:
        async with theatre_with(tiny_bundle, redis_url, store, server) as theatre:
            await theatre.session("s", regime=Regime.CONVERSATION)
            await theatre.cue("s", CueKind.PAUSE)
            await theatre.cue("s", CueKind.HEAR, "Who are you?")
            settled = await theatre.cue("s", CueKind.INTERRUPT)
            async with theatre.audience("s"):
                async with asyncio.timeout(60):
                    while (await store.load_snapshot("s")).cue_cursor < settled:
                        await asyncio.sleep(0.02)
                assert replies_asked(server) == []
                raw_redis.delete("cuelight:{s}:lease")
                lease = await store.acquire_lease("s", "the-heir", ChunkPolicy(CHUNK_S, 1, 8))
                assert lease is not None
            assert (await store.load_snapshot("s")).heard == ("Who are you?",)
            await store.release(lease)
            await theatre.cue("s", CueKind.RESUME)
            async with theatre.audience("s"):
                await until(lambda: len(replies_asked(server)) >= 1)
            dialogue = server.data(replies_asked(server)[0])["dialogue"]
            assert [line["words"] for line in dialogue if line["who"] == "user"] == ["Who are you?"]
