"""Slots: memory that is taken once, shared by sessions, and lost only by those that are not live."""

from __future__ import annotations

import time

import pytest
import torch

from dit_worker.engine.engine import Engine, EngineLimits, Standing
from dit_worker.engine.errors import BadDevice
from dit_worker.engine.loader import Models
from dit_worker.engine.performance import ChunkLatents, StepRequest
from dit_worker.engine.slots import Slots, SlotSizes
from tests.fixtures.plays import STEPS, Play, assert_same_bits, condition_for, perform, portrait


def engine_of(models: Models, slots: int) -> Engine:
    """An engine with room for so many sessions' caches."""
    return Engine(models, time.monotonic, limits=EngineLimits(slots=slots))


def supplied(engine: Engine, models: Models, name: str, request: StepRequest) -> None:
    """Give a request its condition."""
    engine.supply(name, request.step, condition_for(models, 1, request))


def quanta_until_a_result(engine: Engine) -> int:
    """How many blocks of caches are computed before the next step."""
    for blocks in range(10):
        [outcome] = engine.step()
        assert outcome.error is None, outcome.error
        if outcome.result is not None:
            return blocks
    raise AssertionError("no step was run")


def sizes(models: Models) -> SlotSizes:
    """Of these models' slots."""
    c = models.dit.config
    portrait_latents = torch.zeros(1, c.video_channels, 1, c.video_height, c.video_width)
    return SlotSizes(models.dit.encode_condition("reference", portrait_latents), c.video_latents)


def test_sessions_that_share_one_slot_get_what_each_gets_alone(models: Models) -> None:
    """Each chunk evicts the other session; what is rebuilt from latents gives the same bits."""
    engine = engine_of(models, 1)
    plays = [Play(engine, models, f"s{seed}", seed) for seed in (1, 2)]
    for chunk in range(3):
        for play in plays:
            for _ in play.advance(chunk, 1):
                pass
    for play in plays:
        assert_same_bits(play.chunks, perform(models, play.seed, 3))
    assert engine.figures.evictions == 5
    assert engine.figures.rebuild_s > 0


def test_a_live_session_keeps_its_slot(models: Models) -> None:
    """While the only slot's holder has a chunk in flight, another waits; it runs as soon as that chunk is finished."""
    engine = engine_of(models, 1)
    holder = Play(engine, models, "holder", 1)
    performing = holder.advance(0, 1)
    next(performing)
    engine.open("other", 2, portrait(2), Standing())
    supplied(engine, models, "other", engine.begin("other", 0, STEPS, -1.0))
    assert engine.step() == []
    with pytest.raises(ValueError, match="in flight"):
        engine.evict("holder")
    assert engine.figures.evictions == 0
    for _ in performing:
        pass
    assert quanta_until_a_result(engine) == 1
    assert engine.figures.evictions == 1


def test_the_one_longest_unused_is_evicted(models: Models) -> None:
    """Of two idle sessions the one that was performed longer ago loses its slot."""
    slots = Slots(2, sizes(models))
    first, second = slots.take("a"), slots.take("b")
    slots.take("a")
    assert not slots.can_take("c")
    slots.pin("c")
    assert slots.take("c") is second
    assert slots.of("a") is first and slots.of("b") is None


def test_idle_sessions_take_free_slots_only(models: Models) -> None:
    """A session with nothing in flight is not rebuilt at another's expense, so that two idle ones never take turns."""
    engine = engine_of(models, 1)
    for name in ("a", "b"):
        engine.open(name, 1, portrait(1), Standing())
    while engine.step():
        pass
    assert engine.figures.held == 1 and engine.figures.evictions == 0
    engine.close("a")
    [outcome] = engine.step()
    assert outcome.session_id == "b"


def test_what_follows_is_computed_while_a_chunk_waits_for_its_commit(models: Models) -> None:
    """After the commit of a chunk, the first or any other, no block is missing; an abort leaves none of it."""
    engine = engine_of(models, 1)
    play = Play(engine, models, "s", 3)
    for index in range(3):
        request: StepRequest | ChunkLatents = engine.begin("s", index, STEPS, 0.0)
        while isinstance(request, StepRequest):
            supplied(engine, models, "s", request)
            request = play.result()
        while engine.step():
            pass
        engine.commit("s")
        assert engine.step() == []
        supplied(engine, models, "s", engine.begin("s", index + 1, STEPS, 0.0))
        assert quanta_until_a_result(engine) == 0
        engine.abort("s")


def test_standing_again_keeps_what_still_holds(models: Models) -> None:
    """After an interrupt only the motion is computed anew: portrait and first chunk are the same."""
    engine = engine_of(models, 1)
    play = Play(engine, models, "s", 4)
    for _ in play.advance(0, 3):
        pass
    heard = play.chunks[1]
    engine.restore("s", Standing(play.chunks[0].video, heard.video, heard.audio))
    supplied(engine, models, "s", engine.begin("s", 3, STEPS, 0.0))
    assert quanta_until_a_result(engine) == 1


def test_keys_and_values_are_views_of_memory_that_was_taken_once(models: Models) -> None:
    """Whatever is written, a slot's addresses stay; slots do not overlap, and their size is the one that is told."""
    slots = Slots(2, sizes(models))
    one, other = slots.take("a"), slots.take("b")
    before = [key.data_ptr() for key in one.upto("motion").keys]
    memory = one.upto("scratch")
    assert slots.bytes_per_session == memory.nbytes == sum(x.nbytes for x in (*memory.keys, *memory.values))
    other.write("reference", one.upto("reference"))
    one.write("scratch", models.dit.encode_condition("motion", torch.ones(1, 16, 9, 8, 8)))
    one.keep_scratch()
    after = one.upto("motion")
    assert [key.data_ptr() for key in after.keys] == before
    kept = one.upto("scratch").keys[0][:, :, after.keys[0].shape[2] :]
    assert torch.equal(after.keys[0][:, :, -kept.shape[2] :], kept)
    storages = {x.untyped_storage().data_ptr() for slot in (one, other) for x in slot.upto("scratch").keys}
    assert len(storages) == 1
    assert not set(before) & {key.data_ptr() for key in other.upto("motion").keys}


def test_more_slots_than_the_device_has_room_for_are_refused(models: Models) -> None:
    """The sentence says for how many sessions there is no room."""
    with pytest.raises(BadDevice, match="1000000000 sessions"):
        Slots(1_000_000_000, sizes(models))
