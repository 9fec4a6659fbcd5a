"""How long and how often a broken stream is opened again."""

from __future__ import annotations

from cuelight.patience import Patience
from cuelight.rpc import Timeouts


class Clock:
    """Time that passes when told to."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_pauses_are_drawn_from_nothing_to_a_growing_bound() -> None:
    """Full jitter: the first try comes at once, each bound is twice the one before, up to five seconds."""
    bounds: list[tuple[float, float]] = []

    def most(low: float, high: float) -> float:
        bounds.append((low, high))
        return high

    patience = Patience(Timeouts(recover_s=1000), Clock(), most)
    assert [patience.next_pause_s() for _ in range(9)] == [0.0, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0, 5.0]
    assert {low for low, _ in bounds} == {0.0}


def test_the_budget_is_seconds_and_tries() -> None:
    """Either ends it; what recovered begins with a whole budget again."""
    clock = Clock()
    patience = Patience(Timeouts(recover_s=10, recover_tries=2), clock, lambda low, _: low)
    assert [patience.next_pause_s(), patience.next_pause_s(), patience.next_pause_s()] == [0.0, 0.0, None]
    patience.recovered()
    assert patience.next_pause_s() == 0.0
    clock.now = 10.0
    assert patience.next_pause_s() is None


def test_a_server_that_says_when_is_asked_then() -> None:
    """From the second try on the pause is no shorter than the server asked for, and no longer than the budget."""
    clock = Clock()
    patience = Patience(Timeouts(recover_s=10), clock, lambda _, high: high)
    assert patience.next_pause_s(3.0) == 0.0
    assert patience.next_pause_s(3.0) == 3.0
    clock.now = 9.5
    assert patience.next_pause_s(3.0) == 0.5
