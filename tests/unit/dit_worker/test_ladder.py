"""Fewer steps when there is no time for all."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dit_worker.engine.ladder import CALM_CHUNKS, Ladder, Pace, Rung, Rungs


def test_as_many_steps_as_there_is_time_for() -> None:
    """Down at once: with 0.1 s a step, 0.35 s are enough for three and 0.1 s for the floor."""
    ladder = Ladder(Rungs(4, 2))
    assert ladder.choose(0.8, 0.1) == Rung(4)
    assert ladder.choose(0.35, 0.1) == Rung(3)
    assert ladder.choose(0.1, 0.1) == Rung(2)
    assert not ladder.is_full


def test_below_the_floor_is_the_light_decoder() -> None:
    """Where there is one, and only when the floor's steps have no time either; from there the way up is the same."""
    ladder = Ladder(Rungs(4, 2, has_light=True))
    assert ladder.choose(0.2, 0.1) == Rung(2)
    assert ladder.choose(0.19, 0.1) == Rung(2, is_light=True)
    climbed = [ladder.choose(9.0, 0.1) for _ in range(3 * CALM_CHUNKS)]
    assert climbed[CALM_CHUNKS - 2] == Rung(2, is_light=True)
    assert climbed[CALM_CHUNKS - 1 :: CALM_CHUNKS] == [Rung(2), Rung(3), Rung(4)]
    assert ladder.is_full


def test_up_again_a_rung_at_a_time_and_not_at_the_first_chance() -> None:
    """Several chunks in a row must have had the time."""
    ladder = Ladder(Rungs(4, 2))
    ladder.choose(0.0, 0.1)
    chosen = [ladder.choose(9.0, 0.1) for _ in range(2 * CALM_CHUNKS)]
    assert [rung.steps for rung in chosen] == [2] * (CALM_CHUNKS - 1) + [3] * CALM_CHUNKS + [4]
    ladder.choose(0.0, 0.1)
    ladder.choose(9.0, 0.1)
    assert ladder.choose(0.0, 0.1) == Rung(2)
    assert [ladder.choose(9.0, 0.1) for _ in range(CALM_CHUNKS - 1)] == [Rung(2)] * (CALM_CHUNKS - 1)


@given(
    st.integers(1, 8).flatmap(lambda full: st.tuples(st.just(full), st.integers(1, full))),
    st.booleans(),
    st.lists(st.tuples(st.floats(-5, 5), st.floats(0, 1)), max_size=40),
)
def test_it_never_leaves_its_rungs(rungs: tuple[int, int], has_light: bool, chunks: list[tuple[float, float]]) -> None:
    """Whatever the slack, a chunk gets no fewer steps than the floor, no more than the bundle's, and no decoder that
    the bundle does not have; up goes one rung at a time."""
    full, floor = rungs
    ladder = Ladder(Rungs(full, floor, has_light=has_light))
    for left_s, step_s in chunks:
        before = ladder.rung
        after = ladder.choose(left_s, step_s)
        assert floor <= after.steps <= full
        assert not after.is_light or (has_light and after.steps == floor)
        assert after.steps - after.is_light <= before.steps - before.is_light + 1


def test_a_floor_above_the_top_is_refused() -> None:
    """So is a floor of no steps."""
    for full, floor in ((4, 5), (4, 0)):
        with pytest.raises(ValueError, match="floor"):
            Rungs(full, floor)


def test_the_pace_follows_what_chunks_take_of_late() -> None:
    """Per step, from wanted to done."""
    pace = Pace()
    assert pace.step_s == 0.0
    pace.add(4, 0.4)
    assert pace.step_s == pytest.approx(0.1)
    for _ in range(30):
        pace.add(2, 0.4)
    assert pace.step_s == pytest.approx(0.2, rel=0.01)
