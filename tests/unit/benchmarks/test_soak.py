"""The soak tells a rise from none, and a session that says all it was given from one that does not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from benchmarks.soak import ratio_of_means, sentences, slope, summarise
from services.bundle import Manifest, load_manifest

CHUNKS = 600


def rows(*, leak_kib: float = 0.0, slower: float = 1.0, hindered: float = 1.0) -> list[dict[str, Any]]:
    """A made-up run: noise, and what is asked for."""
    draw = np.random.default_rng(3)
    taken = 0.0
    made = []
    for chunk in range(CHUNKS):
        hindrance = hindered if chunk > CHUNKS / 2 else 1.0
        taken += hindrance * (slower if chunk > CHUNKS / 2 else 1.0) * float(draw.normal(0.3, 0.02))
        row: dict[str, Any] = {"chunk": chunk, "at_s": float(chunk), "compute_s": 0.3, "cpu_s": {"worker-0": taken}}
        row |= {"yardstick_s": hindrance * float(draw.normal(0.01, 0.0002))}
        row |= {"words": [2 * chunk, 2 * chunk + 1], "quality": [0.9] * 33}
        if chunk % 10 == 0:
            row["memory_mib"] = {"worker-0": 500 + leak_kib * chunk / 1024 + float(draw.normal(0, 0.1))}
        made.append(row)
    return made


@pytest.fixture
def manifest(pocket_bundle: Any) -> Manifest:
    """Geometry of the bundle."""
    return load_manifest(pocket_bundle)


def test_a_leak_is_told_from_none(manifest: Manifest) -> None:
    """Flat memory has a slope that may be zero, a leak of 20 KiB a chunk one that cannot."""
    flat = summarise(rows(), manifest)["memory"]["worker-0"]["kib_per_chunk"]
    leaky = summarise(rows(leak_kib=20), manifest)["memory"]["worker-0"]["kib_per_chunk"]
    assert flat["low"] < 0 < flat["high"]
    assert leaky["low"] < 20 < leaky["high"]
    assert leaky["low"] > 0


def test_a_chunk_that_gets_slower_is_told_from_one_that_does_not(manifest: Manifest) -> None:
    """The interval of the ratio holds what the ratio is."""
    same = summarise(rows(), manifest)["chunk_time"]["cpu_s"]["ratio_last_to_first"]
    slower = summarise(rows(slower=1.2), manifest)["chunk_time"]["cpu_s"]["ratio_last_to_first"]
    assert same["low"] < 1 < same["high"]
    assert slower["low"] < 1.2 < slower["high"]
    assert slower["low"] > 1.1


def test_what_other_work_costs_is_no_growth(manifest: Manifest) -> None:
    """Processor time that rises with the yardstick's is the machine's; what rises besides is the session's."""
    hindered = summarise(rows(hindered=1.3), manifest)
    both = summarise(rows(hindered=1.3, slower=1.2), manifest)
    for found, ratio in ((hindered, 1.0), (both, 1.2)):
        told = found["chunk_time"]["cpu_in_yardsticks"]["ratio_last_to_first"]
        assert told["low"] < ratio < told["high"] < 1.05 * told["low"]
    assert hindered["chunk_time"]["cpu_s"]["ratio_last_to_first"]["low"] > 1.25
    assert hindered["growth_in_yardsticks"]["low"] < 0 < hindered["growth_in_yardsticks"]["high"]
    assert both["growth_in_yardsticks"]["low"] > 0.1


def test_words_that_are_lost_or_doubled_are_told(manifest: Manifest) -> None:
    """Each word once and in order, or not."""
    made = rows()
    assert summarise(made, manifest)["words"]["are_each_once_in_order"]
    made[40]["words"] = [80]
    assert not summarise(made, manifest)["words"]["are_each_once_in_order"]


def test_a_run_that_is_too_short_is_refused(manifest: Manifest) -> None:
    """No figures of nothing."""
    with pytest.raises(ValueError, match="too few"):
        summarise(rows()[:100], manifest)


def test_intervals_are_around_their_values() -> None:
    """A straight line has its slope, and twice as much is twice as much."""
    at = np.arange(100.0)
    rise = slope(at, 3 * at)
    assert rise.low <= rise.value <= rise.high
    assert rise.value == pytest.approx(3)
    assert ratio_of_means(np.full(200, 2.0), np.full(200, 1.0)).value == pytest.approx(2)


def test_the_script_is_the_same_for_a_seed_and_never_ends() -> None:
    """Sentences come over and over, each time in another order."""
    script = sentences(1)
    first, second = [next(script) for _ in range(48)], [next(script) for _ in range(48)]
    assert sorted(first) == sorted(second)
    assert first != second
    again = sentences(1)
    assert first == [next(again) for _ in range(48)]
