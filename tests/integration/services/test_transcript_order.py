"""Any interleaving of cues, chunks, interrupts, discards and lost workers keeps the transcript: in order, none lost,
none twice. The store is held against a model that keeps words, not pointers.
"""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass, field

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from services.session import Cue, CueKind, SessionConfig, SessionSnapshot
from services.state import EmbeddedRedis, SessionStore
from tests.fakes.chunks import CHUNK_S, POLICY, WORDS_PER_CHUNK, Teller, commit_for, inputs_for, latents_of

WORD_S = CHUNK_S / WORDS_PER_CHUNK


@dataclass
class Audience:
    """What must have been said: words in order, and when each one spoken ends on the media clock."""

    accepted: list[str] = field(default_factory=list)
    spoken: list[tuple[str, float]] = field(default_factory=list)
    with_video: list[int] = field(default_factory=list)

    def perform(self, say: tuple[str, ...], position: int) -> None:
        """A chunk that speaks the next few words."""
        self.accepted += [word for piece in say for word in piece.split()]
        coming = self.accepted[len(self.spoken) :][:WORDS_PER_CHUNK]
        self.spoken += [(word, position * CHUNK_S + (n + 1) * WORD_S) for n, word in enumerate(coming)]
        self.with_video = [*self.with_video, position][-POLICY.run_ahead_chunks - 1 :]
        if self.with_video[0] == 1 and len(self.with_video) <= POLICY.run_ahead_chunks:
            self.with_video.insert(0, 0)  # after a cut this far back, the sink is one of the newest again

    def interrupt(self, playhead_s: float) -> None:
        """Nothing counts that was not heard."""
        place = math.floor(playhead_s / CHUNK_S + 1e-6)
        parent = next((p for p in self.with_video if p >= place), max(self.with_video, default=-1))
        self.with_video = [p for p in self.with_video if p <= parent]
        self.spoken = [(word, end_s) for word, end_s in self.spoken if end_s <= playhead_s + 1e-6]
        self.accepted = [word for word, _ in self.spoken]


