"""What results are made of, when and on what."""

from __future__ import annotations

from evaluation.report import provenance


def test_results_name_commit_and_hardware() -> None:
    """A figure without them cannot be judged."""
    told = provenance()
    assert told["made"] and "commit" in told
    assert told["hardware"]["processor"] and told["hardware"]["threads"] >= 1
