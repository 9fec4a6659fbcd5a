"""What a worker tells of itself: the right numbers under the names that the documentation has."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from dit_worker.engine.admission import Admission, AdmissionLimits, Load
from dit_worker.engine.costs import ChunkCost, Costs
from dit_worker.engine.engine import EngineFigures
from dit_worker.engine.pacing import FAR_S
from dit_worker.service.figures import Figures
from services.metrics import Metrics

PAGE = Path(__file__).resolve().parents[3] / "docs" / "capacity.md"


@pytest.fixture
def metrics() -> Iterator[Metrics]:
    """A worker's, not served."""
    made = Metrics("worker")
    yield made
    made.close()


def told(metrics: Metrics, name: str, **labels: str) -> float | None:
    """A sample's value."""
    return metrics.registry.get_sample_value(f"cuelight_{name}", labels)


def test_every_metric_of_the_page_is_told(metrics: Metrics) -> None:
    """What docs/capacity.md tells operators to watch is there."""
    families = {family.name for family in metrics.registry.collect()}
    [table] = re.findall(r"\| metric \| says \|\n(.*?)\n\n", PAGE.read_text(), re.DOTALL)
    named = {name.removesuffix("_total") for name in re.findall(r"`(cuelight_\w+)", table)}
    assert len(named) > 25
    assert named <= families


def test_the_engine_s_figures_are_told(metrics: Metrics) -> None:
    """Slots, bytes and rebuild time as they stand; of evictions and batched steps what came since they were told."""
    figures = Figures(metrics)
    figures.engine_stands(EngineFigures(4, 2, 3_053_568, evictions=5, rebuild_s=0.026, batched_steps=8))
    figures.engine_stands(EngineFigures(4, 3, 3_053_568, evictions=6, rebuild_s=0.03, batched_steps=12))
    assert (told(metrics, "cache_slots"), told(metrics, "cache_slots_held")) == (4, 3)
    assert told(metrics, "session_cache_bytes") == 3_053_568
    assert told(metrics, "cache_rebuild_seconds") == 0.03
    assert (told(metrics, "cache_evictions_total"), told(metrics, "batched_steps_total")) == (6, 12)


def test_what_admission_goes_by_is_told(metrics: Metrics) -> None:
    """Both sides of the test, C and q, and how many may be here."""
    costs = Costs(steps=4)
    costs.add(ChunkCost(4, 0.05, 0.01, media_s=0.1, quantum_s=0.06))
    admission = Admission(costs, 1.0, AdmissionLimits(bound=0.8))
    Figures(metrics).admission_stands(admission, costs, Load(performing=2), slots=2)
    assert told(metrics, "chunk_cost_seconds") == pytest.approx(0.34)
    assert told(metrics, "quantum_seconds") == pytest.approx(0.06)
    assert told(metrics, "utilisation") == pytest.approx(0.74)
    assert (told(metrics, "utilisation_bound"), told(metrics, "slots")) == (0.8, 2)


def test_how_deadlines_are_kept_is_told(metrics: Metrics) -> None:
    """The share of recent chunks, and every one of them; chunks of renders have no deadline."""
    figures = Figures(metrics)
    for slack_s in (0.5, -0.2, 0.1, FAR_S):
        figures.chunk_performed(slack_s=slack_s, is_idle=False, steps=3)
    assert told(metrics, "deadline_attainment") == pytest.approx(2 / 3)
    kept, missed = (told(metrics, "chunk_deadlines_total", result=result) for result in ("kept", "missed"))
    assert (kept, missed) == (2, 1)
    assert told(metrics, "slack_seconds_count") == 3
    assert told(metrics, "slack_seconds_bucket", le="0.0") == 1
    assert told(metrics, "fidelity_chunks_total", steps="3") == 4
    figures.chunk_published(compute_s=0.5, chunk_s=1.25)
    assert told(metrics, "rtf_sum") == pytest.approx(0.4)
