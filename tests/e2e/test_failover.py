"""A worker killed in mid-session is replaced, and nobody can tell from what is generated."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.request import urlopen

import pytest
import redis as redis_client
from grpc import aio

from cuelight.v1 import session_pb2
from services.bundle import load_manifest
from services.session import Cue, CueKind, Regime, SessionConfig, SessionSnapshot
from services.state import EmbeddedRedis, SessionStore
from services.state.keys import session_keys
from tests.fixtures.audience import Audience
from tests.fixtures.processes import ROOT, RunningProcess, running
from tests.fixtures.relay import Relay, Step
from tests.fixtures.tiny_bundle import build_tiny_bundle

TEXT = (
    "hello there my friend, this is a small character that speaks the words you give it. "
    "it idles when there is nothing left to say, and that is a small character too."
)
SEED = 11
KILLED_IN = 2
"""The chunk in which an orchestrator is killed."""
STEPS_DROPPED = 'cuelight_drops_total{what="step"}'


@dataclass(frozen=True)
class Theatre:
    """An orchestrator and a worker that outlive every test, and more of either on demand."""

    bundle: Path
    chunk_s: float
    redis_url: str
    folder: Path
    orchestrator: RunningProcess
    steady: RunningProcess
    undisturbed: dict[int, tuple[bytes, bytes]] = field(default_factory=dict)
    """Latents of a run of TEXT to which nothing happened, by chunk, once there was one."""

    @contextmanager
    def worker(self, name: str, orchestrator: str) -> Iterator[RunningProcess]:
        """One more worker process, of the orchestrator at that address."""
        settings = {
            "CUELIGHT_REDIS_URL": self.redis_url,
            "CUELIGHT_BUNDLE": str(self.bundle),
            "CUELIGHT_ORCHESTRATOR_ADDRESS": orchestrator,
            "CUELIGHT_METRICS_LISTEN": "127.0.0.1:0",
            "CUELIGHT_WORKER_ID": name,
            "CUELIGHT_DRAIN_S": "60",
        }
        with running("dit_worker", settings, self.folder / f"{name}.log") as worker:
            yield worker

    def steps_dropped(self, worker: str) -> float:
        """Steps that a running worker says it made in vain."""
        lines = map(json.loads, (self.folder / f"{worker}.log").read_text().splitlines())
        address = next(line["address"] for line in lines if line["event"] == "metrics_served")
        with urlopen(f"http://{address}/metrics", timeout=60) as answer:
            told = answer.read().decode()
        return sum(float(line.split()[-1]) for line in told.splitlines() if line.startswith(STEPS_DROPPED))

    async def calm(self, store: SessionStore) -> dict[int, tuple[bytes, bytes]]:
        """Latents of a run to which nothing happens."""
        if not self.undisturbed:
            await new_session(store, "calm")
            await Audience("calm", self.chunk_s).follow(self.steady.address)
            self.undisturbed.update(latents(await store.load_snapshot("calm")))  # before it is forgotten: it has ended
        assert self.undisturbed
        return self.undisturbed

    @contextmanager
    def director(self, name: str, listen: str = "127.0.0.1:0") -> Iterator[RunningProcess]:
        """One more orchestrator process."""
        settings = {"CUELIGHT_BUNDLE": str(self.bundle), "CUELIGHT_ORCHESTRATOR_LISTEN": listen}
        with running("orchestrator_llm", settings, self.folder / f"{name}.log") as orchestrator:
            yield orchestrator


@pytest.fixture(scope="module")
def theatre(redis_server: EmbeddedRedis, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Theatre]:
    """A tiny bundle, an orchestrator process and a worker process."""
    folder = tmp_path_factory.mktemp("theatre")
    bundle = build_tiny_bundle(folder / "tiny")
    start = {"CUELIGHT_BUNDLE": str(bundle)}
    with running("orchestrator_llm", start, folder / "orchestrator.log") as orchestrator:
        start |= {"CUELIGHT_REDIS_URL": redis_server.url, "CUELIGHT_ORCHESTRATOR_ADDRESS": orchestrator.address}
        with running("dit_worker", start, folder / "steady.log") as steady:
            chunk_s = load_manifest(bundle).chunk_seconds
            yield Theatre(bundle, chunk_s, redis_server.url, folder, orchestrator, steady)


async def new_session(store: SessionStore, session_id: str, max_ahead_s: float | None = None) -> None:
    """A scripted session that speaks TEXT and ends."""
    config = SessionConfig(regime=Regime.SCRIPTED, seed=SEED, max_ahead_s=max_ahead_s)
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
@pytest.mark.timeout(600)
async def test_a_killed_worker_is_replaced_and_the_latents_are_those_of_an_undisturbed_run(
    theatre: Theatre, store: SessionStore
) -> None:
    """SIGKILL in mid-chunk: another worker goes on at once, whatever its lease says, bit for bit the same."""
    await new_session(store, "undisturbed")
    calm = Audience("undisturbed", theatre.chunk_s)
    await calm.follow(theatre.steady.address)
    undisturbed = latents(await store.load_snapshot("undisturbed"))  # before it is forgotten: it has ended
    assert_whole(calm)
    assert len(calm.media) >= 12, "the text must be long enough to be interrupted in"

    await new_session(store, "disturbed")
    audience = Audience("disturbed", theatre.chunk_s)
    with theatre.worker("doomed", theatre.orchestrator.address) as doomed:
        await audience.follow(doomed.address, until=lambda so_far: so_far.next_offset == 4)
        doomed.kill()
    with redis_client.Redis.from_url(theatre.redis_url) as server:
        assert server.persist(session_keys("disturbed").lease), "whoever waits for its end waits for ever"
    await audience.follow(theatre.steady.address, media_offset=audience.next_offset)

    assert_whole(audience)
    assert audience.hosted[1].epoch > audience.hosted[0].epoch
    assert audience.hosted[1].state_preserved
    assert audience.states[-1] == "CLOSED"
    assert [media.data for media in audience.media[::2]] == [media.data for media in calm.media[::2]]
    assert latents(await store.load_snapshot("disturbed")) == undisturbed
    for ours, theirs in zip(audience.media, calm.media, strict=True):
        assert (ours.pts, ours.duration, ours.position) == (theirs.pts, theirs.duration, theirs.position)
        assert len(ours.unit_sizes) == len(theirs.unit_sizes)


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_a_worker_told_to_stop_moves_what_it_has_and_ends(theatre: Theatre, store: SessionStore) -> None:
    """SIGTERM: the session goes on at another worker, whole and without a loss, and the process ends with status 0."""
    await new_session(store, "moved", max_ahead_s=2 * theatre.chunk_s)
    audience = Audience("moved", theatre.chunk_s, plays=False)
    with theatre.worker("leaving", theatre.orchestrator.address) as leaving:
        following = asyncio.create_task(audience.follow(leaving.address))
        async with asyncio.timeout(100):
            while audience.next_offset < 4:
                await asyncio.sleep(0.02)
            leaving.process.terminate()
            await following
        assert await asyncio.to_thread(leaving.process.wait, 60) == 0
    (moved,) = audience.of("moved")
    assert moved.address == theatre.steady.address
    audience.plays = True
    await audience.follow(moved.address, media_offset=audience.next_offset)
    assert_whole(audience)
    assert "RECOVERING" not in audience.states and audience.states[-1] == "CLOSED"
    assert len(audience.of("response_started")) == len(audience.of("response_ended")) == 1


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_an_orchestrator_that_comes_back_is_found_again(theatre: Theatre, store: SessionStore) -> None:
    """The client is told RECOVERING, the session stands again from the store, nothing is lost, doubled or changed."""
    undisturbed = await theatre.calm(store)
    await new_session(store, "waits")
    audience = Audience("waits", theatre.chunk_s)
    with ExitStack() as stack:
        lost = stack.enter_context(theatre.director("lost"))
        worker = stack.enter_context(theatre.worker("faithful", lost.address))
        await audience.follow(worker.address, until=lambda so_far: so_far.next_offset == 4)
        lost.kill()
        await audience.follow(
            worker.address, until=lambda so_far: "RECOVERING" in so_far.states, media_offset=audience.next_offset
        )
        stack.enter_context(theatre.director("found", listen=lost.address))
        await audience.follow(worker.address, media_offset=audience.next_offset)
    assert_whole(audience)
    assert audience.states[-1] == "CLOSED"
    assert latents(await store.load_snapshot("waits")) == undisturbed


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_an_orchestrator_killed_in_mid_chunk_costs_the_steps_of_that_chunk(
    theatre: Theatre, store: SessionStore
) -> None:
    """SIGKILL before a chunk's third step: two steps are made twice, counted as dropped, and no latent is another."""
    undisturbed = await theatre.calm(store)
    await new_session(store, "short-lived")
    audience = Audience("short-lived", theatre.chunk_s)
    async with Relay() as relay:
        with theatre.director("killed") as doomed:
            relay.in_charge = doomed.address

            def lose() -> None:
                relay.in_charge = theatre.orchestrator.address
                doomed.kill()

            relay.before[Step(KILLED_IN, 2)] = lose
            with theatre.worker("twice", relay.address) as worker:
                await audience.follow(worker.address)
                dropped = await asyncio.to_thread(theatre.steps_dropped, "twice")
    assert_whole(audience)
    assert latents(await store.load_snapshot("short-lived")) == undisturbed
    lost, *later = relay.of("short-lived")
    assert lost.begun == [Step(KILLED_IN, 0), Step(KILLED_IN, 1)], "what was made in vain"
    assert dropped >= len(lost.begun)
    made = [step for stream in (lost, *later) for step in stream.ended]
    assert sorted(made) == sorted(set(made)), "no step of a chunk that was made is made again"
    assert {step.chunk_index for step in lost.ended} == set(range(KILLED_IN))
    assert {step.chunk_index for stream in later for step in stream.ended} == set(
        range(KILLED_IN, len(audience.media) // 2)
    )


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_an_interrupt_that_finds_no_worker_cuts_where_it_was_heard(theatre: Theatre, store: SessionStore) -> None:
    """SIGKILL, then an interrupt: the next worker keeps the words that had ended by the playhead, and no other."""
    await store.create_session(SessionConfig(regime=Regime.SCRIPTED, seed=SEED), session_id="heard")
    await store.append_cue("heard", Cue(1, CueKind.SAY, TEXT))
    audience = Audience("heard", theatre.chunk_s, plays=False)
    with theatre.worker("deaf", theatre.orchestrator.address) as doomed:
        await audience.follow(doomed.address, until=lambda so_far: so_far.next_offset >= 6)
        doomed.kill()
    playhead_s = 1.5 * theatre.chunk_s
    heard = [word.text for word in told(audience) if word.end.ToTimedelta().total_seconds() <= playhead_s]
    assert 0 < len(heard) < len(audience.words), "the playhead must part the words"
    await store.append_cue("heard", Cue(2, CueKind.INTERRUPT, playhead_s=playhead_s))
    await store.append_cue("heard", Cue(3, CueKind.SAY, "and this instead"))
    await store.append_cue("heard", Cue(4, CueKind.END))
    audience.plays = True
    await audience.follow(theatre.steady.address, media_offset=audience.next_offset)
    (retired,) = audience.of("retired")
    assert retired.first_position == 2, "the chunk under the playhead stays, those behind it go"
    snapshot = await store.load_snapshot("heard")
    assert " ".join(snapshot.transcript).split() == [*heard, *"and this instead".split()]
    assert [word.text for word in told(audience, retired.generation)] == "and this instead".split()
    assert audience.states[-1] == "CLOSED"


def told(audience: Audience, generation: int = 0) -> list[session_pb2.SpokenWord]:
    """The words that chunks of a generation told."""
    return [word for told in audience.of("progress") if told.generation == generation for word in told.words]


async def test_a_stranger_gets_a_reason(theatre: Theatre) -> None:
    """A claim of a session that does not exist is NOT_FOUND; a first message that is no claim is INVALID_ARGUMENT."""
    with pytest.raises(aio.AioRpcError) as unknown:
        await Audience("nobody", theatre.chunk_s).follow(theatre.steady.address)
    assert unknown.value.code().name == "NOT_FOUND"
    with pytest.raises(aio.AioRpcError) as empty:
        await Audience("", theatre.chunk_s).follow(theatre.steady.address)
    assert empty.value.code().name == "INVALID_ARGUMENT"


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("CUELIGHT_DEVICE", "abacus", "abacus"),
        ("CUELIGHT_BUNDLE", "/nowhere", "/nowhere"),
        ("CUELIGHT_WORKER_SLOTS", "0", "CUELIGHT_WORKER_SLOTS"),
        ("CUELIGHT_REDIS_URL", "redis://127.0.0.1:1/0", "store"),
    ],
)
def test_a_worker_that_cannot_start_says_why(theatre: Theatre, variable: str, value: str, words: str) -> None:
    """A bad setting or a missing part ends the process with one sentence, never with a traceback."""
    own = {name: text for name, text in os.environ.items() if not name.startswith("CUELIGHT_")}
    given = {"CUELIGHT_BUNDLE": str(theatre.bundle), "CUELIGHT_REDIS_START_TIMEOUT_S": "1", variable: value}
    ended = subprocess.run(
        [sys.executable, "-m", "dit_worker"],
        cwd=ROOT,
        env={**own, "OMP_NUM_THREADS": "1", **given},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert ended.returncode != 0
    assert words in ended.stderr
    assert "Traceback" not in ended.stderr
