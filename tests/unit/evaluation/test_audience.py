"""What is read of processes, and how clients' figures are set beside metrics."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.sessions import ADMITTED, PLAIN, SWEPT, compare_answers, counted, expected_ttfcs, kept, read_rows
from dit_worker.capacity.audience import Audience, Entry, Experience, Line
from dit_worker.capacity.theatre import Policy
from evaluation.audience.house import GATEWAY, WORKER, cpu_s, memory_mib, settings_of
from evaluation.audience.observation import agreement, known_viewer
from evaluation.audience.viewer import Arrival, Asked, Assignment, Seen
from services.settings import WorkerSettings, read


def test_a_policy_is_what_a_worker_runs_with(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every setting that a policy names is one a worker reads, and has its value there."""
    policy = Policy("chunk_fifo", None, 0.5, 3, None, 0.7, 0.3, slots=9)
    for name, value in settings_of(policy, steps=4).items():
        monkeypatch.setenv(name, value)
    settings = read(WorkerSettings)
    assert (settings.schedule_order, settings.utilisation_bound, settings.listening_share) == ("chunk_fifo", 100, 0.5)
    assert (settings.run_ahead_chunks, settings.fidelity_floor_steps, settings.worker_slots) == (3, 4, 9)
    assert (settings.first_chunk_target_ms, settings.deadline_margin_ms) == (700, 300)
    assert settings_of(replace(policy, utilisation_bound=0.8), 4)["CUELIGHT_UTILISATION_BOUND"] == "0.8"


def test_processes_are_read_from_outside() -> None:
    """This process has taken processor time and memory, and more of the former after some work."""
    before = cpu_s(os.getpid())
    sum(number * number for number in range(3_000_000))
    assert cpu_s(os.getpid()) > before > 0
    assert 0 < memory_mib(os.getpid())["pss"] <= memory_mib(os.getpid())["rss"]


def test_clients_and_metrics_stand_side_by_side() -> None:
    """Only what rose in between counts, and only of the samples and labels meant."""
    arrival = Arrival(1.0, 0, lead_s=-0.1, rtf=0.5, compute_rtf=0.4, skew_s=0.0, is_answer=False)
    seen = [
        Seen(Experience(ttfcs_s=[0.3]), [arrival, replace(arrival, lead_s=0.2)], notices=["FIDELITY_CHANGED", "OTHER"]),
        Seen(Experience(), refused=True),
    ]
    before = {WORKER: {'cuelight_chunks_total{kind="idle"}': 5.0}, GATEWAY: {}}
    after = {
        WORKER: {
            'cuelight_chunks_total{kind="idle"}': 6.0,
            'cuelight_chunks_total{kind="speech"}': 1.0,
            'cuelight_chunk_deadlines_total{result="kept"}': 1.0,
            'cuelight_chunk_deadlines_total{result="missed"}': 1.0,
            'cuelight_fidelity_chunks_total{steps="4"}': 1.0,
            'cuelight_fidelity_chunks_total{steps="2"}': 1.0,
            "cuelight_ttfc_seconds_sum": 0.25,
            "cuelight_ttfc_seconds_count": 1.0,
        },
        GATEWAY: {'cuelight_refusals_total{reason="NO_CAPACITY"}': 1.0},
    }
    found = agreement(seen, before, after, steps=4)
    assert found["chunks"] == [2, 2.0]
    assert found["answers"] == [1, 1.0] and found["ttfc_mean_s"] == [0.3, 0.25]
    assert found["in_time"] == [0.5, 0.5]
    assert found["told_of_fewer_steps"] == [1, 1.0]
    assert found["refused"] == [1, 1.0]


def test_what_is_kept_is_told_by_undisturbed_runs() -> None:
    """A run beside which others worked counts only where there is no better; one session is the same in every order."""
    fifo = "chunk FIFO"
    rows = [
        {"policy": PLAIN, "sessions": 1, "clean": 1.0, "others": 0.01},
        {"policy": PLAIN, "sessions": 1, "clean": 0.0, "others": 0.5},
        {"policy": PLAIN, "sessions": 2, "clean": 0.5, "others": 0.02},
        {"policy": fifo, "sessions": 2, "clean": 1.0, "others": 0.3},
        {"policy": fifo, "sessions": 2, "clean": 0.0, "others": 0.4},
        {"policy": fifo, "sessions": 3, "clean": 0.0, "others": 0.0},
    ]
    chosen = counted(rows)
    assert chosen == [rows[0], rows[2], rows[3], rows[5]]
    assert (kept(chosen, PLAIN), kept(chosen, fifo), kept([], PLAIN)) == (1, 2, 0)
    assert ADMITTED not in SWEPT


def test_answers_are_compared_one_by_one() -> None:
    """Each against the mean of its likenesses in simulated runs; disturbed and admitted runs do not count."""
    runs = [[Experience(ttfcs_s=[0.3, 0.5]), Experience()], [Experience(ttfcs_s=[0.5]), Experience(ttfcs_s=[9.0])]]
    assert expected_ttfcs(runs) == [[0.4], []]
    simulated = {"ttfcs_s": expected_ttfcs(runs)}
    counts = {"policy": PLAIN, "others": 0.01, "ttfcs_s": [[0.5, 0.7], [1.0]], "simulated": simulated}
    rows = [counts, {**counts, "others": 0.2}, {**counts, "policy": ADMITTED}]
    found = compare_answers(rows)
    assert found == {"count": 1, "mean": 0.8, "p50": 0.8, "p95": 0.8, "within_15_percent": 0.0}
    assert compare_answers(rows[1:]) == {"count": 0}


def test_a_viewer_is_known_by_what_it_asked_for() -> None:
    """An answer that ended has the chunks that came, one that was cut short as many as its words take, at least."""
    task = Assignment("", Audience(), enters_s=1.5, stays_s=20.0, chunk_s=1.375, ahead_s=2.75, seed=0)
    asked = [Asked(2.0, words=4, chunks=3, is_ended=True), Asked(9.0, words=10, chunks=1)]
    assert known_viewer(task, Seen(Experience(), asked=asked)) == Entry(1.5, 20.0, (Line(2.0, 3), Line(9.0, 3)))


def test_runs_of_an_earlier_file_tell_of_their_viewers(tmp_path: Path) -> None:
    """Else they could not be watched again by the simulator, and that is said before anything is measured."""
    path = tmp_path / "sessions.json"
    for rows in ([], [{"policy": PLAIN}]):
        path.write_text(json.dumps({"rows": rows}))
        with pytest.raises(ValueError, match="tell of their viewers"):
            read_rows(path)
    path.write_text(json.dumps({"rows": [{"viewers": []}]}))
    assert read_rows(path) == [{"viewers": []}]
