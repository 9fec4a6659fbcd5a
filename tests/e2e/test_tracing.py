"""Traces of a stack of real processes, as a collector gets them."""

from __future__ import annotations

from pathlib import Path

from evaluation.collector import Collector, Span
from tests.fixtures.stack import RunningStack

SAID = "Persimmons ripen."
CHUNK = {
    ("cuelight-gateway", "cue"),
    ("cuelight-worker", "chunk"),
    ("cuelight-worker", "plan"),
    ("cuelight-orchestrator", "begin"),
    ("cuelight-worker", "steps"),
    ("cuelight-worker", "condition"),
    ("cuelight-orchestrator", "denoise"),
    ("cuelight-worker", "step"),
    ("cuelight-worker", "commit"),
    ("cuelight-orchestrator", "end"),
    ("cuelight-worker", "decode"),
    ("cuelight-worker", "encode"),
    ("cuelight-gateway", "carry"),
}
"""Process and name of every span of a chunk that answers a cue."""
UNDER = {
    "cue": "",
    "chunk": "cue",
    "plan": "chunk",
    "begin": "plan",
    "steps": "chunk",
    "condition": "steps",
    "denoise": "condition",
    "step": "steps",
    "commit": "chunk",
    "end": "commit",
    "decode": "chunk",
    "encode": "chunk",
    "carry": "chunk",
}
"""What each hangs under."""


def _is_whole(spans: list[Span]) -> bool:
    kinds = {(span.process, span.name) for span in spans}
    return kinds >= CHUNK and sum(span.name == "carry" for span in spans) >= 2


def test_a_chunk_is_one_trace_across_three_processes(stack: RunningStack, collector: Collector, tmp_path: Path) -> None:
    """From the cue at the gateway over worker and orchestrator to its media at the gateway; no word said is in it."""
    said = stack.cuelight("say", SAID, "-o", str(tmp_path / "film.mp4"))
    assert said.returncode == 0, said.stdout + said.stderr
    spans = collector.wait(_is_whole)
    names = {span.span_id: span.name for span in spans}
    assert {(span.name, names.get(span.parent_id, "")) for span in spans} == set(UNDER.items())
    (chunk,) = [span for span in spans if span.name == "chunk"]
    (cue,) = [span for span in spans if span.name == "cue"]
    assert chunk.attributes["session_id"] == cue.attributes["session_id"] and chunk.attributes["session_id"]
    assert cue.began_ns <= chunk.began_ns and all(span.began_ns <= span.ended_ns for span in spans)
    steps = sorted(span.attributes["step"] for span in spans if span.name == "step")
    assert steps == list(range(len(steps))) and len(steps) > 1
    for word in SAID.rstrip(".").split():
        assert not [raw for raw in collector.raw if word.encode() in raw]
