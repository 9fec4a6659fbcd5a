"""Playhead, run-ahead and deadlines, in virtual time."""

from __future__ import annotations

import pytest

from dit_worker.engine.costs import HALF_LIFE_CHUNKS, ChunkCost, Costs
from dit_worker.engine.pacing import Pacing, PacingLimits

CHUNK_S = 1.375


class VirtualClock:
    """A clock that moves when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> VirtualClock:
    """A clock that stands at 100 s."""
    return VirtualClock()


@pytest.fixture
def pacing(clock: VirtualClock) -> Pacing:
    """Two chunks of run-ahead, 0.8 s to the first chunk, of which 0.2 s for what follows the steps."""
    return Pacing(clock, PacingLimits(CHUNK_S, 2 * CHUNK_S, 0.8, 0.05), media=lambda: 0.15)


def test_run_ahead_is_counted_from_the_acknowledged_playhead(pacing: Pacing, clock: VirtualClock) -> None:
    """Time alone frees nothing: only what the client says it has played does."""
    assert pacing.can_begin(0)
    assert pacing.can_begin(1)
    assert not pacing.can_begin(2)
    pacing.deliver(2 * CHUNK_S)
    clock.now += 60
    assert not pacing.can_begin(2)
    pacing.acknowledge(CHUNK_S)
    assert pacing.can_begin(2)
    assert not pacing.can_begin(3)


def test_an_audience_that_goes_by_its_sound_frees_as_much(pacing: Pacing) -> None:
    """A chunk whose sound was heard to its end, a packet before its picture's, has been played."""
    pacing.deliver(2 * CHUNK_S)
    pacing.acknowledge(CHUNK_S - 0.03)
    assert not pacing.can_begin(2)
    pacing.acknowledge(CHUNK_S - 0.02)
    assert pacing.can_begin(2)


def test_a_cap_below_one_chunk_still_lets_one_be_made(clock: VirtualClock) -> None:
    """A session may never be capped to a standstill."""
    pacing = Pacing(clock, PacingLimits(CHUNK_S, 0.0, 0.8, 0.2))
    assert pacing.can_begin(0)
    pacing.deliver(CHUNK_S)
    assert not pacing.can_begin(1)
    pacing.acknowledge(CHUNK_S)
    assert pacing.can_begin(1)


def test_the_playhead_runs_on_between_acknowledgements_but_not_past_the_media(
    pacing: Pacing, clock: VirtualClock
) -> None:
    """It is extrapolated by the clock and clamped to what was delivered; a client's claim is clamped alike."""
    pacing.deliver(CHUNK_S)
    pacing.acknowledge(0.5)
    clock.now += 0.5
    assert pacing.playhead_s == pytest.approx(1.0)
    clock.now += 10
    assert pacing.playhead_s == CHUNK_S
    pacing.acknowledge(99.0)
    assert pacing.acknowledged_s == CHUNK_S
    pacing.acknowledge(-1.0)
    assert pacing.acknowledged_s == 0.0


def test_pause_freezes_the_playhead_and_begins_nothing(pacing: Pacing, clock: VirtualClock) -> None:
    """A pause stops the clock of playback until it is lifted."""
    pacing.deliver(2 * CHUNK_S)
    pacing.acknowledge(1.0)
    clock.now += 0.25
    pacing.pause(True)
    clock.now += 5
    assert pacing.playhead_s == pytest.approx(1.25)
    assert not pacing.can_begin(1)
    pacing.pause(False)
    clock.now += 0.25
    assert pacing.playhead_s == pytest.approx(1.5)
    assert pacing.can_begin(1)


def test_deadlines_follow_the_playhead(pacing: Pacing, clock: VirtualClock) -> None:
    """The first chunk a target after it was asked for, later ones when the playhead comes; less what follows steps."""
    assert pacing.deadline(0, asked_at=99.5) == pytest.approx(100.3 - 0.2)
    pacing.deliver(CHUNK_S)
    pacing.acknowledge(0.0)
    clock.now += 0.3
    assert pacing.deadline(1, asked_at=clock.now) == pytest.approx(100.0 + CHUNK_S - 0.2)
    assert pacing.deadline(2, asked_at=clock.now) == pytest.approx(100.0 + 2 * CHUNK_S - 0.2)


def test_deadlines_follow_what_media_take_of_late(clock: VirtualClock) -> None:
    """Decoding that has become dearer makes steps due earlier, a few quick chunks later they have their time again."""
    costs = Costs(4)
    pacing = Pacing(clock, PacingLimits(CHUNK_S, 2 * CHUNK_S, 0.8, 0.05), media=lambda: costs.media_s)
    assert pacing.deadline(0, asked_at=100.0) == pytest.approx(100.75)
    for media_s, due_at in ((0.1, 100.65), (0.4, 100.35)):
        for _ in range(20):
            costs.add(ChunkCost(4, 0.02, 0.01, media_s=media_s))
        assert pacing.deadline(0, asked_at=100.0) == pytest.approx(due_at)
    for _ in range(6 * HALF_LIFE_CHUNKS):
        costs.add(ChunkCost(4, 0.02, 0.01, media_s=0.1))
    assert pacing.deadline(0, asked_at=100.0) == pytest.approx(100.65)


def test_an_audience_that_ran_dry_is_served_like_a_new_one(pacing: Pacing, clock: VirtualClock) -> None:
    """When the playhead has caught up with the media, the target counts from the cue again."""
    pacing.deliver(CHUNK_S)
    pacing.acknowledge(CHUNK_S)
    clock.now += 30
    assert pacing.deadline(1, asked_at=clock.now) == pytest.approx(clock.now + 0.6)


