"""Steps of several sessions as one: the same latents within a tolerance, only where it pays, and no harm to others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from dit_worker.engine import engine as engine_module
from dit_worker.engine.arrays import Floats
from dit_worker.engine.batching import Batches, is_finite, run_together
from dit_worker.engine.cache import SessionCache
from dit_worker.engine.engine import Engine, EngineLimits, Outcome, Standing
from dit_worker.engine.errors import NonFiniteLatents
from dit_worker.engine.loader import Models, load_models
from dit_worker.engine.performance import ChunkAddress, ChunkLatents, Performance, StepInputs, StepRequest
from dit_worker.engine.slots import Slots, SlotSizes
from dit_worker.model.dit import JointDiT, Velocity
from services.bundle import load_bundle
from tests.fixtures.plays import STEPS, assert_same_bits, condition_for, perform, portrait
from tests.fixtures.tiny_bundle import build_tiny_bundle

PAYS = {1: 1.0, 2: 1.2}
DOES_NOT_PAY = {1: 1.0, 2: 1.95}
FAR = 1e9
TOLERANCE = {"rtol": 1e-3, "atol": 1e-4}
"""Of latents, about 1 in size, after four steps in float32."""


@dataclass
class Cast:
    """Sessions of one engine, each with a chunk in flight, whose conditions come as soon as they are asked for."""

    models: Models
    engine: Engine
    requests: dict[str, StepRequest]
    chunks: dict[str, list[ChunkLatents]]
    errors: dict[str, Exception]
    sizes: list[int]
    """How many sessions each step was run for."""

    def begin(self, index: int, deadline: float = FAR) -> None:
        """The next chunk of everybody."""
        for name in self.chunks:
            self.requests[name] = self.engine.begin(name, index, STEPS, deadline)

    def run(self, change: Callable[[str, Floats], Floats] = lambda _, condition: condition) -> None:
        """Run until nobody has anything to do."""
        while True:
            for name, request in self.requests.items():
                seed = int(name[1:])
                self.engine.supply(name, request.step, change(name, condition_for(self.models, seed, request)))
            self.requests = {}
            outcomes = self.engine.step()
            if not outcomes:
                return
            self._take(outcomes)

    def _take(self, outcomes: Sequence[Outcome]) -> None:
        if any(outcome.result is not None for outcome in outcomes):
            self.sizes.append(len(outcomes))
        for outcome in outcomes:
            if outcome.error is not None:
                self.errors[outcome.session_id] = outcome.error
            elif isinstance(outcome.result, StepRequest):
                self.requests[outcome.session_id] = outcome.result
            elif isinstance(outcome.result, ChunkLatents):
                self.chunks[outcome.session_id].append(outcome.result)
                self.engine.commit(outcome.session_id)


def cast(models: Models, call_s: dict[int, float], *seeds: int, repeatable: tuple[int, ...] = ()) -> Cast:
    """Sessions on stage, in an engine to which batches take so long."""
    engine = Engine(models, lambda: 0.0, limits=EngineLimits(batch=2))
    engine.batches.learn(call_s)
    for seed in seeds:
        engine.open(f"s{seed}", seed, portrait(seed * 20), Standing(), is_repeatable=seed in repeatable)
    while engine.step():
        pass
    return Cast(models, engine, {}, {f"s{seed}": [] for seed in seeds}, {}, [])


def assert_near(one: ChunkLatents, other: ChunkLatents) -> None:
    """Within the tolerance that is stated."""
    np.testing.assert_allclose(one.video, other.video, **TOLERANCE)
    np.testing.assert_allclose(one.audio, other.audio, **TOLERANCE)


@torch.inference_mode()
def inputs_of(models: Models, seed: int, prompt: str) -> StepInputs:
    """A step of a session that stands before its first chunk."""
    dit, c = models.dit, models.dit.config
    assert models.prompts is not None
    words, longest = models.prompts(prompt)[None], models.manifest.prompt
    assert longest is not None
    picture = torch.randn(1, c.video_channels, 1, c.video_height, c.video_width)
    example = dit.encode_prompt(words, torch.ones(words.shape[:2], dtype=torch.bool))
    sizes = SlotSizes(dit.encode_condition("reference", picture), c.video_latents, example, longest.max_words)
    cache = SessionCache(dit, Slots(1, sizes), "s", picture)
    cache.ask(words)
    while cache.is_stale:
        cache.refresh()
    performance = Performance(dit, models.sampling, ChunkAddress(seed, 0, 1 + seed))
    return performance.inputs(cache.conditions(), torch.randn(1, c.audio_latents, c.condition_width))


@torch.inference_mode()
def test_rows_of_a_batch_are_what_each_is_alone(tmp_path: Path) -> None:
    """Three sessions under prompts of different lengths and at different times: no row sees another's words."""
    models = load_models(load_bundle(build_tiny_bundle(tmp_path / "tiny", reads_prompts=True)))
    steps = [
        inputs_of(models, seed, prompt) for seed, prompt in enumerate(["", "smiles", "looks left the wall is blue"])
    ]
    steps[1] = steps[1]._replace(t=torch.tensor([0.4]))
    assert len({step.prompt.mask.shape[-1] for step in steps if step.prompt is not None}) == 3
    for step, together in zip(steps, run_together(models.dit, steps), strict=True):
        [alone] = run_together(models.dit, [step])
        for fast, slow in zip(together, alone, strict=True):
            torch.testing.assert_close(fast, slow, rtol=1e-4, atol=1e-5)
            assert float(slow.abs().max()) > 0.01


