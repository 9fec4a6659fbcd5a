"""Costs, the admission test, and when to ask again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dit_worker.engine.admission import FIRST_LIFE_S, Admission, AdmissionLimits, Load
from dit_worker.engine.costs import ChunkCost, Costs, RecentQuantile

CHUNK_S = 1.375
seconds = st.floats(0.001, 3.0)


def costs_of(total_s: float, quantum_s: float = 0.0) -> Costs:
    """Costs of a device on which every chunk takes the same."""
    costs = Costs(4)
    costs.add(ChunkCost(4, step_s=total_s / 4, condition_s=0.0, quantum_s=quantum_s))
    return costs


def test_a_chunk_costs_all_its_stages() -> None:
    """Motion, plan and progress, media, and per step its own time and its wait; fewer steps are counted as all."""
    cost = ChunkCost(2, step_s=0.05, condition_s=0.01, motion_s=0.02, direction_s=0.03, media_s=0.1, quantum_s=0.06)
    costs = Costs(4)
    costs.add(cost)
    assert cost.total_s(2) == pytest.approx(0.27)
    assert (costs.chunk_s, costs.quantum_s) == (pytest.approx(0.39), 0.06)


def test_a_chunk_that_was_decoded_lightly_counts_in_full() -> None:
    """Under pressure the cost of a chunk must not seem to fall, or more sessions would be taken."""
    costs = Costs(4)
    for is_light, media_s in ((False, 0.2), (True, 0.05)):
        costs.add(ChunkCost(4, step_s=0.05, condition_s=0.0, media_s=media_s, is_light=is_light))
    assert (costs.chunk_s, costs.media_s) == (pytest.approx(0.4), 0.2)


def test_conditions_that_are_waited_for_let_fewer_in() -> None:
    """The wait for orchestrators is part of what a chunk costs, so admission bounds what the fleet scales by."""
    taken = {}
    for condition_s in (0.01, 0.05, 0.2):
        costs = Costs(4)
        costs.add(ChunkCost(4, step_s=0.02, condition_s=condition_s))
        assert costs.condition_s == condition_s
        taken[condition_s] = Admission(costs, CHUNK_S, AdmissionLimits(bound=0.92)).free(Load(), 100)
    assert taken == {0.01: 10, 0.05: 4, 0.2: 1}


def test_a_quantile_follows_what_is_new_and_is_not_moved_by_one_chunk() -> None:
    """One slow chunk in forty is not the 95th percentile; a device that has become slower soon is."""
    recent = RecentQuantile(0.95, half_life=8)
    for number in range(40):
        recent.add(9.0 if number == 20 else 1.0)
    assert recent.value == 1.0
    for _ in range(4):
        recent.add(2.0)
    assert recent.value == 2.0
    assert RecentQuantile().value == 0.0


@given(st.lists(seconds, min_size=1, max_size=60), st.floats(0.01, 0.99))
def test_a_quantile_is_one_of_the_numbers_and_rises_with_its_share(numbers: list[float], share: float) -> None:
    """It never invents a figure."""
    lower, upper = RecentQuantile(share, half_life=8), RecentQuantile(1.0, half_life=8)
    for number in numbers:
        lower.add(number)
        upper.add(number)
    assert lower.value in numbers[-48:]
    assert lower.value <= upper.value == max(numbers[-48:])


def test_sessions_are_taken_up_to_the_bound() -> None:
    """With C = 0.29 s and q = 0.06 s four chunks of 1.375 s fit under 0.92 and a fifth does not."""
    admission = Admission(costs_of(0.29, 0.06), CHUNK_S, AdmissionLimits())
    assert admission.free(Load(), most=100) == 4
    assert admission.can_take(Load(performing=3))
    assert not admission.can_take(Load(performing=4))
    assert admission.utilisation(Load(performing=4)) == pytest.approx((4 * 0.29 + 0.06) / CHUNK_S)
    assert admission.free(Load(performing=1), most=2) == 2


def test_an_empty_device_takes_one_however_slow_it_is() -> None:
    """A worker that could never take anybody would be of no use; a second one is refused."""
    admission = Admission(costs_of(5.0), CHUNK_S, AdmissionLimits())
    assert admission.free(Load(), most=100) == 1
    assert not admission.can_take(Load(listening=1))


def test_listening_sessions_count_in_full_unless_told_otherwise() -> None:
    """With a share of a half twice as many listeners are borne."""
    plain = Admission(costs_of(0.4), CHUNK_S, AdmissionLimits())
    assert not plain.can_take(Load(listening=3))
    assert Admission(costs_of(0.4), CHUNK_S, AdmissionLimits(listening_share=0.5)).can_take(Load(listening=4))


@given(seconds, seconds, st.floats(0.1, 2.0), st.floats(0, 1), st.integers(0, 20), st.integers(0, 20))
def test_who_is_taken_passes_the_test(
    total_s: float, quantum_s: float, bound: float, share: float, performing: int, listening: int
) -> None:
    """After every session that is taken utilisation is within the bound, but for a first one."""
    admission = Admission(costs_of(total_s, quantum_s), CHUNK_S, AdmissionLimits(bound, share))
    before = Load(performing, listening)
    taken = admission.free(before, most=50)
    if taken > 1 or (taken == 1 and performing + listening > 0):
        assert admission.utilisation(Load(performing + taken, listening)) <= bound + 1e-6
    if taken < 50:
        assert not admission.can_take(Load(performing + taken, listening))


def test_the_retry_delay_is_when_the_first_session_is_expected_to_end() -> None:
    """Known ends count as they are, unknown ones by how long sessions last here; within a second and a minute."""
    admission = Admission(costs_of(0.3), CHUNK_S, AdmissionLimits())
    assert admission.retry_after_s([30.0, 12.0, None]) == 12.0
    assert admission.retry_after_s([None] * 4) == FIRST_LIFE_S / 4
    admission.ended(8.0)
    assert admission.retry_after_s([None, None, 30.0]) == 4.0
    assert admission.retry_after_s([0.1]) == 1.0
    assert admission.retry_after_s([600.0]) == 60.0
