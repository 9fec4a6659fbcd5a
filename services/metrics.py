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

from services import tracing
from services.errors import NoCapacity, StoreUnavailable, WorkerUnavailable
from services.logs import get_logger
from services.settings import split_address

__all__ = ["Metrics"]

log = get_logger(__name__)

_CHUNK_BUCKETS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0, 1.375, 2.0, 4.0)
_RATIO_BUCKETS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.25, 1.5, 2.0)
_LATENCY_BUCKETS = (0.1, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0)
_SKEW_BUCKETS = (0.001, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16)
_HANDOVER_BUCKETS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.5)
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
        self.startup = self._gauge("cuelight_startup_seconds", "From the beginning of loading to the first readiness")
        self.ttfc_seconds = self._histogram("cuelight_ttfc_seconds", "Cue to first complete chunk", _LATENCY_BUCKETS)
        self.interaction = self._histogram(
            "cuelight_interaction_seconds", "Cue to the first frame shown that answers it", _LATENCY_BUCKETS
        )
        self.chunk_gap = self._histogram(
            "cuelight_chunk_gap_seconds", "Between a session's chunks, one published and the next", _CHUNK_BUCKETS
        )
        self.av_skew = self._histogram(
            "cuelight_av_skew_seconds", "Between the ends of a chunk's sound and picture", _SKEW_BUCKETS
        )
        self.played = self._counter("cuelight_play_seconds_total", "Media played at normal speed since published")
        self.stalled = self._counter("cuelight_stall_seconds_total", "Stood still for want of media, likewise")
        self.ended = self._counter(
            "cuelight_sessions_ended_total",
            "Sessions, by whether no stall was noticed and every answer in time",
            "clean",
        )
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
        self.light_chunks = self._counter("cuelight_light_chunks_total", "Chunks decoded by the light decoder")
        self.cache_slots = self._gauge("cuelight_cache_slots", "Sessions whose keys and values have room on the device")
        self.cache_held = self._gauge("cuelight_cache_slots_held", "Sessions whose keys and values are on the device")
        self.session_bytes = self._gauge("cuelight_session_cache_bytes", "Keys and values of one session")
        self.cache_evictions = self._counter("cuelight_cache_evictions_total", "Times an idle session gave its own up")
        self.cache_rebuild = self._gauge(
            "cuelight_cache_rebuild_seconds", "Rebuilding one session's from latents, 95th percentile"
        )
        self.batched_steps = self._counter("cuelight_batched_steps_total", "Steps that were run together with others")
        self.refusals = self._counter("cuelight_refusals_total", "Requests refused, by ErrorInfo reason", "reason")
        self.drops = self._counter("cuelight_drops_total", "Whatever was dropped, by what it was", "what")
        tracing.count_drops(lambda what, count: self.drops.labels(what).inc(count))
        self.pointer_nudges = self._counter(
            "cuelight_pointer_nudges_total", "Times a pointer that stood still was moved on"
        )
        self.renders = self._counter("cuelight_renders_total", "Attempts at renders, by how they ended", "result")
        self._add_ownership()
        self._add_planners()
        self._begin_at_zero()

    def _add_ownership(self) -> None:
        self.fenced = self._counter(
            "cuelight_fenced_writes_total", "Writes refused because the session is another worker's", "script"
        )
        self.recoveries = self._counter("cuelight_recoveries_total", "Sessions taken up again", "result")
        self.moves = self._counter(
            "cuelight_moves_total", "Sessions that were to go on at another worker, by what came of it", "result"
        )
        self.handover = self._histogram(
            "cuelight_handover_seconds",
            "From a moved session's last chunk until the next could begin",
            _HANDOVER_BUCKETS,
        )

    def _add_planners(self) -> None:
        self.planner_seconds = self._histogram(
            "cuelight_planner_seconds",
            "A planner's answer, from asking to its end",
            _LATENCY_BUCKETS,
            "planner",
            "work",
        )
        self.planner_answers = self._counter(
            "cuelight_planner_answers_total", "Answers of planners, by what became of them", "planner", "result"
        )
        self.planner_fallbacks = self._counter(
            "cuelight_planner_fallbacks_total", "Times the rules planned in a planner's place", "planner"
        )
        self.planner_sessions = self._labelled_gauge("cuelight_planner_sessions", "Sessions, by planner", "planner")

    def _begin_at_zero(self) -> None:
        """Show what alerts count before it has happened once: Prometheus sees no increase in a series' first value."""
        for result in ("kept", "missed"):
            self.deadlines.labels(result)
        for reason in (NoCapacity.reason, WorkerUnavailable.reason, StoreUnavailable.reason):
            self.refusals.labels(reason)
        self.recoveries.labels("failed")
        for script in ("renew", "take_over", "write_inputs", "put_latents", "commit", "set_state", "cut"):
            self.fenced.labels(script)

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

    def _labelled_gauge(self, name: str, what: str, *labels: str) -> Gauge:
        return Gauge(name, what, labels, registry=self.registry)

    def _counter(self, name: str, what: str, *labels: str) -> Counter:
        return Counter(name, what, labels, registry=self.registry)

    def _histogram(self, name: str, what: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(name, what, labels, buckets=buckets, registry=self.registry)
