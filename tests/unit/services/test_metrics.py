"""Metrics."""

from __future__ import annotations

import urllib.request

from services.metrics import Metrics


def test_metrics_are_served() -> None:
    """What was counted and timed is read from the endpoint; two processes in one program do not collide."""
    metrics, _ = Metrics("worker"), Metrics("gateway")
    metrics.refusals.labels("NO_CAPACITY").inc()
    with metrics.stage("decode"):
        pass
    port = metrics.serve("127.0.0.1:0")
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as page:
        text = page.read().decode()
    metrics.close()
    assert 'cuelight_refusals_total{reason="NO_CAPACITY"} 1.0' in text
    assert 'cuelight_stage_seconds_count{stage="decode"} 1.0' in text
    assert 'cuelight_process{process="worker"} 1.0' in text
