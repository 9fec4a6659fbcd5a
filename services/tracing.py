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
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from threading import Lock
from typing import TYPE_CHECKING

from opentelemetry import trace as otel
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from services.logs import get_logger

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider

__all__ = ["count_drops", "current", "exported", "span", "trace"]

log = get_logger(__name__)

EXPORT_S = 5.0
"""A collector that does not answer for so long misses what it was sent."""
BATCH_MS = 1_000
BATCH_SPANS = 512
WAITING_SPANS = 4_096
"""More are dropped, the oldest first: a collector that hangs must not hold a process up."""
_FIELD = "traceparent"
_PROPAGATOR = TraceContextTextMapPropagator()
_tracer: otel.Tracer | None = None
_on_drop: Callable[[str, int], object] | None = None


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


def count_drops(tell: Callable[[str, int], object]) -> None:
    """From now on say of spans that are dropped why, span_queue or span_collector, and how many; from any thread."""
    global _on_drop  # noqa: PLW0603 - one a process, as its metrics are
    _on_drop = tell


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

    waiting = _Waiting()

    class Counting(SpanExporter):
        """Sends spans on, and says how many a collector did not take."""

        def __init__(self) -> None:
            self._to = OTLPSpanExporter(endpoint=collector, insecure=True, timeout=EXPORT_S)
            self._dropped = 0

        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            waiting.sent(len(spans))
            result = self._to.export(spans)
            if result is not SpanExportResult.SUCCESS:
                self._dropped += len(spans)
                _tell_dropped("span_collector", len(spans))
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

    class Batching(BatchSpanProcessor):
        """Holds spans until they are sent, and says when one has no room: the oldest goes then."""

        def on_end(self, span: ReadableSpan) -> None:
            if span.context and span.context.trace_flags.sampled and not waiting.has_room():
                _tell_dropped("span_queue", 1)
            super().on_end(span)

    provider.add_span_processor(Batching(Counting(), WAITING_SPANS, BATCH_MS, BATCH_SPANS))
    return provider


def _tell_dropped(what: str, spans: int) -> None:
    if _on_drop is not None:
        _on_drop(what, spans)


class _Waiting:
    """How many spans wait to be sent: the queue itself does not say when it drops one.

    A span that ends while a batch leaves may be counted as dropped in the place of one that comes after it.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._count = 0

    def has_room(self) -> bool:
        """Count one more; False when the oldest had to go for it."""
        with self._lock:
            self._count += 1
            is_over = self._count > WAITING_SPANS
            self._count -= is_over
        return not is_over

    def sent(self, spans: int) -> None:
        """So many have left the queue."""
        with self._lock:
            self._count -= spans
