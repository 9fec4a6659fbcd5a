"""Traces: what hangs together, and what nobody collects."""

from __future__ import annotations

import pytest

from evaluation.collector import collecting
from services import tracing
from services.metrics import Metrics
from services.session import Cue, CueKind
from services.state.codec import cue_from_entry, cue_to_fields

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def test_without_a_collector_there_is_nothing() -> None:
    """Spans are not made, and nothing is told on."""
    with tracing.exported(process="worker", collector=""), tracing.trace("chunk", PARENT):
        with tracing.span("steps"):
            assert tracing.current() == ""
        with tracing.span("decode", PARENT):
            assert tracing.current() == ""


def test_a_context_is_gone_on_with_and_comes_out_at_the_collector() -> None:
    """A span of a given context is of its trace; a part without one is none; all are sent before the process ends."""
    with collecting() as collector:
        with tracing.exported(process="worker", collector=collector.address):
            with tracing.span("decode"), tracing.span("encode", ""):
                assert tracing.current() == ""
            with tracing.trace("chunk", PARENT, chunk_index=3), tracing.span("steps"):
                told = tracing.current()
            with tracing.trace("alone", "rubbish"):
                assert tracing.current()[3:35] not in ("", PARENT[3:35])
        assert told[:35] == PARENT[:35] and told[-2:] == "01"
        sent = {span.name: span for span in collector.spans}
    assert set(sent) == {"chunk", "steps", "alone"}
    assert sent["chunk"].parent_id.hex() == PARENT[36:52] and sent["steps"].parent_id == sent["chunk"].span_id
    assert sent["chunk"].attributes == {"chunk_index": 3} and sent["alone"].parent_id == b""


def test_what_is_not_kept_is_not_told_on() -> None:
    """With a share of nothing a trace that begins here is not sent; one that begins elsewhere and is kept there, is."""
    with collecting() as collector:
        with tracing.exported(process="worker", collector=collector.address, share=0.0):
            with tracing.trace("chunk"), tracing.span("steps"):
                assert tracing.current() == ""
            with tracing.trace("chunk", PARENT):
                assert tracing.current()
        assert [span.trace_id.hex() for span in collector.spans] == [PARENT[3:35]]


def test_of_a_fault_its_kind_alone_is_told() -> None:
    """What was raised may quote users: neither its sentence nor where it was raised leaves the process."""
    with collecting() as collector:
        with (
            tracing.exported(process="worker", collector=collector.address),
            pytest.raises(ValueError, match="persimmon"),
            tracing.trace("chunk"),
            tracing.span("plan"),
        ):
            raise ValueError("no such word: persimmon")
        raw = b"".join(collector.raw)
    assert {span.name for span in collector.spans} == {"chunk", "plan"}
    assert b"ValueError" in raw and b"persimmon" not in raw and b"Traceback" not in raw


def test_a_collector_that_is_not_there_holds_nothing_up() -> None:
    """Spans that cannot be sent are dropped, and the process ends all the same."""
    with tracing.exported(process="worker", collector="127.0.0.1:9"), tracing.trace("chunk"):
        assert tracing.current()


def test_every_span_that_is_dropped_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a full queue drops and what a collector does not take, each by its name in the metrics."""
    most, ended = 3, 60
    monkeypatch.setattr(tracing, "WAITING_SPANS", most)
    monkeypatch.setattr(tracing, "BATCH_SPANS", most)
    monkeypatch.setattr(tracing, "EXPORT_S", 0.2)
    metrics = Metrics("worker")
    with tracing.exported(process="worker", collector="127.0.0.1:9"):
        for _ in range(ended):
            with tracing.trace("chunk"):
                pass
    queue, collector = (metrics.drops.labels(what)._value.get() for what in ("span_queue", "span_collector"))
    assert queue > 0 and collector > 0
    assert ended <= queue + collector <= ended + most  # those that left as others came may count twice


def test_a_cue_carries_its_context_through_the_store() -> None:
    """It is laid down where there is one, and a cue of an older gateway has none."""
    for cue in (Cue(7, CueKind.SAY, "x", trace=PARENT), Cue(7, CueKind.SAY, "x")):
        laid = [part.encode() for part in cue_to_fields(cue)]
        fields = dict(zip(laid[::2], laid[1::2], strict=True))
        assert cue_from_entry(b"7-0", fields) == cue and (b"trace" in fields) is bool(cue.trace)
