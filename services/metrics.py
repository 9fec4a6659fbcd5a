"""What is measured, under the names the design gives it, and the endpoint that Prometheus reads.

One `Metrics` a process, with a registry of its own, so that nothing is registered by importing.
Knows the names and the buckets, not when something happens.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from threading import Thread
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from services.logs import get_logger
from services.settings import split_address

__all__ = ["Metrics"]

log = get_logger(__name__)

_CHUNK_BUCKETS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0, 1.375, 2.0, 4.0)
_RATIO_BUCKETS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.25, 1.5, 2.0)
_LATENCY_BUCKETS = (0.1, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0)
_SLACK_BUCKETS = (-2.0, -1.0, -0.5, -0.1, 0.0, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0)


class Metrics:
    """The metrics of one process. Times are seconds."""

    def __init__(self, process: str) -> None:
        """Name the `process`, as a label of `cuelight_process`."""
        self.registry = CollectorRegistry()
        self._serving: tuple[WSGIServer, Thread] | None = None
        process_gauge = Gauge(
            "cuelight_process", "1, with the name of the process", ["process"], registry=self.registry
        )
        process_gauge.labels(process).set(1)
        self.sessions = self._gauge("cuelight_sessions", "Sessions this process has")
        self.ready = self._gauge("cuelight_ready", "1 while new work is taken")
        self.stage_seconds = self._histogram("cuelight_stage_seconds", "One stage of a chunk", _CHUNK_BUCKETS, "stage")
        self.rtf = self._histogram("cuelight_rtf", "Compute time over length, by chunk", _RATIO_BUCKETS)
        self.ttfc_seconds = self._histogram("cuelight_ttfc_seconds", "Cue to first complete chunk", _LATENCY_BUCKETS)
        self.slack_seconds = self._histogram("cuelight_slack_seconds", "Deadline less completion", _SLACK_BUCKETS)
        self.chunks = self._counter("cuelight_chunks_total", "Chunks committed", "kind")
        self.deadlines = self._counter("cuelight_chunk_deadlines_total", "Chunk deadlines, kept or missed", "result")
        self.attainment = self._gauge("cuelight_deadline_attainment", "Share of recent chunks that were ready when due")
        self.slots = self._gauge("cuelight_slots", "Sessions that are taken at most, by admission test and setting")
        self.utilisation = self._gauge("cuelight_utilisation", "Share of the device that the sessions may need")
        self.utilisation_bound = self._gauge("cuelight_utilisation_bound", "What utilisation may come to")
        self.chunk_cost = self._gauge("cuelight_chunk_cost_seconds", "C: what a chunk costs, 95th percentile")
        self.quantum = self._gauge("cuelight_quantum_seconds", "q: the longest piece of work, 95th percentile")
        self.fidelity = self._counter("cuelight_fidelity_chunks_total", "Chunks, by the steps they were given", "steps")
        self.refusals = self._counter("cuelight_refusals_total", "Requests refused, by ErrorInfo reason", "reason")
        self.drops = self._counter("cuelight_drops_total", "Whatever was dropped, by what it was", "what")
        self.pointer_nudges = self._counter(
            "cuelight_pointer_nudges_total", "Times a pointer that stood still was moved on"
        )
        self.recoveries = self._counter("cuelight_recoveries_total", "Sessions taken up again", "result")

    def serve(self, listen: str) -> int:
        """Serve /metrics on host:port (0 picks one) from a thread; returns the port. Raises OSError."""
        host, port = split_address(listen)
        server, thread = start_http_server(port, addr=host, registry=self.registry)
        self._serving = (server, thread)
        log.info("metrics_served", address=f"{host}:{server.server_port}")
        return server.server_port

    def close(self) -> None:
        """Stop serving."""
        if self._serving is not None:
            server, thread = self._serving
            self._serving = None
            server.shutdown()
            server.server_close()
            thread.join(5)

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time one stage of a chunk."""
        with self.stage_seconds.labels(name).time():
            yield

    def _gauge(self, name: str, what: str) -> Gauge:
        return Gauge(name, what, registry=self.registry)

    def _counter(self, name: str, what: str, *labels: str) -> Counter:
        return Counter(name, what, labels, registry=self.registry)

    def _histogram(self, name: str, what: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(name, what, labels, buckets=buckets, registry=self.registry)