def test_sessions_whose_steps_are_run_together_get_what_each_gets_alone(models: Models) -> None:
    """All steps of two sessions are run in pairs, over two chunks; latents agree with those of each alone."""
    both = cast(models, PAYS, 1, 2)
    for index in range(2):
        both.begin(index)
        both.run()
    assert both.sizes == [2] * (2 * STEPS)
    for name, chunks in both.chunks.items():
        for one, other in zip(chunks, perform(models, int(name[1:]), 2), strict=True):
            assert_near(one, other)


@pytest.mark.parametrize(
    ("call_s", "deadline", "repeatable"),
    [(DOES_NOT_PAY, FAR, ()), ({}, FAR, ()), (PAYS, STEPS + 0.1, ()), (PAYS, FAR, (2,))],
    ids=["does not pay", "was not measured", "is urgent", "must be repeatable"],
)
def test_steps_are_run_alone_where_they_should_be(
    models: Models, call_s: dict[int, float], deadline: float, repeatable: tuple[int, ...]
) -> None:
    """No gain, no slack, or a seed that is a promise: the latents are those of a session alone, bit for bit."""
    both = cast(models, call_s, 1, 2, repeatable=repeatable)
    both.begin(0, deadline)
    both.run()
    assert both.sizes == [1] * (2 * STEPS)
    for name, chunks in both.chunks.items():
        assert_same_bits(chunks, perform(models, int(name[1:]), 1))


def test_steps_of_different_shapes_are_not_put_together(models: Models) -> None:
    """A session's first chunk has no motion to attend to; it runs beside later chunks, not with them."""
    both = cast(models, PAYS, 1, 2)
    later = both.chunks.pop("s2")
    both.begin(0)
    both.run()
    both.chunks["s2"] = later
    both.requests = {"s1": both.engine.begin("s1", 1, STEPS, FAR), "s2": both.engine.begin("s2", 0, STEPS, FAR)}
    both.run()
    assert both.sizes == [1] * (3 * STEPS)


def test_who_breaks_a_batch_fails_alone(models: Models) -> None:
    """One session's condition is no number: it fails, and the other gets the very bits that it gets alone."""
    both = cast(models, PAYS, 1, 2)
    both.begin(0)
    both.run(lambda name, condition: condition if name == "s1" else np.full_like(condition, np.nan))
    assert list(both.errors) == ["s2"] and isinstance(both.errors["s2"], NonFiniteLatents)
    assert_same_bits(both.chunks["s1"], perform(models, 1, 1))


def test_a_batch_that_raises_is_run_one_by_one_and_not_tried_again(
    models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the device cannot run two steps together although it runs each, they are run alone from then on."""
    tried: list[int] = []

    def out_of_memory(dit: JointDiT, inputs: Sequence[StepInputs]) -> list[Velocity]:
        tried.append(len(inputs))
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(engine_module, "run_together", out_of_memory)
    both = cast(models, PAYS, 1, 2)
    both.begin(0)
    both.run()
    assert tried == [2] and both.errors == {} and both.engine.batches.sizes == []
    for name, chunks in both.chunks.items():
        assert_same_bits(chunks, perform(models, int(name[1:]), 1))


def test_measuring_batches_leaves_the_session_as_it_was(models: Models) -> None:
    """Sizes are the powers of two up to the most that is allowed, and the chunk comes out as if nothing was timed."""
    ticks = iter(range(10_000))
    engine = Engine(models, lambda: next(ticks), limits=EngineLimits(batch=5))
    alone = Cast(models, engine, {}, {"s1": []}, {}, [])
    engine.open("s1", 1, portrait(20), Standing())
    alone.begin(0)
    engine.supply("s1", 0, condition_for(models, 1, alone.requests["s1"]))
    engine.time_batches("s1")
    assert sorted(engine.batches.call_s) == [1, 2, 4]
    alone.requests = {}
    alone.run()
    assert_same_bits(alone.chunks["s1"], perform(models, 1, 1))


def test_a_size_pays_when_it_saves_more_than_noise() -> None:
    """The largest that pays comes first; a chunk joins only if it is in time although the call is longer."""
    batches = Batches(8)
    batches.learn({1: 1.0, 2: 1.89, 4: 3.85, 8: 7.2})
    assert batches.sizes == [8, 2]
    assert batches.leave_slack(2, left_s=4.9, steps_left=4)
    assert not batches.leave_slack(2, left_s=4.8, steps_left=4)
    assert not is_finite(Velocity(torch.zeros(1), torch.tensor([float("inf")])))
