"""What holds of the engine whatever its sessions do, in any order: found by trying to break it."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from dit_worker.engine.engine import Engine, EngineLimits, Outcome, Standing
from dit_worker.engine.loader import Models
from dit_worker.engine.performance import ChunkLatents, StepRequest
from tests.fixtures.plays import STEPS, Play, condition_for, portrait

SEEDS = (1, 2, 3)
SLOTS = 2
MOST_CHUNKS = 5
names = st.sampled_from([f"s{seed}" for seed in SEEDS])


class Undisturbed:
    """What each session performs when it is alone, as far as anybody asked: nothing is ever built a second time.

    What a chunk leaves behind is computed before its commit, as in a worker, so that it is the committed keys and
    values that those rebuilt from latents are compared with.
    """

    def __init__(self, models: Models) -> None:
        self._plays = {f"s{seed}": Play(Engine(models, lambda: 0.0), models, f"s{seed}", seed) for seed in SEEDS}

    @functools.cache  # noqa: B019  (it lives as long as its test)
    def chunk(self, name: str, index: int) -> ChunkLatents:
        """The chunk of that index, after all before it."""
        if index:
            self.chunk(name, index - 1)
        play = self._plays[name]
        for _ in play.advance(index, 1):
            while play.engine.step():
                pass
        return play.chunks[index]


class Theatre(RuleBasedStateMachine):
    """Three sessions on two slots, beside a plain account of where each stands."""

    models: Models
    alone: Undisturbed

    @initialize(done=st.tuples(*(st.integers(0, 2) for _ in SEEDS)))
    def open(self, done: tuple[int, ...]) -> None:
        """Everybody has performed some chunks, elsewhere."""
        self.engine = Engine(self.models, lambda: 0.0, limits=EngineLimits(slots=SLOTS))
        self.done = {f"s{seed}": chunks for seed, chunks in zip(SEEDS, done, strict=True)}
        self.asked: dict[str, StepRequest] = {}
        """Requests that wait for their condition."""
        self.supplied: set[str] = set()
        """Sessions whose step can run."""
        self.held: dict[str, ChunkLatents] = {}
        """Chunks that are finished and not committed."""
        for seed in SEEDS:
            self.engine.open(f"s{seed}", seed, portrait(seed * 20), self.standing(f"s{seed}"))

    def standing(self, name: str) -> Standing:
        if not (done := self.done[name]):
            return Standing()
        parent = self.alone.chunk(name, done - 1)
        return Standing(self.alone.chunk(name, 0).video, parent.video, parent.audio)

    def in_flight(self, name: str) -> bool:
        return name in self.asked or name in self.supplied

    @rule(name=names)
    def begin(self, name: str) -> None:
        """A second chunk is refused, and the first goes on."""
        if self.in_flight(name):
            with pytest.raises(ValueError, match="still in flight"):
                self.engine.begin(name, 99, STEPS, 0.0)
        elif name not in self.held and self.done[name] < MOST_CHUNKS:
            self.asked[name] = self.engine.begin(name, self.done[name], STEPS, float(self.done[name]))

    @rule(name=names)
    def supply(self, name: str) -> None:
        """One condition for each request."""
        if name not in self.asked:
            with pytest.raises(ValueError, match="is expected"):
                self.engine.supply(name, 0, np.zeros(self.models.condition_shape, np.float32))
            return
        request = self.asked.pop(name)
        self.engine.supply(name, request.step, condition_for(self.models, int(name[1:]), request))
        self.supplied.add(name)

    @rule(quanta=st.integers(1, 4))
    def step(self, quanta: int) -> None:
        """Each result is the next request, or the chunk as it comes out undisturbed, bit for bit."""
        for _ in range(quanta):
            self.one_quantum()

    @rule(name=names, is_prepared=st.booleans())
    def perform(self, name: str, is_prepared: bool) -> None:
        """A whole chunk, if nobody is in the way; what follows it may be computed before its commit, or after."""
        self.go_on(name, STEPS)
        while is_prepared and self.one_quantum():
            pass
        self.commit(name)

    @rule(name=names, steps=st.integers(1, STEPS))
    def go_on(self, name: str, steps: int) -> None:
        """Several steps of one session, its turn coming among the others' that have something to run."""
        if not self.in_flight(name):
            self.begin(name)
        for _ in range(steps):
            if name in self.asked:
                self.supply(name)
            while name in self.supplied and self.one_quantum():
                pass

    def one_quantum(self) -> bool:
        outcomes = self.engine.step()
        if not outcomes:
            self.nobody_could_run()
        for outcome in outcomes:
            self.take(outcome)
        return bool(outcomes)

    def take(self, outcome: Outcome) -> None:
        assert outcome.error is None, outcome.error
        if outcome.result is None:
            return
        self.supplied.remove(outcome.session_id)
        if isinstance(outcome.result, StepRequest):
            self.asked[outcome.session_id] = outcome.result
            return
        usual = self.alone.chunk(outcome.session_id, self.done[outcome.session_id])
        assert outcome.result.video.tobytes() == usual.video.tobytes()
        assert outcome.result.audio.tobytes() == usual.audio.tobytes()
        self.held[outcome.session_id] = outcome.result

    def nobody_could_run(self) -> None:
        """The device idles only when every step that could run waits for a slot, and all are held by live sessions."""
        if self.supplied:
            others = [name for name in self.done if self.in_flight(name) and name not in self.supplied]
            assert len(others) >= SLOTS

    @rule(name=names)
    def commit(self, name: str) -> None:
        """A finished chunk, once; nothing is left to commit of one that was aborted."""
        if self.held.pop(name, None) is None:
            with pytest.raises(AssertionError, match="nothing is held"):
                self.engine.commit(name)
            return
        self.engine.commit(name)
        self.done[name] += 1

    @rule(name=names, steps=st.integers(0, STEPS))
    def abort(self, name: str, steps: int) -> None:
        """Whatever was in flight or held, the session stands where it stood, with nothing to commit."""
        self.go_on(name, steps)
        self.engine.abort(name)
        self.asked.pop(name, None)
        self.supplied.discard(name)
        self.held.pop(name, None)
        with pytest.raises(AssertionError, match="nothing is held"):
            self.engine.commit(name)

    @rule(name=names)
    def evict(self, name: str) -> None:
        """Only those that are not live."""
        if self.in_flight(name):
            with pytest.raises(ValueError, match="in flight"):
                self.engine.evict(name)
        else:
            self.engine.evict(name)

    @rule(name=names)
    def restore(self, name: str) -> None:
        """Stand again where it stands, from latents alone, as another worker would."""
        self.engine.restore(name, self.standing(name))
        self.asked.pop(name, None)
        self.supplied.discard(name)
        self.held.pop(name, None)

    @invariant()
    def no_more_is_held_than_there_is(self) -> None:
        figures = self.engine.figures
        assert figures.held <= figures.slots == SLOTS


def test_no_order_of_calls_changes_a_latent(models: Models) -> None:
    """Aborted, evicted, rebuilt or set back, every chunk that comes out is the one that comes out undisturbed."""
    alone = Undisturbed(models)

    def theatre() -> Theatre:
        machine = Theatre()
        machine.models, machine.alone = models, alone
        return machine

    few = settings(max_examples=20, stateful_step_count=40, deadline=None)
    run_state_machine_as_test(theatre, settings=few)
