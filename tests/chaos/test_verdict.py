"""What a run came to is counted as it was."""

from __future__ import annotations

from evaluation.chaos import rules, verdict
from evaluation.chaos.history import Committed, Ended, Event, History, Rendered, Stored

REFERENCE = {"scripted-1": {0: "aa", 1: "bb"}}


def committed(session: str, chunk: int, digest: str) -> Committed:
    """A chunk that the store held."""
    return Committed(0.0, session, chunk, 5, digest)


def test_chunks_are_compared_with_those_of_their_own_part() -> None:
    """A chunk that differs is counted; one that the reference has not, or of another part, is not compared."""
    events: list[Event] = [committed("s1", 0, "aa"), committed("s1", 1, "XX"), committed("s1", 2, "cc")]
    history = History([*events, committed("s2", 0, "dd")])
    found = verdict.identical(history, {"s1": "scripted-1", "s2": "conversation-9"}, REFERENCE)
    assert found == {"compared": 2, "identical": 1}


def test_totals_count_what_is_lost_and_doubled() -> None:
    """By the rules that say so."""
    twice = [Rendered(0.0, "s1", offset, 1, 0, 0, 0, 5, 0, 33) for offset in (0, 0)]
    history = History([*twice, Stored(0.0, "s1", "closed", "w", 5, 0, 1, 1), Ended(0.0, "s1", "closed")])
    counted = verdict.totals(history, rules.check(history))
    assert (counted["lost"], counted["doubled"], counted["media"]) == (0, 1, 2)
    assert counted["watched"] == {"closed": 1}


def test_a_row_for_each_kind_and_one_for_none() -> None:
    """Faults that could not be done are in no row; gaps are over all viewers of a kind."""
    fault = {"kind": "kill", "where": "worker"}
    outcomes = [
        {"fault": fault, "recovered_s": 4.0, "gaps_s": [1.0, 3.0], "note": ""},
        {"fault": fault, "recovered_s": None, "gaps_s": [5.0], "note": ""},
        {"fault": {"kind": "disk-full", "where": "disk"}, "recovered_s": None, "gaps_s": [], "note": "no leave"},
    ]
    none, kill = verdict.by_kind(outcomes, [0.5])
    assert (none["kind"], none["gap_p50_s"]) == (verdict.UNDISTURBED, 0.5)
    assert (kill["faults"], kill["recovered"], kill["gap_p50_s"], kill["gap_max_s"]) == (2, 1, 3.0, 5.0)
    assert verdict.table([none, kill]).splitlines()[-1] == "| kill | worker | 2 | 1 | 3.00 | 4.80 | 5.00 |"
