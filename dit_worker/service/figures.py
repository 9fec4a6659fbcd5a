"""How fast this worker is: counters for Prometheus, and the recent figures that GetStatus tells.

It knows numbers and no sessions.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from dit_worker.engine.admission import Admission, Load
from dit_worker.engine.costs import Costs
from dit_worker.engine.engine import EngineFigures
from dit_worker.engine.pacing import FAR_S
from services.metrics import Metrics

_RECENT = 256


class Figures:
    """The worker's measurements."""

    def __init__(self, metrics: Metrics) -> None:
        self.metrics = metrics
        self.ttfc_s: float | None = None
        self._rtfs: deque[float] = deque(maxlen=_RECENT)
        self._in_time: deque[bool] = deque(maxlen=_RECENT)
        self._counted = 0, 0
        """Evictions and steps run together, as told so far."""

    def chunk_performed(self, *, slack_s: float, is_idle: bool, steps: int) -> None:
        """A chunk was committed; slack is what was left before its deadline, negative when it was missed.

        Chunks of renders have none, and say nothing of how well deadlines are kept.
        """
        self.metrics.fidelity.labels(str(steps)).inc()
        if slack_s > FAR_S / 2:
            self.metrics.chunks.labels("render").inc()
            return
        self._in_time.append(slack_s >= 0)
        self.metrics.attainment.set(sum(self._in_time) / len(self._in_time))
        self.metrics.chunks.labels("idle" if is_idle else "speech").inc()
        self.metrics.slack_seconds.observe(slack_s)
        self.metrics.deadlines.labels("kept" if slack_s >= 0 else "missed").inc()

    def chunk_published(self, *, compute_s: float, chunk_s: float) -> None:
        """A chunk was encoded, this long after its planning began."""
        self._rtfs.append(compute_s / chunk_s)
        self.metrics.rtf.observe(compute_s / chunk_s)

    def answered(self, ttfc_s: float, waits_s: float) -> None:
        """The first chunk of an answer was published, this long after its cue; playback comes to it in waits_s."""
        self.ttfc_s = ttfc_s
        self.metrics.ttfc_seconds.observe(ttfc_s)
        self.metrics.interaction.observe(ttfc_s + waits_s)

    def admission_stands(self, admission: Admission, costs: Costs, load: Load, slots: int) -> None:
        """How much of the device the sessions may need, what that follows from, and how many may be here."""
        self.metrics.slots.set(slots)
        self.metrics.utilisation.set(admission.utilisation(load))
        self.metrics.utilisation_bound.set(admission.limits.bound)
        self.metrics.chunk_cost.set(costs.chunk_s)
        self.metrics.quantum.set(costs.quantum_s)

    def engine_stands(self, engine: EngineFigures) -> None:
        """How the room for keys and values is used, and what was run together since this was told last."""
        self.metrics.cache_slots.set(engine.slots)
        self.metrics.cache_held.set(engine.held)
        self.metrics.session_bytes.set(engine.bytes_per_session)
        self.metrics.cache_rebuild.set(engine.rebuild_s)
        evictions, batched_steps = self._counted
        self.metrics.cache_evictions.inc(engine.evictions - evictions)
        self.metrics.batched_steps.inc(engine.batched_steps - batched_steps)
        self._counted = engine.evictions, engine.batched_steps

    def dropped(self, what: str, count: int = 1) -> None:
        """Work was thrown away."""
        self.metrics.drops.labels(what).inc(count)

    def rtf(self, share: float) -> float:
        """Real-time factor that this share of the recent chunks stayed within; 0 before the first."""
        return quantile(sorted(self._rtfs), share)


def quantile(ordered: Sequence[float], share: float) -> float:
    """The value within which `share` of them lie; 0 for none."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0
