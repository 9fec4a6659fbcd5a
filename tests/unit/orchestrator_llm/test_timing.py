"""Word times from soft positions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator_llm.engine.timing import MAX_OVERHANG_S, ChunkClock

SECONDS = 1.375
positions = st.lists(st.floats(-5, 60), min_size=33, max_size=33)


def test_even_positions_give_even_times() -> None:
    """A pointer that moves 11 tokens in a chunk passes one every eighth of a second."""
    middle = (np.arange(33) + 0.5) / 3
    clock = ChunkClock(middle, 0.0, 11.0, SECONDS)
    assert [clock.reaches(token) for token in (0, 4, 11)] == pytest.approx([0, 0.5, SECONDS])


def test_a_word_over_the_border_ends_after_it() -> None:
    """Its end is estimated at the chunk's own pace, and bounded."""
    clock = ChunkClock(np.linspace(0, 11, 33), 0.0, 11.0, SECONDS)
    assert clock.reaches(13) == pytest.approx(SECONDS + 0.25)
    assert clock.reaches(500) == SECONDS + MAX_OVERHANG_S


def test_last_word_ends_when_it_is_last_heard() -> None:
    """Positions that stop just short of the end do not stretch the last word over the silence behind it."""
    spoken = np.minimum(np.arange(33) / 2, 9.7)
    clock = ChunkClock(spoken, 0.0, 10.0, SECONDS)
    assert clock.last_heard(10) < 0.9


@settings(deadline=None)
@given(positions, st.floats(0, 30), st.floats(0, 30))
def test_times_rise_with_tokens_whatever_the_positions(values: list[float], before: float, advance: float) -> None:
    """Times lie inside the chunk for tokens inside it and never fall."""
    clock = ChunkClock(np.array(values), before, before + advance, SECONDS)
    tokens = np.linspace(before, before + advance, 17)
    times = [clock.reaches(float(token)) for token in tokens]
    assert times == sorted(times)
    assert times[0] == 0.0
    assert times[-1] <= SECONDS + 1e-9
