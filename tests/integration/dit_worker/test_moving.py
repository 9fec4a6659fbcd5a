"""A live session moves from worker to worker, and nobody can tell from what is generated."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import pytest
from grpc import aio

from cuelight.v1 import session_pb2, worker_pb2, worker_pb2_grpc
from dit_worker.service.worker import Worker, running
from orchestrator_llm.service.process import Orchestrator
from services.errors import NoCapacity, SessionNotFound
from services.logs import get_logger
from services.session import CueKind, Regime, SessionSnapshot
from services.settings import OrchestratorSettings, WorkerSettings
from services.state import SessionStore
from tests.fixtures.audience import Audience
from tests.integration.dit_worker.conftest import CHUNK_S, Theatre, until

log = get_logger(__name__)
TEXT = "this is a small character that speaks the words you give it and idles when nothing is left to say. " * 2


@dataclass
class Touring(Theatre):
    """Two workers that sessions move between."""

    other: Worker | None = None
    orchestrators: list[Orchestrator] = field(default_factory=list)

    @property
    def workers(self) -> list[Worker]:
        assert self.other is not None
        return [self.worker, self.other]

    def host(self, session_id: str) -> Worker:
        """The worker that performs a session."""
        (host,) = [worker for worker in self.workers if session_id in worker.house.session_ids]
        return host

    @contextlib.asynccontextmanager
    async def tour(self, session_id: str, *, plays: bool = True) -> AsyncIterator[Audience]:
        """Somebody who follows a session from worker to worker, as a gateway does."""
        audience = Audience(session_id, CHUNK_S, plays)
        audience.following = asyncio.create_task(self._follow(audience))
        try:
            yield audience
        finally:
            audience.following.cancel()
            await asyncio.wait({audience.following})

    async def _follow(self, audience: Audience) -> None:
        address: str | None = self.worker.server.address
        while address is not None:
            told = len(audience.of("moved"))
            try:
                await audience.follow(address, media_offset=audience.next_offset)
            except aio.AioRpcError as error:  # again, as a gateway does, unless it was told where to go before
                log.warning("asked_again", address=address, status=error.code().name, detail=error.details())
                if len(audience.of("moved")) == told:
                    await asyncio.sleep(0.05)
                    continue
            moved = audience.of("moved")[told:]
            address = moved[0].address if moved else None


@pytest.fixture
async def touring(tiny_bundle: Path, redis_url: str, store: SessionStore) -> AsyncIterator[Touring]:
    """Two orchestrators, two workers with two slots each."""
    common = {"bundle": tiny_bundle, "verify_bundle": False, "redis_url": redis_url}
    async with contextlib.AsyncExitStack() as stack:
        orchestrators = [
            await stack.enter_async_context(Orchestrator.running(OrchestratorSettings(**common, drain_s=60)))
            for _ in range(2)
        ]
        workers = [
            await stack.enter_async_context(
                running(
                    WorkerSettings(
                        **common,
                        worker_id=name,
                        worker_slots=2,
                        drain_s=60,
                        utilisation_bound=100,
                        orchestrator_address=",".join(replica.rpc.address for replica in orchestrators),
                    )
                )
            )
            for name in ("w-0", "w-1")
        ]
        yield Touring(store, workers[0], other=workers[1], orchestrators=orchestrators)


def latents(snapshot: SessionSnapshot) -> dict[int, tuple[bytes, bytes]]:
    """Bytes of all latents that the store still has, by chunk."""
    kept = [chunk for chunk in snapshot.chunks if chunk.video is not None and chunk.audio is not None]
    return {chunk.commit.chunk_index: (chunk.video.tobytes(), chunk.audio.tobytes()) for chunk in kept}


async def performed(touring: Touring, name: str, moves_at: tuple[int, ...]) -> tuple[Audience, SessionSnapshot]:
    """A session that speaks TEXT and moves whenever so many chunks are out; and how it stood when all was said."""
    await touring.session(name, seed=3, is_repeatable=True, max_ahead_s=2 * CHUNK_S)
    await touring.cue(name, CueKind.SAY, TEXT)
    async with touring.tour(name) as audience:
        for chunks in moves_at:
            await until(lambda chunks=chunks: len(audience.media) >= 2 * chunks)
            await touring.host(name).mover.move(name)
        await until(lambda: len(audience.of("response_ended")) == 1)
        snapshot = await touring.store.load_snapshot(name)
    await touring.store.close(name)
    await until(lambda: not any(worker.house.session_ids for worker in touring.workers))
    return audience, snapshot


async def test_a_moved_session_is_that_of_an_undisturbed_run(touring: Touring) -> None:
    """There and back in mid-speech: every offset, word and event once, and latents and pictures as they were."""
    calm, stood = await performed(touring, "calm", ())
    audience, snapshot = await performed(touring, "moved", (2, 5))
    assert len(audience.of("moved")) == 2
    assert [media.offset for media in audience.media] == list(range(len(calm.media)))
    assert audience.words == TEXT.split()
    for kind in ("response_started", "response_ended"):
        assert len(audience.of(kind)) == 1
    assert audience.of("response_ended")[0].generated == calm.of("response_ended")[0].generated
    assert "RECOVERING" not in audience.states
    epochs = [media.epoch for media in audience.media]
    assert epochs == sorted(epochs) and len(set(epochs)) == 3
    assert [media.data for media in audience.media[::2]] == [media.data for media in calm.media[::2]]
    assert [(media.pts, media.duration) for media in audience.media] == [(m.pts, m.duration) for m in calm.media]
    assert latents(snapshot) == latents(stood)


async def test_what_was_queued_and_held_goes_along(touring: Touring) -> None:
    """A paused session stays paused where it goes; words queued before and after the move are spoken once, in order."""
    name = await touring.session("held", regime=Regime.CONVERSATION)
    await touring.cue(name, CueKind.SAY, "hello there my friend.")
    async with touring.tour(name) as audience:
        await until(lambda: len(audience.of("response_ended")) == 1)
        await touring.cue(name, CueKind.PAUSE)
        await touring.cue(name, CueKind.SAY, "you give it words.")
        audience.nudge()
        host = touring.host(name)
        performer = host.house.performer(name)
        await until(lambda: performer._pacing is not None and performer._pacing.is_paused)
        stood = (await touring.store.load_snapshot(name)).next_chunk_index
        await host.mover.move(name)
        await until(lambda: len(audience.of("moved")) == 1 and len(audience.hosted) == 2)
        heir = touring.host(name).house.performer(name)
        await until(lambda: heir._pacing is not None and heir._pacing.is_paused)
        await asyncio.sleep(0.5)
        assert (await touring.store.load_snapshot(name)).next_chunk_index == stood
        await touring.cue(name, CueKind.RESUME)
        await touring.cue(name, CueKind.SAY, "that is a small character.")
        audience.nudge()
        await until(lambda: len(audience.words) >= 13)
    assert audience.words == "hello there my friend. you give it words. that is a small character.".split()


async def test_an_interrupt_about_the_move_cuts_where_it_was_heard(touring: Touring) -> None:
    """Sent while the session changes hands, it is done once, by whoever has the session then."""
    name = await touring.session("cut")
    await touring.cue(name, CueKind.SAY, TEXT)
    async with touring.tour(name, plays=False) as audience:
        await until(lambda: len(audience.media) >= 8)
        audience.play(1.5)
        moving = asyncio.create_task(touring.host(name).mover.move(name))
        await touring.cue(name, CueKind.INTERRUPT, playhead_s=1.6)
        await touring.cue(name, CueKind.SAY, "hello there my friend.")
        audience.nudge()
        await moving
        await until(lambda: audience.words[-4:] == "hello there my friend.".split())
    (retired,) = audience.of("retired")
    assert (retired.generation, retired.first_position) == (1, 2)
    assert audience.of("response_ended")[0].reason == session_pb2.END_REASON_INTERRUPTED
    offsets = [media.offset for media in audience.media]
    assert offsets == sorted(set(offsets))


async def test_a_move_that_comes_to_nothing_leaves_the_session_where_it_is(touring: Touring) -> None:
    """No such session, no such worker, or one that takes nothing: it goes on where it is, under the same epoch."""
    other = touring.workers[1]
    name = await touring.session("stays", seed=3)
    await touring.cue(name, CueKind.SAY, TEXT)
    async with touring.tour(name) as audience:
        await until(lambda: len(audience.media) >= 2)
        mover = touring.worker.mover
        assert touring.host(name) is touring.worker
        with pytest.raises(SessionNotFound):
            await mover.move("nobody")
        with pytest.raises(NoCapacity):
            await mover.move(name, "no-such-worker")
        other.house.is_draining = True
        async with aio.insecure_channel(touring.worker.server.address) as channel:
            stub = worker_pb2_grpc.WorkerServiceStub(channel)
            with pytest.raises(aio.AioRpcError) as refused:
                await stub.Move(worker_pb2.MoveRequest(session_id=name))
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        other.house.is_draining = False
        await until(lambda: len(audience.of("response_ended")) == 1)
    assert audience.of("moved") == [] and audience.words == TEXT.split()
    assert len({media.epoch for media in audience.media}) == 1
    assert [worker.used for worker in await touring.store.list_workers()].count(1) <= 1


async def test_orchestrators_and_workers_go_and_what_they_have_goes_on(touring: Touring) -> None:
    """A replica that goes away is left for the other without a word of recovering; then so is the worker."""
    name = await touring.session("steady", seed=3, is_repeatable=True, max_ahead_s=2 * CHUNK_S)
    await touring.cue(name, CueKind.SAY, TEXT)
    async with touring.tour(name) as audience:
        await until(lambda: len(audience.media) >= 4)
        (directing,) = [replica for replica in touring.orchestrators if replica.servicer._sessions]
        leaving = asyncio.create_task(directing.rpc.drain(directing.drain))
        await until(lambda: len(audience.media) >= 8)
        await leaving
        await touring.worker.leave()
        assert touring.host(name) is touring.other
        await until(lambda: len(audience.of("response_ended")) == 1)
    assert audience.words == TEXT.split()
    assert [media.offset for media in audience.media] == list(range(len(audience.media)))
    assert "RECOVERING" not in audience.states and len(audience.of("moved")) == 1
    figures = touring.worker.station.figures.metrics.registry
    assert figures.get_sample_value("cuelight_moves_total", {"result": "moved"}) == 1
    assert figures.get_sample_value("cuelight_handover_seconds_count") == 1


async def test_what_nobody_has_room_for_is_finished_or_let_go(touring: Touring) -> None:
    """A worker that leaves goes on with a session that somebody watches, and lets go of one that nobody does."""
    touring.workers[1].house.is_draining = True
    await touring.session("unwatched", regime=Regime.CONVERSATION)
    async with touring.tour("unwatched") as audience:
        await until(lambda: bool(audience.media))
    name = await touring.session("watched")
    await touring.cue(name, CueKind.SAY, "hello there my friend.")
    await touring.cue(name, CueKind.END)
    async with touring.tour(name) as audience:
        await until(lambda: bool(audience.hosted))
        await touring.worker.leave()
    assert audience.words == "hello there my friend.".split() and audience.states[-1] == "CLOSED"
    assert not (await touring.store.get("unwatched")).state.is_final
