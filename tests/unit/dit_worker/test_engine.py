"""The engine, driven from a script: what it computes does not depend on caches, company or interruptions."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from dit_worker.engine.arrays import to_array, to_tensor
from dit_worker.engine.cache import Latents, SessionCache
from dit_worker.engine.engine import Engine, Standing
from dit_worker.engine.errors import SessionNotOpen
from dit_worker.engine.loader import Models
from dit_worker.engine.performance import ChunkLatents, StepRequest
from dit_worker.engine.slots import Slots, SlotSizes
from dit_worker.engine.warmup import warm_up
from tests.fixtures.plays import STEPS, Play, assert_same_bits, condition_for, perform


def test_the_same_seed_gives_the_same_bits(models: Models) -> None:
    """Two runs agree bit for bit; another seed gives something else."""
    first = perform(models, seed=3, chunks=3)
    assert_same_bits(first, perform(models, seed=3, chunks=3))
    assert not np.array_equal(first[0].audio, perform(models, seed=4, chunks=1)[0].audio)
    assert not np.array_equal(first[1].video, first[2].video)


def test_sessions_in_turn_give_what_each_gives_alone(models: Models) -> None:
    """Three sessions that share the engine step by step get the latents they get alone, bit for bit."""
    engine = Engine(models, time.monotonic)
    plays = [Play(engine, models, f"s{seed}", seed) for seed in (1, 2, 3)]
    turns = [play.advance(0, 3) for play in plays]
    while turns:
        turns = [turn for turn in turns if next(turn, turns) is not turns]
    for play in plays:
        assert_same_bits(play.chunks, perform(models, play.seed, 3))


def test_another_engine_goes_on_from_latents(models: Models) -> None:
    """Caches rebuilt from latents alone give the bits of an undisturbed run, from any chunk on."""
    whole = perform(models, seed=5, chunks=4)
    for done in (1, 2, 3):
        standing = Standing(whole[0].video, whole[done - 1].video, whole[done - 1].audio)
        play = Play(Engine(models, time.monotonic), models, "heir", 5, standing)
        for _ in play.advance(done, 4 - done):
            pass
        assert_same_bits(play.chunks, whole[done:])


def test_cached_and_uncached_forwards_agree(models: Models) -> None:
    """Velocity over the caches equals the one masked sequence without them, before, at and after the first chunk."""
    dit = models.dit
    torch.manual_seed(0)
    reference, first, parent = (torch.randn(1, 16, frames, 8, 8) for frames in (1, 9, 9))
    audio = torch.randn(1, 33, 24)
    noisy = torch.randn(1, 16, 9, 8, 8), torch.randn(1, 33, 24), torch.tensor([0.75]), torch.randn(1, 33, 40)
    cases = [
        (None, None, {"reference": reference}),
        (first, first, {"reference": reference, "sink": first, "motion": first}),
        (first, parent, {"reference": reference, "sink": first, "motion": parent}),
    ]
    for sink, motion, blocks in cases:
        slots = Slots(1, SlotSizes(dit.encode_condition("reference", reference), dit.config.video_latents))
        cache = SessionCache(dit, slots, "s", reference)
        cache.restore(sink, None if motion is None else Latents(motion, audio))
        while cache.is_stale:
            cache.refresh()
        known = cache.conditions()
        cached = dit.velocity(known.memory, *noisy, known.audio_motion, known.audio_motion_mask)
        plain = dit(blocks, *noisy, known.audio_motion, known.audio_motion_mask)
        for fast, slow in zip(cached, plain, strict=True):
            torch.testing.assert_close(fast, slow, rtol=1e-4, atol=1e-5)
            assert float(slow.abs().max()) > 0.01


def test_an_aborted_chunk_leaves_no_trace(models: Models) -> None:
    """A chunk given up at any step, or finished and not committed, changes nothing of what comes after."""
    engine = Engine(models, time.monotonic)
    play = Play(engine, models, "s", 6)
    for _ in play.advance(0, 1):
        pass
    for steps in range(STEPS + 1):
        request: StepRequest | ChunkLatents = engine.begin("s", 7, STEPS, 1.0)
        for _ in range(steps):
            assert isinstance(request, StepRequest)
            engine.supply("s", request.step, condition_for(models, 6, request))
            request = play.result()
        engine.abort("s")
    for _ in play.advance(1, 2):
        pass
    assert_same_bits(play.chunks, perform(models, seed=6, chunks=3))


def test_a_session_can_be_set_back(models: Models) -> None:
    """After an interrupt the next chunk follows the chunk that was heard last, as if the others had never been."""
    engine = Engine(models, time.monotonic)
    play = Play(engine, models, "s", 8)
    for _ in play.advance(0, 3):
        pass
    heard = play.chunks[1]
    engine.restore("s", Standing(play.chunks[0].video, heard.video, heard.audio))
    for _ in play.advance(3, 1):
        pass
    other = Play(
        Engine(models, time.monotonic), models, "o", 8, Standing(play.chunks[0].video, heard.video, heard.audio)
    )
    for _ in other.advance(3, 1):
        pass
    assert_same_bits(play.chunks[3:], other.chunks)


def test_what_does_not_fit_is_refused(models: Models) -> None:
    """A condition out of turn or out of shape, an unknown session and a second begin are errors, not surprises."""
    engine = Engine(models, time.monotonic)
    play = Play(engine, models, "s", 9)
    with pytest.raises(ValueError, match="no condition"):
        engine.supply("s", 0, np.zeros(models.condition_shape, np.float32))
    engine.begin("s", 0, STEPS, 1.0)
    with pytest.raises(ValueError, match="shape"):
        engine.supply("s", 0, np.zeros((1, 2), np.float32))
    with pytest.raises(ValueError, match="no condition"):
        engine.supply("s", 1, np.zeros(models.condition_shape, np.float32))
    with pytest.raises(ValueError, match="in flight"):
        engine.begin("s", 1, STEPS, 1.0)
    with pytest.raises(SessionNotOpen):
        engine.begin("nobody", 0, STEPS, 1.0)
    engine.close("s")
    engine.close("s")
    assert play.chunks == []


def test_a_fault_is_its_sessions_alone(models: Models) -> None:
    """A condition that is not a number ends its own session; the neighbour goes on undisturbed."""
    engine = Engine(models, time.monotonic)
    healthy = Play(engine, models, "healthy", 1)
    Play(engine, models, "broken", 2)
    engine.begin("broken", 0, STEPS, 0.0)
    for step in range(STEPS):
        engine.supply("broken", step, np.full(models.condition_shape, np.nan, np.float32))
        outcomes = [outcome for done in iter(engine.step, []) for outcome in done if outcome.session_id == "broken"]
    assert "finite" in str(outcomes[-1].error)
    for _ in healthy.advance(0, 2):
        pass
    assert_same_bits(healthy.chunks, perform(models, seed=1, chunks=2))


def test_bfloat16_stays_near_float32(models: Models) -> None:
    """The one switch for faster arithmetic changes how exactly latents come out, and not which."""
    exact = perform(models, seed=3, chunks=2)
    rounded = perform(replace(models, is_autocast=True), seed=3, chunks=2)
    for one, other in zip(exact, rounded, strict=True):
        assert not np.array_equal(one.video, other.video)
        assert np.abs(one.video - other.video).mean() < 0.1 * np.abs(one.video).mean()
        assert np.abs(one.audio - other.audio).mean() < 0.1 * np.abs(one.audio).mean()


def test_arrays_are_copies() -> None:
    """What crosses the engine's border shares no memory with what stays inside."""
    array = np.ones((2, 3), np.float32)
    tensor = to_tensor(array)
    array[:] = 5
    assert float(tensor.max()) == 1.0
    back = to_array(tensor)
    tensor.fill_(7)
    assert float(back.max()) == 1.0


def test_warming_up_leaves_no_trace(models: Models) -> None:
    """After the warm-up a session gives the same bits as in a fresh engine."""
    engine = Engine(models, time.monotonic)
    warm_up(engine, models)
    assert engine.step() == [] and engine.figures.held == 0 and engine.figures.rebuild_s > 0
    play = Play(engine, models, "s", 3)
    for _ in play.advance(0, 2):
        pass
    assert_same_bits(play.chunks, perform(models, seed=3, chunks=2))
