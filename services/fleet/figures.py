"""What the controller measures. `cuelight_fleet_workers{state="wanted"}` is what an autoscaler elsewhere can follow."""

from __future__ import annotations

from prometheus_client import Counter, Gauge

from services.fleet.decision import Advice, FleetView
from services.metrics import Metrics


class FleetFigures:
    """The metrics of the process."""

    def __init__(self, metrics: Metrics) -> None:
        self.metrics = metrics
        registry = metrics.registry
        self._workers = Gauge("cuelight_fleet_workers", "Workers, by what they are", ["state"], registry=registry)
        self._slots = Gauge("cuelight_fleet_slots", "Slots of workers that are heard of", ["state"], registry=registry)
        self._wanting = Gauge("cuelight_fleet_wanting", "Sessions that found no slot of late", registry=registry)
        self._previous = Gauge(
            "cuelight_fleet_previous",
            "Of versions of before: workers, and their sessions",
            ["workers", "of"],
            registry=registry,
        )
        self._orchestrators = Gauge("cuelight_fleet_orchestrators", "Orchestrators", ["state"], registry=registry)
        self.leads = Gauge("cuelight_fleet_leader", "1 while this controller is the one that acts", registry=registry)
        self.changes = Counter(
            "cuelight_fleet_changes_total", "Numbers of replicas set, by what of", ["what"], registry=registry
        )
        self.faults = Counter(
            "cuelight_fleet_faults_total", "Looks and acts that failed, by whom was asked", ["whom"], registry=registry
        )

    def stand_previous(self, name: str, view: FleetView | None) -> None:
        """How a version of before stands, by the name of its StatefulSet; None when it is gone."""
        workers = view.workers if view is not None else ()
        self._previous.labels(name, "workers").set(len(workers))
        self._previous.labels(name, "sessions").set(sum(len(worker.sessions) for worker in workers))

    def stand(self, view: FleetView, workers: Advice, orchestrators: Advice) -> None:
        """How the present version stands."""
        known = [worker for worker in view.workers if worker.slots is not None]
        for state, count in (
            ("wanted", workers.replicas),
            ("present", view.replicas),
            ("ready", sum(worker.is_ready for worker in view.workers)),
            ("leaving", sum(worker.is_leaving for worker in view.workers)),
        ):
            self._workers.labels(state).set(count)
        used = sum(len(worker.sessions) for worker in known)
        free = sum(max(0, (worker.slots or 0) - len(worker.sessions)) for worker in known if worker.takes_sessions)
        self._slots.labels("used").set(used)
        self._slots.labels("free").set(free)
        self._wanting.set(view.waiting)
        self._orchestrators.labels("wanted").set(orchestrators.replicas)
        self._orchestrators.labels("present").set(view.orchestrators or 0)
