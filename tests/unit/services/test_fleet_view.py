"""What Kubernetes and the store say of the same workers, put together."""

from __future__ import annotations

from services.fleet.cluster import ClusterSeen, Names, PodSeen, ordinal_of
from services.fleet.view import joined, pod_of
from services.state.demand import Survey, Surveyed

NAMES = Names("stage", "worker")


def _pod(ordinal: int, *, leaving: bool = False) -> PodSeen:
    return PodSeen(f"worker-{ordinal}", ordinal, is_ready=True, is_leaving=leaving, labels={}, annotations={})


def _said(worker_id: str, *sessions: str, age_s: float = 1.0, takes: bool = True) -> Surveyed:
    return Surveyed(worker_id, "10.0.0.1:50071", 2, "digest", takes, age_s, sessions)


def test_a_worker_is_its_pod_and_what_its_last_boot_says() -> None:
    """A process that came back under the pod's name is another worker; the one before it is silent."""
    survey = Survey((_said("worker-0-old", "a", age_s=30.0), _said("worker-0-new", "b")), wanting=0)
    view = joined(5.0, NAMES, ClusterSeen(2, (_pod(1), _pod(0)), 1), survey)
    first, second = view.workers
    assert (first.pod, first.sessions, first.slots, first.takes_sessions) == ("worker-0", ("b",), 2, True)
    assert (second.pod, second.slots, second.is_busy) == ("worker-1", None, True)
    assert (view.at_s, view.replicas) == (5.0, 2)


def test_sessions_of_a_dead_worker_want_a_slot() -> None:
    """They count like those that found none, until somebody has them."""
    dead, heir = _said("worker-1-gone", "a", "b", age_s=30.0), _said("worker-0-boot", "b")
    assert joined(0, NAMES, ClusterSeen(2, (_pod(0),), 1), Survey((dead, heir), wanting=2)).waiting == 3


def test_a_pod_that_leaves_takes_nothing() -> None:
    """Whatever its process says: what is placed there would have to move again."""
    view = joined(0, NAMES, ClusterSeen(1, (_pod(0, leaving=True),), 1), Survey((_said("worker-0-boot", "a"),), 0))
    assert not view.workers[0].takes_sessions and view.workers[0].is_leaving


def test_a_pod_is_named_in_the_id() -> None:
    """Whatever dashes its name has."""
    assert pod_of("my-release-cuelight-worker-12-1a2b3c4d") == "my-release-cuelight-worker-12"


def test_an_ordinal_is_of_one_set_alone() -> None:
    """A set whose name begins like another's has none of its pods."""
    assert ordinal_of("worker-12", "worker") == 12
    assert ordinal_of("worker-4b227777s1-0", "worker") is None
    assert ordinal_of("worker-4b227777s1-0", "worker-4b227777s1") == 0
    assert ordinal_of("worker", "worker") is None


def test_sessions_want_a_slot_of_their_own_version() -> None:
    """Those of dead workers count where these were; those that found none at the present version alone."""
    before = Names("stage", "worker-4b227777s1", is_previous=True)
    dead = _said("worker-4b227777s1-0-gone", "a", "b", age_s=30.0)
    survey = Survey((dead, _said("worker-0-boot", "c")), wanting=3)
    assert joined(0, NAMES, ClusterSeen(1, (_pod(0),), 1), survey).waiting == 3
    view = joined(0, before, ClusterSeen(1, (), 1), survey)
    assert (view.waiting, view.is_previous) == (2, True)
