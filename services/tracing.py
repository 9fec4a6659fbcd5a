"""Traces: how long each part of a chunk took and in which process, sent to an OpenTelemetry collector by OTLP.

    with tracing.exported(process="worker", collector="otel-agent:4317", share=0.05):
        with tracing.trace("chunk", session_id=..., chunk_index=...):     # may begin a trace
            with tracing.span("steps"):                                    # part of one, or nothing
                message.traceparent = tracing.current()                    # for whoever goes on with it elsewhere

Streams between our processes last as long as a session, so their messages carry the context (W3C traceparent) and not
their metadata; through Redis it goes with the cue. Without a collector no SDK is imported, nothing made, and a span
costs an `if`. Attributes are ids, numbers and kinds, never users' words. Knows nothing of what is traced.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from opentelemetry import trace as otel
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from services.logs import get_logger

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider

__all__ = ["current", "exported", "span", "trace"]

log = get_logger(__name__)

EXPORT_S = 5.0
"""A collector that does not answer for so long misses what it was sent."""
BATCH_MS = 1_000
WAITING_SPANS = 4_096
"""More are dropped: a collector that hangs must not hold a process up."""
_FIELD = "traceparent"
_PROPAGATOR = TraceContextTextMapPropagator()
_tracer: otel.Tracer | None = None


@contextmanager
def exported(*, process: str, collector: str, share: float = 1.0) -> Iterator[None]:
    """Send the traces of this process to `collector` (host:port), a `share` of those that begin here; "" sends none."""
    global _tracer  # noqa: PLW0603 - one a process, as its logs are
    if not collector:
        yield
        return
    provider = _provider(process, collector, share)
    _tracer = provider.get_tracer("cuelight")
    try:
        yield
    finally:
        _tracer = None
        provider.shutdown()


@contextmanager
def trace(name: str, parent: str = "", **attributes: str | int) -> Iterator[None]:
    """Go on with the trace of `parent`, a traceparent; without one begin a trace, if it falls into the share."""
    if _tracer is None:
        yield
        return
    with _opened(_tracer, name, _context(parent), attributes):
        yield


@contextmanager
def span(name: str, parent: str | None = None, **attributes: str | int) -> Iterator[None]:
    """A part of the trace of `parent`, a traceparent, or of the one that is being made; nothing where there is none."""
    if _tracer is None or not (current() if parent is None else parent):
        yield
        return
    with _opened(_tracer, name, None if parent is None else _context(parent), attributes):
        yield


def current() -> str:
    """The traceparent of the span that is open here; empty without one, and for a trace that is not kept."""
    found = otel.get_current_span().get_span_context()
    if _tracer is None or not (found.is_valid and found.trace_flags.sampled):
        return ""
    carrier: dict[str, str] = {}
    _PROPAGATOR.inject(carrier)
    return carrier[_FIELD]


@contextmanager
def _opened(
    tracer: otel.Tracer, name: str, context: Context | None, attributes: dict[str, str | int]
) -> Iterator[None]:
    """A span; of what is raised in it the kind alone is told, since the sentence may quote users."""
    with tracer.start_as_current_span(
        name, context, attributes=attributes, record_exception=False, set_status_on_exception=False
    ) as opened:
        try:
            yield
        except Exception as fault:
            opened.set_status(otel.Status(otel.StatusCode.ERROR, type(fault).__name__))
            raise


def _context(parent: str) -> Context:
    """Where a span hangs; of a traceparent that is none, nowhere."""
    return _PROPAGATOR.extract({_FIELD: parent}, otel.set_span_in_context(otel.INVALID_SPAN))


def _provider(process: str, collector: str, share: float) -> TracerProvider:
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
    from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

    class Counting(SpanExporter):
        """Sends spans on, and says how many a collector did not take."""

        def __init__(self) -> None:
            self._to = OTLPSpanExporter(endpoint=collector, insecure=True, timeout=EXPORT_S)
            self._dropped = 0

        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            result = self._to.export(spans)
            if result is not SpanExportResult.SUCCESS:
                self._dropped += len(spans)
                log.warning("spans_dropped", spans=len(spans), in_all=self._dropped)
            return result

        def shutdown(self) -> None:
            self._to.shutdown()

    logging.getLogger("opentelemetry.exporter").setLevel(logging.CRITICAL)  # a line for every try: ours says it once
    provider = TracerProvider(
        sampler=ParentBased(TraceIdRatioBased(share)),
        resource=Resource({"service.name": f"cuelight-{process}", "service.namespace": "cuelight"}),
        shutdown_on_exit=False,
    )
    provider.add_span_processor(
        BatchSpanProcessor(Counting(), max_queue_size=WAITING_SPANS, schedule_delay_millis=BATCH_MS)
    )
    return provider
