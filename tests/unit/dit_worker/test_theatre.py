"""Scheduler, pacing, admission and ladder together, in virtual time: what holds whatever comes."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dit_worker.capacity.answer import answer
from dit_worker.capacity.audience import Audience, Entry, Experience, Line
from dit_worker.capacity.profile import Profile
from dit_worker.capacity.study import run, watch
from dit_worker.capacity.theatre import Policy, Theatre
from dit_worker.capacity.world import Call, Place, Pool, World
from dit_worker.engine.playback import Player

COSTS = {
    "chunk_s": 1.375,
    "steps": 4,
    "seconds": {
        "motion": [0.02, 0.03],
        "step": [0.05, 0.06],
        "plan": [0.01],
        "condition": [0.005, 0.01],
        "end": [0.005],
        "commit": [0.004],
        "decode": [0.05, 0.07],
        "encode": [0.01],
    },
    "places": {
        "device": {"pool": "gpu"},
        "decode": {"pool": "gpu"},
        "encode": {"pool": "gpu", "threads": 2},
        "orchestrator": {"threads": 4},
        "store": {"threads": 64},
    },
    "pools": {"gpu": 1},
}
PROFILE = Profile.model_validate(COSTS)
EVERYBODY = Policy(utilisation_bound=None, fidelity_floor_steps=None)


class WatchedWorld(World):
    """Checks a theatre after everything that happens in it."""

    theatre: Theatre | None = None

    def after(self, delay_s: float, call: Call) -> None:
        def watched() -> None:
            call()
            self.check()

        super().after(delay_s, watched)

    def check(self) -> None:
        """The device never idles while a session could run."""
        if self.theatre is not None:
            is_ready = any(seat.is_ready for seat in self.theatre.scheduler._seats.values())
            assert self.theatre.running or not is_ready, "the device idles beside a session that could run"


class WatchedTheatre(Theatre):
    """Checks who is taken, and every chunk that begins."""

    def take(self, audience: Audience, entry: Entry) -> Experience | None:
        others = len(self.on_stage)
        experience = super().take(audience, entry)
        if experience is not None and others and self.policy.utilisation_bound is not None:
            assert self.admission.utilisation(self._load()) <= self.policy.utilisation_bound + 1e-6
        if experience is not None:
            self.watch_begins()
        return experience

    def watch_begins(self) -> None:
        """Every begin is within the run-ahead cap, from where the playhead is, or for an answer will be when due."""
        begin = type(self.scheduler).begin

        def watched(name: str, position: int, deadline: float) -> None:
            performance = self.on_stage[name]
            pacing, chunk = performance._pacing, performance._chunk
            assert chunk is not None
            ahead_s = (position + 1) * self.profile.chunk_s - pacing.acknowledged_s
            grace_s = 0.0 if chunk.asked_at is None else pacing.limits.first_chunk_target_s
            report_s = 0.0 if chunk.asked_at is None else 0.25 + 0.02
            short_s = 0.02  # a chunk's sound may end a packet before its picture, and some audiences go by it
            assert ahead_s <= pacing.limits.max_ahead_s + grace_s + report_s + short_s + 1e-6
            begin(self.scheduler, name, position, deadline)

        self.scheduler.begin = watched  # type: ignore[method-assign]


audiences = st.builds(
    Audience,
    kind=st.sampled_from(["conversation", "turns", "script"]),
    run_s=st.just(40.0),
    sessions=st.integers(1, 9),
    phases=st.sampled_from(["random", "aligned"]),
    talk_s=st.floats(1, 10),
    listen_s=st.floats(1, 10),
)
policies = st.builds(
    Policy,
    utilisation_bound=st.sampled_from([None, 0.92, 0.5]),
    run_ahead_chunks=st.integers(1, 8),
    fidelity_floor_steps=st.sampled_from([None, 1, 2, 3]),
)


@settings(max_examples=30, deadline=None)
@given(
    audiences, policies, st.sampled_from(["earliest_deadline", "chunk_fifo", "step_round_robin"]), st.integers(0, 99)
)
def test_what_holds_whatever_comes(audience: Audience, policy: Policy, order: str, seed: int) -> None:
    """Work conserving; never above the cap; one chunk of a session in flight; the admitted pass; the floor is kept."""
    rng, world = random.Random(seed), WatchedWorld()
    theatre = WatchedTheatre(world, PROFILE, replace(policy, order=order), rng)
    world.theatre = theatre
    seen: list[Experience] = []
    for entry in audience.entries(rng, PROFILE.chunk_s):
        world.after(entry.at_s, lambda entry=entry: seen.extend(filter(None, [theatre.take(audience, entry)])))
    world.run(audience.run_s)
    assert seen, "an empty worker takes the first"
    floor = 4 if policy.fidelity_floor_steps is None or audience.kind == "script" else policy.fidelity_floor_steps
    assert all(floor <= steps <= 4 for each in seen for steps in each.steps)
    in_flight = [seat.chunk_index for seat in theatre.scheduler._seats.values()]
    assert len(in_flight) == len(theatre.on_stage)  # a second chunk in flight would have raised


@settings(max_examples=15, deadline=None)
@given(st.integers(2, 14), st.sampled_from(["random", "aligned"]), st.integers(0, 99))
def test_nobody_starves(sessions: int, phases: str, seed: int) -> None:
    """However many share the device, each gets its part: no session makes less than a third of what the mean makes."""
    rng, world = random.Random(seed), World()
    theatre = Theatre(world, PROFILE, EVERYBODY, rng)
    audience = Audience("conversation", 60.0, sessions=sessions, phases=phases, talk_s=4.0, listen_s=4.0)
    for entry in audience.entries(rng, PROFILE.chunk_s):
        world.after(entry.at_s, lambda entry=entry: theatre.take(audience, entry))
    world.run(59.0)  # they leave at 60
    made = [len(performance.experience.steps) for performance in theatre.on_stage.values()]
    assert min(made) >= sum(made) / len(made) / 3


def test_the_admitted_are_clean_and_the_others_are_refused() -> None:
    """At twice what the device bears the bound keeps those on stage clean; without it hardly anybody is."""
    audience = Audience("conversation", 120.0, sessions=8, talk_s=6.0, listen_s=6.0)
    bounded = run(PROFILE, replace(EVERYBODY, utilisation_bound=0.92), audience, seed=1)
    everybody = run(PROFILE, EVERYBODY, audience, seed=1)
    assert bounded.refused == 8 - bounded.most_sessions > 0
    assert bounded.clean == 1.0 and bounded.attainment == 1.0
    assert everybody.refused == 0 and everybody.clean < 0.2


def test_one_rollout_at_a_time_keeps_the_others_waiting() -> None:
    """The baseline serves a script to its end before it begins the next, however urgent that is."""
    audience = Audience("turns", 120.0, sessions=3, talk_s=8.0, listen_s=8.0)
    ahead = replace(EVERYBODY, run_ahead_chunks=64)
    rollout = run(PROFILE, replace(ahead, order="one_rollout"), audience, seed=2)
    deadline = run(PROFILE, ahead, audience, seed=2)
    assert rollout.ttfc_p95_s > 2 * deadline.ttfc_p95_s


def test_a_run_repeats_itself() -> None:
    """The same seed gives the same figures."""
    audience = Audience("conversation", 60.0, arrivals_per_s=0.1)
    assert run(PROFILE, Policy(), audience, 3) == run(PROFILE, Policy(), audience, 3)
    assert run(PROFILE, Policy(), audience, 3) != run(PROFILE, Policy(), audience, 4)


def test_processors_are_shared_and_threads_queue() -> None:
    """Three seconds of work on two processors by three threads take half as long again; a place of one goes in turn."""
    world, ended = World(), []
    pool = Pool(world, 2)
    for _ in range(3):
        pool.work(2.0, lambda: ended.append(world.now))
    world.run(10.0)
    assert ended == pytest.approx([3.0] * 3)
    assert pool.worked_s == pytest.approx(6.0)
    place, took = Place(world, None, 1), []
    for seconds in (1.0, 2.0):
        place.submit(seconds, lambda took_s: took.append((world.now, took_s)))
    world.run(20.0)
    assert took == [(11.0, pytest.approx(1.0)), (13.0, pytest.approx(2.0))]


def test_competitors_have_their_part_of_a_processor() -> None:
    """Beside one other program that always wants the only processor two seconds of work take four."""
    world, ended = World(), []
    pool = Pool(world, 1, competitors=1)
    pool.work(2.0, lambda: ended.append(world.now))
    world.run(10.0)
    assert ended == [pytest.approx(4.0)] and pool.worked_s == pytest.approx(2.0)
    beside = PROFILE.model_copy(update={"competitors": 2.0})
    audience = Audience("conversation", 60.0, sessions=2, talk_s=4.0, listen_s=4.0)
    assert run(beside, EVERYBODY, audience, 1).ttfc_p50_s > 1.5 * run(PROFILE, EVERYBODY, audience, 1).ttfc_p50_s


def test_messages_and_delivery_cost_what_was_measured() -> None:
    """Six questions a chunk and one delivery: so much more work, and the first chunk so much later."""
    seconds = {**COSTS["seconds"], "exchange": [0.01], "delivery": [0.03]}
    places = {**COSTS["places"], "gateway": {"pool": "gpu", "threads": 64}}
    profile = Profile.model_validate({**COSTS, "seconds": seconds, "places": places})
    assert profile.chunk_work_s() == pytest.approx(PROFILE.chunk_work_s() + 6 * 0.01 + 0.03)
    alone = Audience("conversation", 60.0, sessions=1, talk_s=4.0, listen_s=4.0)
    later_s = run(profile, EVERYBODY, alone, 1).ttfc_p50_s - run(PROFILE, EVERYBODY, alone, 1).ttfc_p50_s
    assert later_s == pytest.approx(0.09, abs=0.04)
    with pytest.raises(ValueError, match="gateway"):
        Profile.model_validate({**COSTS, "seconds": seconds})


def test_a_light_decoder_is_taken_when_there_is_no_time() -> None:
    """At more than the device bears chunks are decoded lightly, and more of them are in time; else none is."""
    seconds = {**COSTS["seconds"], "light_decode": [0.005]}
    profile, policy = Profile.model_validate({**COSTS, "seconds": seconds}), replace(EVERYBODY, fidelity_floor_steps=2)
    assert profile.chunk_work_s() == pytest.approx(PROFILE.chunk_work_s())
    crowd = Audience("conversation", 60.0, sessions=7, talk_s=4.0, listen_s=4.0)
    assert run(profile, policy, crowd, 1).attainment > 0.3 + run(PROFILE, policy, crowd, 1).attainment
    alone = replace(crowd, sessions=1)
    assert run(profile, policy, alone, 1) == run(PROFILE, policy, alone, 1)


def test_a_player_counts_stalls_and_not_its_beginning() -> None:
    """Two seconds of media, then one second of nothing; after the last chunk silence is no stall."""
    experience = Experience()
    player = Player(experience)
    player.receive(2.0, now=5.0)
    player.expects_more = True
    assert player.look(6.5) == 1.5
    player.receive(3.0, now=8.0)
    assert experience.stalls_s == [pytest.approx(1.0)]
    player.expects_more = False
    player.leave(20.0)
    assert experience.stalls_s == [pytest.approx(1.0)] and experience.played_s == pytest.approx(3.0)


def test_a_player_that_is_held_neither_plays_nor_stalls() -> None:
    """A pause of five seconds, begun with half a second left and another with nothing left, is neither."""
    experience = Experience()
    player = Player(experience)
    player.expects_more = True
    player.receive(1.0, now=0.0)
    player.hold(True, now=0.5)
    player.hold(False, now=5.5)
    assert player.lead_s(1.0, now=5.5) == pytest.approx(0.5)
    player.hold(True, now=6.5)
    player.receive(2.0, now=8.0)
    player.hold(False, now=11.5)
    player.receive(3.0, now=12.0)
    assert experience.stalls_s == [] and player.look(12.5) == pytest.approx(2.0)


def test_a_profile_says_what_is_wrong_with_it(tmp_path: Path) -> None:
    """Missing stages, unknown pools and text that is no JSON are a sentence with the file's name."""
    path = tmp_path / "costs.json"
    for text, word in (
        ("nonsense", "costs.json"),
        (json.dumps({**COSTS, "seconds": {"step": [0.1]}}), "'motion'"),
        (json.dumps({**COSTS, "pools": {}}), "'gpu'"),
        (json.dumps({**COSTS, "chunk_s": -1}), "chunk_s"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=word):
            Profile.read(path)
    path.write_text(json.dumps(COSTS))
    assert Profile.read(path) == PROFILE


def test_the_answer_says_how_many_workers_and_why() -> None:
    """No more on each than the test takes and than stay clean; the sentences name both, and what nobody can exceed."""
    found = answer(PROFILE, 50, Policy(), Audience(run_s=40.0, talk_s=4.0, listen_s=4.0), range(2))
    assert found.per_worker == min(found.taken, found.kept) <= found.most
    assert (found.workers - 1) * found.per_worker < 50 <= found.workers * found.per_worker
    said = " ".join(found.sentences())
    assert f"50 sessions need {found.workers} workers of {found.per_worker} each" in said
    assert f"more than {found.most:.1f}" in said
    with pytest.raises(ValueError, match="bound"):
        answer(PROFILE, 50, EVERYBODY, Audience(), range(1))


def test_no_order_can_exceed_what_the_busiest_place_bears() -> None:
    """The offline bound: one GPU that does steps, caches and decoding for 0.32 s of each 1.375 s."""
    work_s = 0.025 + 4 * 0.055 + 0.06 + 0.01
    assert PROFILE.most_sessions() == pytest.approx(1.375 / work_s)
    just_above = Audience("script", 200.0, sessions=5)
    assert run(PROFILE, EVERYBODY, just_above, 1).attainment < 0.9


def test_known_sessions_come_and_ask_when_they_did() -> None:
    """Two answers of two chunks each, asked for at their times, whatever the seed; the second waits for the first."""
    entry = Entry(2.0, 30.0, (Line(5.0, 2), Line(5.1, 2), Line(40.0, 1)))
    audience = Audience(run_s=40.0, known=(entry,))
    for seed in (1, 2):
        _, [seen], offered = watch(PROFILE, EVERYBODY, audience, seed)
        assert offered == 1 and seen.life_s == 30.0
        assert len(seen.ttfcs_s) == 2 and max(seen.ttfcs_s) < 0.8
    said: list[tuple[float, int]] = []
    rng, world = random.Random(1), World()
    theatre = Theatre(world, PROFILE, EVERYBODY, rng)
    theatre.take(audience, entry)
    [performance] = theatre.on_stage.values()
    say = performance._say
    performance._say = lambda chunks: (said.append((world.now, chunks)), say(chunks))  # type: ignore[method-assign, assign, func-returns-value]
    world.run(30.0)
    assert said[0] == (5.0, 2) and said[1][1] == 2
    assert said[1][0] > 5.0 + 2 * PROFILE.chunk_s  # when the first answer had been heard out


def test_taking_idle_chunks_back_costs_what_was_measured() -> None:
    """An answer before which idle chunks are taken back comes later by the cut, and by the sound decoded anew."""
    costs = {**COSTS, "seconds": {**COSTS["seconds"], "cut": [0.04], "stand": [0.2]}}
    costs["places"] = {**COSTS["places"], "gateway": {"threads": 64}}
    profile = Profile.model_validate(costs)
    assert profile.chunk_work_s() == PROFILE.chunk_work_s()  # not of every chunk
    alone = Audience(run_s=40.0, known=(Entry(0.0, 40.0, tuple(Line(6.3 * n, 1) for n in range(1, 6))),))
    (_, [cut], _), (_, [free], _) = (watch(each, EVERYBODY, alone, 1) for each in (profile, PROFILE))
    later_s = [one - other for one, other in zip(cut.ttfcs_s, free.ttfcs_s, strict=True)]
    assert len(later_s) == 5 and max(later_s) > 0.2  # where what was unplayed had to go
    assert min(later_s) < 0.05  # and where nothing had
