"""Simulated viewers against a scripted SessionService on a real socket."""

from __future__ import annotations

import os

import pytest

from dit_worker.capacity.audience import Audience
from evaluation.audience.crowd import Crowd, CrowdError
from evaluation.audience.viewer import Assignment, perform
from tests.fakes.session_service import CHUNK_S, FakeGateway, Script, error_info, serve, status

TALKATIVE = Audience(run_s=2.0, talk_s=20.0, listen_s=0.05)


def assignment(fake: FakeGateway, stays_s: float = 2.0) -> Assignment:
    """A viewer that comes at once."""
    return Assignment(fake.address, TALKATIVE, 0.0, stays_s, CHUNK_S, 2 * CHUNK_S, seed=3)


async def test_a_viewer_notes_what_came_and_when() -> None:
    """Its cue was answered, every chunk has its time, place and lead, and its playhead was told again and again."""
    fake = FakeGateway()
    async with serve(fake):
        seen = await perform(assignment(fake))
    assert seen.fault == "" and not seen.refused
    assert len(seen.experience.ttfcs_s) == 1 and 0 < seen.experience.ttfcs_s[0] < 2.0
    assert [arrival.position for arrival in seen.arrivals] == list(range(len(seen.arrivals)))
    assert len(seen.arrivals) > 2 and seen.arrivals[0].is_answer and not seen.arrivals[1].is_answer
    assert all(0 <= one.lead_s <= CHUNK_S * one.position for one in seen.arrivals)  # the fake is faster than playback
    assert 0 < seen.experience.played_s <= 2.0 and seen.experience.stalls_s == []
    told = [each.acknowledge.playhead.ToMilliseconds() for each in fake.requests if each.HasField("acknowledge")]
    assert told == sorted(told) and len(set(told)) > 2 and told[-1] <= 2000


async def test_a_viewer_that_gets_nothing_says_so() -> None:
    """A refusal is told with when to come again; words that are never answered count with the time they waited."""
    full = status("RESOURCE_EXHAUSTED", "all slots are taken", error_info("NO_CAPACITY"))
    refusing, mute = FakeGateway(Script(refuse_create=full)), FakeGateway(Script(words_per_chunk=0))
    async with serve(refusing), serve(mute):
        refused = await perform(assignment(refusing))
        mute.script.fail_after = 0
        failed = await perform(assignment(mute, stays_s=1.0))
    assert refused.refused and refused.arrivals == []
    assert failed.fault.startswith("SessionFailed") and not failed.refused


async def test_a_crowd_performs_together_and_leaves_no_process_behind() -> None:
    """Two processes, two sessions at a time, two tales; a killed viewer is told of; afterwards all are gone."""
    fake = FakeGateway()
    async with serve(fake), Crowd() as crowd:
        seen = await crowd.perform([assignment(fake), assignment(fake)])
        pids = crowd.pids
        os.kill(pids[0], 9)
        with pytest.raises(CrowdError, match="ended"):
            await crowd.perform([assignment(fake, 1.0)])
    assert len(fake.sessions) == len(seen) == len(set(pids)) == 2
    assert all(each.arrivals and not each.fault for each in seen)
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
