"""Simulated viewers before a stack of its own, in short: what `benchmarks/sessions.py` does at length."""

from __future__ import annotations

from pathlib import Path

import pytest

from dit_worker.capacity.audience import Audience
from dit_worker.capacity.theatre import Policy
from evaluation.audience.crowd import Crowd
from evaluation.audience.house import WORKER, House, settings_of
from evaluation.audience.observation import Geometry, observe
from services.bundle import load_manifest


@pytest.mark.timeout(360)
async def test_what_viewers_see_is_what_the_worker_tells(stack_bundle: Path) -> None:
    """Two viewers get media in real time, and the worker's metrics count the chunks and answers that they count."""
    manifest = load_manifest(stack_bundle)
    geometry = Geometry(manifest.chunk_seconds, manifest.sampler.steps)
    policy = Policy(utilisation_bound=None, slots=8)
    audience = Audience(run_s=6.0, sessions=2, talk_s=1.0, listen_s=1.0)
    async with Crowd() as crowd, House(stack_bundle, settings_of(policy, geometry.steps)) as house:
        row = await observe(house, crowd, policy, audience, geometry, seed=1)
    assert (row["taken"], row["refused"], row["faults"]) == (2, 0, [])
    seen, made = row["agreement"]["chunks"]
    assert row["chunks"] > 0 and row["chunks"] <= seen <= made + 2  # a chunk retired unseen is told of all the same
    assert abs(row["agreement"]["rtf_mean"][0] - row["agreement"]["rtf_mean"][1]) < 0.5
    assert row["skew_most_s"] <= 0.02
    assert row["cpu_s_a_chunk"][WORKER] > 0 and row["middle"]["memory_mib"][WORKER] > 50
    assert row["middle"]["sessions"] == 2
    assert len(row["slack"]) > 0