def test_the_playhead_can_be_foretold(pacing: Pacing, clock: VirtualClock) -> None:
    """It moves on only while the client plays, and never past the media."""
    pacing.deliver(2 * CHUNK_S)
    assert pacing.playhead_in(0.8) == 0.0
    pacing.acknowledge(0.5)
    clock.now += 0.1
    assert pacing.playhead_in(0.8) == pytest.approx(1.4)
    assert pacing.playhead_in(60) == 2 * CHUNK_S
    pacing.pause(True)
    assert pacing.playhead_in(0.8) == pytest.approx(0.6)


def test_retired_media_move_the_playhead_back(pacing: Pacing) -> None:
    """After an interrupt nothing beyond the cut counts as delivered or played."""
    pacing.deliver(4 * CHUNK_S)
    pacing.acknowledge(3 * CHUNK_S)
    pacing.retire(2 * CHUNK_S)
    assert pacing.delivered_s == pacing.acknowledged_s == 2 * CHUNK_S
    assert pacing.can_begin(3)


def test_chunks_behind_the_first_are_due_when_those_before_them_have_been_played(
    pacing: Pacing, clock: VirtualClock
) -> None:
    """Before anything was sent, and from the moment it was sent, although the client has not said yet that it plays."""
    assert pacing.deadline(1, asked_at=100.0) == pytest.approx(100.0 + CHUNK_S)
    clock.now += 0.3
    pacing.deliver(CHUNK_S)
    clock.now += 0.1
    assert pacing.playhead_s == 0.0
    assert pacing.deadline(1, asked_at=clock.now) == pytest.approx(100.3 + CHUNK_S - 0.2)


def test_playback_that_ran_dry_goes_on_when_media_come(pacing: Pacing, clock: VirtualClock) -> None:
    """Time in which nothing was there to play is not taken for playing."""
    pacing.deliver(CHUNK_S)
    pacing.acknowledge(1.0)
    clock.now += 5
    pacing.deliver(2 * CHUNK_S)
    clock.now += 0.5
    assert pacing.playhead_s == pytest.approx(CHUNK_S + 0.5)


def test_an_answer_is_due_a_target_after_it_was_asked_for(pacing: Pacing, clock: VirtualClock) -> None:
    """However much is still to be played: somebody waits; and it may begin when it will be within the cap by then."""
    pacing.deliver(2 * CHUNK_S)
    pacing.acknowledge(CHUNK_S - 0.5)
    assert pacing.deadline(2, asked_at=100.0) == pytest.approx(100.0 + CHUNK_S + 0.5 - 0.2)
    assert pacing.deadline(2, asked_at=100.0, is_answer=True) == pytest.approx(100.8 - 0.2)
    assert not pacing.can_begin(2)
    assert pacing.can_begin(2, is_answer=True)
    assert not pacing.can_begin(3, is_answer=True)


def test_who_takes_over_waits_to_be_told_where_the_client_is(pacing: Pacing, clock: VirtualClock) -> None:
    """Until then the next chunk is as urgent as a first one."""
    pacing.resume(4 * CHUNK_S, 6 * CHUNK_S)
    clock.now += 1
    assert pacing.playhead_s == 4 * CHUNK_S
    assert pacing.deadline(6, asked_at=clock.now) == pytest.approx(clock.now + 0.6)
    pacing.acknowledge(5 * CHUNK_S)
    assert pacing.deadline(6, asked_at=clock.now) == pytest.approx(clock.now + CHUNK_S - 0.2)


def test_who_comes_at_the_live_edge_waits_for_nothing_before_it(pacing: Pacing, clock: VirtualClock) -> None:
    """After a fail-over chunks that nobody here will play hold nothing back, and playback is not taken to run."""
    pacing.resume(0.0, 2 * CHUNK_S)
    assert not pacing.can_begin(2)
    pacing.join()
    assert pacing.can_begin(2)
    clock.now += CHUNK_S
    assert pacing.playhead_s == 2 * CHUNK_S


def test_a_session_that_moved_is_no_stall_while_its_client_has_media(pacing: Pacing, clock: VirtualClock) -> None:
    """Two chunks lie at the client as the session comes: nobody waits for what is made in time, early or late."""
    pacing.resume(4 * CHUNK_S, 6 * CHUNK_S)
    pacing.acknowledge(4 * CHUNK_S)
    player = pacing.player
    for position, delay_s in enumerate((0.2, -0.2, 0.3, 0.0), start=6):
        clock.now += CHUNK_S + delay_s
        pacing.deliver((position + 1) * CHUNK_S)
        player.expects_more = True
    player.look(clock.now)
    assert player.playback.stalls_s == [] and player.playback.played_s == pytest.approx(4 * CHUNK_S + 0.3)
    clock.now += 3 * CHUNK_S
    pacing.deliver(11 * CHUNK_S)
    assert player.playback.stalls_s == [pytest.approx(CHUNK_S + 0.3)]


def test_a_client_that_ran_dry_on_the_way_waits_from_when_it_is_heard(pacing: Pacing, clock: VirtualClock) -> None:
    """What it waited for before is not this worker's to tell."""
    pacing.resume(4 * CHUNK_S, 6 * CHUNK_S)
    pacing.acknowledge(6 * CHUNK_S)
    pacing.player.expects_more = True
    clock.now += 0.5
    pacing.deliver(7 * CHUNK_S)
    assert pacing.player.playback.stalls_s == [0.5]