@dataclass
class Stage:
    """A client and a worker on one session, and the model beside them."""

    store: SessionStore
    teller: Teller
    audience: Audience
    sent: int = 0
    owners: int = 0
    first_certain: int = 1
    """Cues from here on must be spoken whatever came before."""

    async def say(self, words: int) -> None:
        """The client sends a cue, and once more because it got no answer."""
        self.sent += 1
        text = " ".join(f"{self.sent}.{n}" for n in range(words))
        for expected in (True, False):
            assert await self.store.append_cue("s", Cue(self.sent, CueKind.SAY, text)) is expected

    async def chunk(self, lost_at: str) -> None:
        """One chunk; the worker is lost before some step of it, and the next one goes on from the snapshot."""
        if lost_at == "begin":
            await self._lose_worker()
        snapshot = await self._snapshot()
        cues = await self.store.read_cues("s", snapshot.cue_cursor)
        planned = inputs_for(
            snapshot, say=tuple(cue.text for cue in cues), cue_cursor=cues[-1].client_seq if cues else None
        )
        inputs = await self.store.write_inputs(self.teller.lease, snapshot.pending or planned)
        if lost_at == "steps":
            await self._lose_worker()
            await self.say(2)  # comes too late for the chunk that is redone
            redone = (await self._snapshot()).pending
            assert redone == inputs
        epoch = self.teller.lease.epoch
        await self.store.put_latents(self.teller.lease, inputs.chunk_index, *latents_of(inputs.chunk_index, epoch))
        commit = commit_for(snapshot, inputs)
        await self.store.commit(self.teller.lease, commit)
        await self.store.commit(self.teller.lease, commit)
        self.audience.perform(inputs.say, inputs.position)

    async def interrupt(self, back_chunks: float, *, is_planned: bool) -> None:
        """The client interrupts while a chunk is in the making, or between two."""
        if is_planned:
            snapshot = await self._snapshot()
            cues = await self.store.read_cues("s", snapshot.cue_cursor)
            if snapshot.pending is None:
                inputs = inputs_for(snapshot, say=tuple(cue.text for cue in cues))
                await self.store.write_inputs(self.teller.lease, inputs)
        snapshot = await self._snapshot()
        playhead_s = max(0.0, (snapshot.next_position - back_chunks) * CHUNK_S)
        self.sent += 1
        await self.store.append_cue("s", Cue(self.sent, CueKind.INTERRUPT, playhead_s=playhead_s))
        await self.store.interrupt(self.teller.lease, playhead_s, cue_cursor=self.sent)
        self.audience.interrupt(playhead_s)
        self.first_certain = self.sent + 1

    async def discard(self, back_chunks: float) -> None:
        """Idle chunks make way."""
        snapshot = await self._snapshot()
        await self.store.discard_idle(self.teller.lease, (snapshot.next_position - back_chunks) * CHUNK_S)
        after = await self._snapshot()
        self.audience.with_video = [p for p in self.audience.with_video if p < after.next_position]

    async def check(self) -> SessionSnapshot:
        """The store says what the model says."""
        snapshot = await self._snapshot()
        stored = [word for piece in snapshot.transcript for word in piece.split()]
        assert stored == self.audience.accepted
        assert snapshot.pointer_word == len(self.audience.spoken)
        assert stored == sorted(set(stored), key=lambda word: tuple(map(int, word.split("."))))
        assert [c.commit.position for c in snapshot.chunks if c.video is not None] == self.audience.with_video
        return snapshot

    async def finish(self) -> None:
        """In the end all is said that was sent since the last interrupt."""
        while True:
            snapshot = await self.check()
            is_all_said = snapshot.pending is None and snapshot.pointer_word == len(self.audience.accepted)
            if is_all_said and not await self.store.read_cues("s", snapshot.cue_cursor):
                break
            await self.chunk("")
        said = {int(word.split(".")[0]) for word, _ in self.audience.spoken}
        assert set(range(self.first_certain, self.sent + 1)) <= said

    async def _snapshot(self) -> SessionSnapshot:
        return await self.store.load_snapshot("s")

    async def _lose_worker(self) -> None:
        self.owners += 1
        self.teller = await self.teller.handed_to(f"worker-{self.owners}")


_BACK = st.integers(0, 9).map(lambda thirds: thirds / 3 - 0.2)
_STEPS = st.one_of(
    st.tuples(st.just("say"), st.integers(1, 7)),
    st.tuples(st.just("chunk"), st.sampled_from(["", "", "", "begin", "steps"])),
    st.tuples(st.just("chunk"), st.just("")),
    st.tuples(st.just("interrupt"), _BACK, st.booleans()),
    st.tuples(st.just("discard"), _BACK),
)


async def _run(url: str, steps: list[tuple]) -> None:  # type: ignore[type-arg]  # one tuple shape for each step
    async with SessionStore.connect(url, call_timeout_s=20) as store:
        await store.create_session(SessionConfig(), session_id="s")
        lease = await store.acquire_lease("s", "worker-0", POLICY)
        assert lease is not None
        stage = Stage(store, Teller(store, lease), Audience())
        for name, *arguments in steps:
            if name == "say":
                await stage.say(*arguments)
            elif name == "chunk":
                await stage.chunk(*arguments)
            elif name == "interrupt":
                await stage.interrupt(arguments[0], is_planned=arguments[1])
            else:
                await stage.discard(*arguments)
            await stage.check()
        await stage.finish()


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    phases=[Phase.explicit, Phase.generate, Phase.shrink],  # explaining traces every line, of Redis too
)
@given(steps=st.lists(_STEPS, max_size=14))
def test_transcript_keeps_its_order(redis_server: EmbeddedRedis, steps: list[tuple]) -> None:  # type: ignore[type-arg]
    """None lost, none twice, in the order of the cues, whatever happens in whatever order."""
    redis_server.flush()
    asyncio.run(_run(redis_server.url, steps))
