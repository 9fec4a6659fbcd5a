"""A plan of faults follows from its seed alone and leaves nothing out."""

from __future__ import annotations

from collections import Counter

import pytest

from evaluation.chaos.plan import Cast, Kind, all_kinds, make_plan
from evaluation.chaos.viewers import conversation_part, scripted_part


def test_a_seed_is_a_plan() -> None:
    """The same seed gives the same faults, another one others; a short plan is the beginning of a longer one."""
    cast = Cast()
    assert make_plan(7, 50, cast) == make_plan(7, 50, cast)
    assert make_plan(7, 50, cast) != make_plan(8, 50, cast)
    assert make_plan(7, 20, cast) == make_plan(7, 50, cast)[:20]


def test_every_kind_comes_as_often_at_every_place() -> None:
    """Over a whole number of rounds nothing is left out and nothing comes more often."""
    rounds = 4
    faults = make_plan(3, rounds * len(all_kinds()), Cast())
    counts = Counter((fault.kind, fault.where) for fault in faults)
    assert set(counts) == set(all_kinds())
    assert set(counts.values()) == {rounds}
    assert {kind for kind, _ in counts} == set(Kind)


def test_kinds_can_be_looked_at_alone() -> None:
    """Only those that are named; a name that is none is refused."""
    assert {fault.kind for fault in make_plan(1, 9, Cast(), ["pause", "kill"])} == {Kind.PAUSE, Kind.KILL}
    with pytest.raises(ValueError, match="flood"):
        make_plan(1, 9, Cast(), ["flood"])


def test_targets_are_in_the_cast() -> None:
    """A fault hits a process that there is, or the lines of all."""
    cast = Cast(gateways=3, workers=2, orchestrators=1)
    names = {*cast.everyone, "all", "redis"}
    assert {fault.target for fault in make_plan(1, 400, cast)} <= names


def test_a_frozen_process_sleeps_longer_than_its_lease() -> None:
    """Otherwise nobody would take its sessions."""
    frozen = [fault for fault in make_plan(1, 400, Cast()) if fault.kind is Kind.FREEZE]
    assert frozen
    assert min(fault.lasts_s for fault in frozen) > 6.0


def test_parts_follow_from_their_seeds() -> None:
    """What viewers do is the same for the same seed, and ends with a sentence that is said to its end."""
    assert scripted_part(1, 4) == scripted_part(1, 4) != scripted_part(2, 4)
    part = conversation_part(5, turns=4)
    assert part == conversation_part(5, turns=4)
    assert [act.cue for act in part.acts[-2:]] == ["say", "end"]
    assert not part.acts[-2].is_barge_in
