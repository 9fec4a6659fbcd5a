"""What a crowd before the door costs is told with its interval, from runs in which those inside were all let in."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from benchmarks.overload import ALONE, ARMS, CROWD, summary


def rows(*, missed: float, more: float) -> Iterator[dict[str, Any]]:
    """Three runs of each arm with four sessions of 100 chunks; a crowd has so much larger a share miss."""
    chance = random.Random(1)
    for arm in 3 * ARMS:
        share = missed + (more if arm != ALONE else 0.0)
        told = [[100, sum(chance.random() < share for _ in range(100))] for _ in range(4)]
        same = dict.fromkeys(("late", "clean", "ttfc_p50_s", "ttfc_p95_s", "stall_ratio", "slack_p5_s"), 0.0)
        yield {"arm": arm, "sessions": 4, "taken": 4, "by_session": told, **same}


def test_what_a_crowd_costs_is_told_from_nothing() -> None:
    """An interval that holds none where the crowd does nothing, and one that does not where it costs five points."""
    nothing = summary(list(rows(missed=0.03, more=0.0)))[CROWD]["points_more"]
    five = summary(list(rows(missed=0.03, more=0.05)))[CROWD]["points_more"]
    assert nothing["low"] <= 0 <= nothing["high"]
    assert 0 < five["low"] < 5 < five["high"]


def test_a_run_that_let_nobody_in_counts_for_nothing() -> None:
    """Whoever was refused misses no deadline, and must not make the others look good."""
    made = list(rows(missed=0.03, more=0.0))
    void = {**made[1], "taken": 0, "by_session": []}
    assert (told := summary([*made, void]))["void"] == 1
    assert told[CROWD] == summary(made)[CROWD]
    assert summary([{**row, "taken": 0} for row in made]) == {"void": 9}
