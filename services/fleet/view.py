"""Puts together what Kubernetes and the store say of the same workers. Knows neither, only what they said."""

from __future__ import annotations

from services.fleet.cluster import ClusterSeen, Names, PodSeen, ordinal_of
from services.fleet.decision import FleetView, Worker
from services.state.demand import Survey, Surveyed


def joined(at_s: float, names: Names, cluster: ClusterSeen, survey: Survey) -> FleetView:
    """One version as it is decided on. Sessions of its workers that are gone want a slot.

    So do those that found none, at the present version: the store does not say which bundle they are of.
    """
    living = {pod_of(worker.worker_id): worker for worker in survey.workers if worker.is_alive}
    gone = [worker for worker in survey.workers if not worker.is_alive]
    ours = [worker for worker in gone if ordinal_of(pod_of(worker.worker_id), names.workers) is not None]
    stranded = {name for worker in ours for name in worker.sessions}
    placed = {name for worker in living.values() for name in worker.sessions}
    return FleetView(
        at_s=at_s,
        replicas=cluster.replicas,
        workers=tuple(_worker(pod, living.get(pod.name)) for pod in sorted(cluster.pods, key=lambda pod: pod.ordinal)),
        waiting=len(stranded - placed) + (0 if names.is_previous else survey.wanting),
        orchestrators=cluster.orchestrators,
        is_previous=names.is_previous,
    )


def pod_of(worker_id: str) -> str:
    """The pod of a worker: its id is the pod's name and the boot's."""
    return worker_id.rpartition("-")[0]


def _worker(pod: PodSeen, said: Surveyed | None) -> Worker:
    if said is None:
        return Worker(pod.name, pod.ordinal, is_ready=pod.is_ready, is_leaving=pod.is_leaving)
    return Worker(
        pod.name,
        pod.ordinal,
        is_ready=pod.is_ready,
        is_leaving=pod.is_leaving,
        slots=said.slots,
        sessions=said.sessions,
        takes_sessions=said.is_ready and not pod.is_leaving,
        address=said.address,
        bundle=said.bundle,
        condition_s=said.condition_s,
    )
