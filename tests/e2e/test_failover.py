"""A worker killed in mid-session is replaced, and nobody can tell from what is generated."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from grpc import aio

from services.bundle import load_manifest
from services.session import ChunkPolicy, Cue, CueKind, Regime, SessionConfig, SessionSnapshot
from services.state import SessionStore
from tests.fixtures.audience import Audience
from tests.fixtures.processes import RunningProcess, running
from tests.fixtures.tiny_bundle import build_tiny_bundle

TEXT = (
    "hello there my friend, this is a small character that speaks the words you give it. "
    "it idles when there is nothing left to say, and that is a small character too."
)
SEED = 11


@dataclass(frozen=True)
class Theatre:
    """One orchestrator, and workers on demand."""

    bundle: Path
    chunk_s: float
    orchestrator: RunningProcess
    stack: ExitStack
    folder: Path
    redis_url: str

    def worker(self, name: str) -> RunningProcess:
        """Starts a worker process."""
        settings = {
            "CUELIGHT_REDIS_URL": self.redis_url,
            "CUELIGHT_BUNDLE": str(self.bundle),
            "CUELIGHT_ORCHESTRATOR_ADDRESS": self.orchestrator.address,
            "CUELIGHT_WORKER_ID": name,
        }
        return self.stack.enter_context(running("dit_worker", settings, self.folder / f"{name}.log"))


@pytest.fixture
def theatre(redis_url: str, tmp_path: Path) -> Iterator[Theatre]:
    """A tiny bundle and an orchestrator process; workers started through it are stopped at the end."""
    bundle = build_tiny_bundle(tmp_path / "tiny")
    settings = {"CUELIGHT_BUNDLE": str(bundle)}
    with ExitStack() as stack:
        orchestrator = stack.enter_context(running("orchestrator_llm", settings, tmp_path / "orchestrator.log"))
        chunk_s = load_manifest(bundle).chunk_seconds
        yield Theatre(bundle, chunk_s, orchestrator, stack, tmp_path, redis_url)


async def new_session(store: SessionStore, session_id: str) -> None:
    """A scripted session that speaks TEXT and ends."""
    config = SessionConfig(regime=Regime.SCRIPTED, seed=SEED)
    await store.create_session(config, session_id=session_id)
    await store.append_cue(session_id, Cue(1, CueKind.SAY, TEXT))
    await store.append_cue(session_id, Cue(2, CueKind.END))


def latents(snapshot: SessionSnapshot) -> dict[int, tuple[bytes, bytes]]:
    """Bytes of all latents that the store still has, by chunk."""
    kept = [chunk for chunk in snapshot.chunks if chunk.video is not None and chunk.audio is not None]
    return {chunk.commit.chunk_index: (chunk.video.tobytes(), chunk.audio.tobytes()) for chunk in kept}


def assert_whole(audience: Audience) -> None:
    """Every offset came exactly once, in order, and every word was told exactly once, in order."""
    assert [media.offset for media in audience.media] == list(range(len(audience.media)))
    assert audience.words == TEXT.split()


@pytest.mark.slow
@pytest.mark.timeout(240)
async def test_a_killed_worker_is_replaced_and_the_latents_are_those_of_an_undisturbed_run(
    theatre: Theatre, store: SessionStore
) -> None:
    """SIGKILL in the middle of a chunk: another worker goes on from the committed chunk, bit for bit the same."""
    first, second = theatre.worker("first"), theatre.worker("second")

    await new_session(store, "undisturbed")
    calm = Audience("undisturbed", theatre.chunk_s)
    await calm.follow(second.address)
    assert_whole(calm)
    assert len(calm.media) >= 12, "the text must be long enough to be interrupted in"

    await new_session(store, "disturbed")
    audience = Audience("disturbed", theatre.chunk_s)
    await audience.follow(first.address, until=lambda so_far: so_far.next_offset == 4)
    first.kill()
    await audience.follow(second.address, media_offset=audience.next_offset)

    assert_whole(audience)
    assert audience.hosted[1].epoch > audience.hosted[0].epoch
    assert audience.hosted[1].state_preserved
    assert audience.states[-1] == "CLOSED"
    assert [media.data for media in audience.media[::2]] == [media.data for media in calm.media[::2]]
    assert latents(await store.load_snapshot("disturbed")) == latents(await store.load_snapshot("undisturbed"))
    for ours, theirs in zip(audience.media, calm.media, strict=True):
        assert (ours.pts, ours.duration, ours.position) == (theirs.pts, theirs.duration, theirs.position)
        assert len(ours.unit_sizes) == len(theirs.unit_sizes)


@pytest.mark.slow
@pytest.mark.timeout(240)
async def test_a_worker_told_to_stop_hands_over_at_once(theatre: Theatre, store: SessionStore) -> None:
    """SIGTERM gives the lease back, so the next worker need not wait for it to run out."""
    first, second = theatre.worker("first"), theatre.worker("second")
    await new_session(store, "handed-over")
    audience = Audience("handed-over", theatre.chunk_s)
    await audience.follow(first.address, until=lambda so_far: so_far.next_offset == 4)
    first.process.terminate()
    assert first.process.wait(30) == 0
    lease = await store.acquire_lease("handed-over", "nobody", ChunkPolicy(theatre.chunk_s, 1, 8))
    assert lease is not None, "the lease is free at once"
    await store.release(lease)
    await audience.follow(second.address, media_offset=audience.next_offset)
    assert_whole(audience)


@pytest.mark.slow
@pytest.mark.timeout(240)
async def test_an_orchestrator_that_comes_back_is_found_again(theatre: Theatre, store: SessionStore) -> None:
    """The client is told RECOVERING, the session stands again from the store, and nothing is lost or doubled."""
    worker = theatre.worker("only")
    await new_session(store, "waits")
    audience = Audience("waits", theatre.chunk_s)
    port = theatre.orchestrator.address.rpartition(":")[2]
    settings = {"CUELIGHT_BUNDLE": str(theatre.bundle), "CUELIGHT_ORCHESTRATOR_LISTEN": f"127.0.0.1:{port}"}
    await audience.follow(worker.address, until=lambda so_far: so_far.next_offset == 4)
    theatre.orchestrator.kill()
    await audience.follow(
        worker.address, until=lambda so_far: "RECOVERING" in so_far.states, media_offset=audience.next_offset
    )
    theatre.stack.enter_context(running("orchestrator_llm", settings, theatre.folder / "again.log"))
    await audience.follow(worker.address, media_offset=audience.next_offset)
    assert_whole(audience)
    assert audience.states[-1] == "CLOSED"


async def test_a_stranger_gets_a_reason(theatre: Theatre) -> None:
    """A claim of a session that does not exist is NOT_FOUND; a first message that is no claim is INVALID_ARGUMENT."""
    worker = theatre.worker("only")
    with pytest.raises(aio.AioRpcError) as unknown:
        await Audience("nobody", theatre.chunk_s).follow(worker.address)
    assert unknown.value.code().name == "NOT_FOUND"
    with pytest.raises(aio.AioRpcError) as empty:
        await Audience("", theatre.chunk_s).follow(worker.address)
    assert empty.value.code().name == "INVALID_ARGUMENT"
