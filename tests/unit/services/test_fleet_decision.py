"""How many workers there shall be, decided on views that are written down here."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from services.fleet.decision import (
    FleetPolicy,
    FleetView,
    History,
    Worker,
    decide,
    decide_orchestrators,
    demand,
)

POLICY = FleetPolicy(min_workers=1, max_workers=6, buffer_slots=1, slots_per_worker=2, cool_down_s=60)


def _worker(ordinal: int, *sessions: str, slots: int | None = 2, leaving: bool = False, ready: bool = True) -> Worker:
    return Worker(
        f"worker-{ordinal}",
        ordinal,
        is_ready=ready,
        is_leaving=leaving,
        slots=slots,
        sessions=sessions,
        takes_sessions=not leaving and slots is not None,
    )


def _view(*workers: Worker, waiting: int = 0, at_s: float = 0.0, replicas: int | None = None) -> FleetView:
    return FleetView(at_s, len(workers) if replicas is None else replicas, workers, waiting)


def _after_a_cool_down(view: FleetView, history: History | None = None) -> tuple[int, str]:
    """What is advised when the same was seen for longer than a cool-down."""
    known = history or History()
    for now in range(0, 130, 10):
        decided = decide(replace(view, at_s=now), POLICY, known, now)
        known = decided.history
    return decided.workers.replicas, decided.workers.reason


def test_workers_are_what_used_waiting_and_spare_slots_need() -> None:
    """ceil((used + waiting + buffer) / slots of a worker), within the limits."""
    assert demand(_view(_worker(0)), POLICY) == 1
    assert demand(_view(_worker(0, "a")), POLICY) == 1
    assert demand(_view(_worker(0, "a", "b")), POLICY) == 2
    assert demand(_view(_worker(0, "a", "b"), waiting=4), POLICY) == 4
    assert demand(_view(_worker(0), waiting=1000), POLICY) == 6
    assert demand(_view(_worker(0, slots=4), _worker(1, "a", "b", "c", slots=4), waiting=4), POLICY) == 2


def test_up_at_once() -> None:
    """The first view that needs more has it, whatever was before."""
    decided = decide(_view(_worker(0, "a", "b"), waiting=3), POLICY, History(workers=((-5.0, 1),)), now_s=0.5)
    assert decided.workers.replicas == 3


def test_down_only_after_a_cool_down() -> None:
    """Fewer are advised when for a whole cool-down fewer would have done, and no sooner."""
    view, history, advised = _view(_worker(0), _worker(1), _worker(2)), History(), []
    for now in range(0, 90, 10):
        decided = decide(replace(view, at_s=now), POLICY, history, now)
        history = decided.history
        advised.append(decided.workers.replicas)
    assert advised == [3] * 7 + [1, 1]


def test_a_need_in_between_begins_the_cool_down_anew() -> None:
    """One view that needed all workers holds them for a cool-down from then."""
    quiet, busy, history, advised = _view(_worker(0), _worker(1), _worker(2)), 40, History(), []
    for now in range(0, 140, 10):
        seen = replace(quiet, at_s=now, waiting=5 if now == busy else 0)
        decided = decide(seen, POLICY, history, now)
        history = decided.history
        advised.append(decided.workers.replicas)
    assert advised.index(1) * 10 == busy + 70


def test_never_below_an_ordinal_that_has_sessions() -> None:
    """The top ordinals must be empty; what is above the highest busy one goes."""
    assert _after_a_cool_down(_view(_worker(0), _worker(1, "a"), _worker(2)))[0] == 2
    assert _after_a_cool_down(_view(_worker(0), _worker(1), _worker(2, "a")))[0] == 3


def test_a_ready_worker_that_is_not_heard_of_counts_as_busy() -> None:
    """Silence is no proof of emptiness; a pod that is not ready either has none."""
    assert _after_a_cool_down(_view(_worker(0), _worker(1, slots=None)))[0] == 2
    assert _after_a_cool_down(_view(_worker(0), _worker(1, slots=None, ready=False)))[0] == 1


def test_stale_views_change_nothing() -> None:
    """However loud an old view cries, and the cool-down forgets what was before it."""
    decided = decide(_view(_worker(0, "a", "b"), waiting=9), POLICY, History(workers=((0.0, 1),)), now_s=11)
    assert (decided.workers.replicas, decided.workers.reason) == (1, "the view is stale")
    assert decided.history == History() and not decided.marks and not decided.to_empty


def test_workers_that_leave_are_replaced_and_emptied() -> None:
    """A pod on a node that is drained is no capacity: another one takes its place, and its sessions are to move."""
    decided = decide(_view(_worker(0, "a", leaving=True), _worker(1)), POLICY, History(), 0)
    assert [worker.pod for worker in decided.to_empty] == ["worker-0"]
    assert decided.workers.replicas == 2
    assert decide(_view(_worker(0, "a", leaving=True)), POLICY, History(), 0).workers.replicas == 2


def test_a_drained_worker_is_no_capacity() -> None:
    """It takes nothing until it is started anew, so one more is wanted until then, and none beyond the maximum."""
    drained = replace(_worker(0), takes_sessions=False)
    assert decide(_view(drained, _worker(1, "a")), POLICY, History(), 0).workers.replicas == 2
    assert decide(_view(drained, _worker(1, "a", "b")), POLICY, History(), 0).workers.replicas == 3
    assert decide(_view(drained, waiting=99), POLICY, History(), 0).workers.replicas == POLICY.max_workers


def test_marks_say_what_is_in_a_pod() -> None:
    """Whether it is busy, with which sessions, out of how many slots."""
    marks = decide(_view(_worker(0, "b", "a"), _worker(1)), POLICY, History(), 0).marks
    assert marks["worker-0"] == {"busy": "true", "sessions": "a,b", "slots": "2/2", "bundle": ""}
    assert marks["worker-1"]["busy"] == "false"


def test_orchestrators_follow_the_wait_for_conditions() -> None:
    """As many more as the wait exceeds its target by, at once; one fewer a cool-down when half the target is kept."""
    policy = replace(POLICY, max_orchestrators=4, condition_target_s=0.05)
    slow = replace(_view(replace(_worker(0, "a"), condition_s=0.09)), orchestrators=2)
    assert decide_orchestrators(slow, policy, History(), 0)[0].replicas == 4
    assert decide_orchestrators(_view(_worker(0)), policy, History(), 0)[0].replicas == 1
    quick, history = replace(_view(replace(_worker(0, "a"), condition_s=0.005)), orchestrators=3), History()
    advised = []
    for now in range(0, 160, 10):
        advice, history = decide_orchestrators(replace(quick, at_s=now), policy, history, now)
        quick = replace(quick, orchestrators=advice.replicas)
        advised.append(advice.replicas)
    assert advised == [3] * 7 + [2] * 8 + [1]


@given(
    st.lists(st.tuples(st.integers(0, 3), st.booleans(), st.booleans()), max_size=6),
    st.integers(0, 20),
    st.lists(st.tuples(st.floats(-200, 0), st.integers(1, 9)), max_size=4),
)
def test_what_is_advised_keeps_every_session(
    pods: list[tuple[int, bool, bool]], waiting: int, past: list[tuple[float, int]]
) -> None:
    """Whatever is seen and remembered, no busy ordinal is cut off and the maximum is not passed."""
    workers = [
        _worker(i, *(f"{i}-{n}" for n in range(count)), leaving=leaving, slots=None if deaf else 2)
        for i, (count, leaving, deaf) in enumerate(pods)
    ]
    view = _view(*workers, waiting=waiting)
    advised = decide(view, POLICY, History(workers=tuple(sorted(past))), 0).workers.replicas
    assert advised <= max(POLICY.max_workers, view.replicas)
    assert all(worker.ordinal < advised for worker in workers if worker.is_busy)


def _previous(*workers: Worker, **seen: int) -> FleetView:
    return replace(_view(*workers, **seen), is_previous=True)


def test_a_version_of_before_goes_when_it_is_empty_for_a_cool_down() -> None:
    """Not while it has a session, nor while one of a dead worker wants a slot; below the limits when it has none."""
    empty = _previous(_worker(0), _worker(1))
    assert _after_a_cool_down(empty)[0] == 0
    assert decide(empty, POLICY, History(), 0.0).workers.replicas == 2
    assert _after_a_cool_down(_previous(_worker(0, "a"), _worker(1)))[0] == 1
    assert _after_a_cool_down(_previous(_worker(0), waiting=1))[0] == 1
    assert _after_a_cool_down(_view(_worker(0)))[0] == 1


def test_a_spent_worker_of_an_empty_version_is_not_replaced() -> None:
    """A closed node must not keep a version of before alive."""
    assert _after_a_cool_down(_previous(_worker(0, leaving=True)))[0] == 0


def test_a_version_of_before_keeps_room_while_it_has_sessions() -> None:
    """Its sessions have nowhere else to go, so what holds for any version holds for it."""
    assert demand(_previous(_worker(0, "a", "b")), POLICY) == 2
    spent = decide(_previous(_worker(0, "a", leaving=True)), POLICY, History(), 0.0)
    assert spent.workers.replicas == 2 and [worker.pod for worker in spent.to_empty] == ["worker-0"]


def test_orchestrators_go_after_the_last_worker_of_before() -> None:
    """And come when a version that had gone is the present one again."""
    gone = replace(_previous(), orchestrators=2)
    assert decide_orchestrators(gone, POLICY, History(), 0.0)[0].replicas == 0
    last = replace(_previous(_worker(0), replicas=0), orchestrators=2)
    assert decide_orchestrators(last, POLICY, History(), 0.0)[0].replicas == 2
    assert decide_orchestrators(replace(_view(), orchestrators=0), POLICY, History(), 0.0)[0].replicas == 1
