"""Several orchestrators of one deployment: a swap asked of one is a swap of all, and so is its taking back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Self

import pytest
import redis

from cuelight.v1 import orchestrator_admin_pb2 as pb
from orchestrator_llm.service.process import Orchestrator
from orchestrator_llm.service.rollout import Rollout
from orchestrator_llm.service.swap import SwapLimits
from services.bundle import Manifest
from services.errors import CuelightError
from services.settings import OrchestratorSettings
from services.state import EmbeddedRedis
from services.state.keys import ORCHESTRATORS
from services.state.planning import Choice, PlanningStore
from tests.fakes.llm_server import llm_server
from tests.integration.orchestrator_llm.conftest import WorkerStream
from tests.integration.orchestrator_llm.test_planning import chunk, streaming
from tests.integration.orchestrator_llm.test_swap import admin_of, planned_by, steps_of, tuned_bundle

WAIT_S = 60.0


@asynccontextmanager
async def replica(bundle: Path, redis: EmbeddedRedis, **changed: object) -> AsyncIterator[Orchestrator]:
    """One more orchestrator of the deployment."""
    settings = OrchestratorSettings(
        bundle=bundle, orchestrator_listen="127.0.0.1:0", redis_url=redis.url, verify_bundle=False, **changed
    )  # type: ignore[arg-type]
    async with Orchestrator.running(settings) as orchestrator:
        yield orchestrator


@pytest.fixture
async def store(redis_url: str) -> AsyncIterator[PlanningStore]:
    """The deployment's decision, which nobody has made yet."""
    async with PlanningStore.connect(redis_url, call_timeout_s=20) as opened:
        yield opened


async def until(is_so: Callable[[], bool]) -> None:
    """Waits for what replicas do within a second or two."""
    async with asyncio.timeout(WAIT_S):
        while not is_so():
            await asyncio.sleep(0.02)


class Stage:
    """Replicas, each with sessions."""

    def __init__(self, manifest: Manifest) -> None:
        self.replicas: list[Orchestrator] = []
        self.streams: list[WorkerStream] = []
        self._manifest = manifest
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def add(self, bundle: Path, redis: EmbeddedRedis, names: list[str]) -> Orchestrator:
        """A replica with these sessions."""
        orchestrator = await self._stack.enter_async_context(replica(bundle, redis))
        stub = await self._stack.enter_async_context(streaming(orchestrator))
        for name in names:
            stream = WorkerStream(stub, self._manifest, name)
            await stream.open()
            self.streams.append(stream)
        self.replicas.append(orchestrator)
        return orchestrator

    async def swap(self, leader: int, while_moving: int, **request: object) -> list[pb.SwapProgress]:
        """Asks one replica for a swap; every session performs chunks from `while_moving` on as sessions move."""
        steps: list[pb.SwapProgress] = []
        async with admin_of(self.replicas[leader]) as admin:
            self.replicas[leader].swaps.planners.swapper.limits = SwapLimits(move_s=WAIT_S, watch_s=0.2)
            call = admin.SwapPlanner(pb.SwapPlannerRequest(**request))  # type: ignore[arg-type]
            asking = asyncio.create_task(steps_of(call))
            index = while_moving
            while not asking.done():
                if self.replicas[leader].house is not None and self.follows_candidate():
                    await planned_by(self.streams, index)
                    index += 1
                await asyncio.sleep(0.02)
            steps = await asking
        self.next_index = index
        return steps

    def follows_candidate(self) -> bool:
        """Whether every replica has a candidate now."""
        houses = [orchestrator.house for orchestrator in self.replicas]
        return all(house is not None and house.planners.in_use.candidate is not None for house in houses)


async def test_a_swap_asked_of_one_replica_moves_the_sessions_of_all(
    tiny_bundle: Path, manifest: Manifest, redis_server: EmbeddedRedis, store: PlanningStore
) -> None:
    """Both replicas' sessions have the new planner, and so has one that starts later, from its start."""
    with llm_server("good") as server:
        async with Stage(manifest) as stage:
            await stage.add(tiny_bundle, redis_server, ["a1", "a2"])
            await stage.add(tiny_bundle, redis_server, ["b1", "b2"])
            assert await planned_by(stage.streams, 0) == ["rule"] * 4
            steps = await stage.swap(0, 1, to=server.spec)
            assert steps[-1].phase == pb.SWAP_PHASE_DONE, steps[-1].text
            assert any("4 of 4 live sessions" in step.text for step in steps)
            assert await planned_by(stage.streams, stage.next_index) == [server.spec] * 4
            late = await stage.add(tiny_bundle, redis_server, ["c1"])
            assert await planned_by(stage.streams[-1:], 0) == [server.spec]
            assert (await store.decision()).planner == Choice(current=server.spec)
            assert late.follower is not None
            follower = late.follower
            told = [(sessions, follower.decision.version) for sessions in (1, 2, 2)]
            await until(lambda: sorted((each.sessions, each.version) for each in follower.reports.values()) == told)
            async with admin_of(late) as admin:
                status = await admin.GetPlanners(pb.GetPlannersRequest())
            assert status.current == server.spec
            assert [each.version for each in status.replicas] == [status.version] * 3


async def test_a_share_is_the_same_sessions_at_every_replica(
    tiny_bundle: Path, manifest: Manifest, redis_server: EmbeddedRedis, store: PlanningStore
) -> None:
    """By percentage, and wherever a session is opened."""
    names = [f"s{number}" for number in range(6)]
    with llm_server("good") as server:
        async with Stage(manifest) as stage:
            await stage.add(tiny_bundle, redis_server, names[:3])
            await stage.add(tiny_bundle, redis_server, names[3:])
            steps = await stage.swap(1, 0, to=server.spec, percent=50, unchecked=True)
            assert steps[-1].phase == pb.SWAP_PHASE_DONE, steps[-1].text
            rollout = Rollout("rule")
            rollout.begin(server.spec, 50)
            expected = [rollout.choose(name) for name in names]
            assert set(expected) == {"rule", server.spec}
            assert await planned_by(stage.streams, stage.next_index) == expected
            kept = (await store.decision()).planner
            assert (kept.candidate, kept.percent, kept.on_trial_by) == (server.spec, 50, "")


async def test_what_fails_at_another_replica_is_taken_back_everywhere(
    tiny_bundle: Path, manifest: Manifest, redis_server: EmbeddedRedis, store: PlanningStore
) -> None:
    """A planner that the other replica cannot have: the leader says whose fault it was, and all are on the rules."""
    with llm_server("good") as server:
        async with Stage(manifest) as stage:
            leader = await stage.add(tiny_bundle, redis_server, ["a1"])
            other = await stage.add(tiny_bundle, redis_server, ["b1"])
            assert other.house is not None and leader.follower is not None and other.follower is not None
            other.house.planners._make = _cannot
            await planned_by(stage.streams, 0)
            async with admin_of(leader) as admin:
                steps = await steps_of(admin.SwapPlanner(pb.SwapPlannerRequest(to=server.spec)))
            assert steps[-1].phase == pb.SWAP_PHASE_BACK
            assert "has no such model" in steps[-1].text and other.follower.replica in steps[-1].text
            assert (await store.decision()).planner == Choice()
            assert await planned_by(stage.streams, 1) == ["rule", "rule"]


def _cannot(_: object) -> object:
    from orchestrator_llm.service.completion import PlannerFailed

    raise PlannerFailed("this machine has no such model")


async def test_a_trial_whose_leader_dies_is_taken_back(
    tiny_bundle: Path, manifest: Manifest, redis_server: EmbeddedRedis, store: PlanningStore
) -> None:
    """The others see that nobody watches over it any more, and go back."""
    with llm_server("good") as server:
        async with Stage(manifest) as stage:
            survivor = await stage.add(tiny_bundle, redis_server, ["a1"])
            assert survivor.house is not None
            rollout = survivor.house.planners.in_use
            begun = (await store.decision()).changed(
                "planner", Choice(candidate=server.spec, percent=100, on_trial_by="gone-for-ever")
            )
            assert await store.decide(begun)
            async with asyncio.timeout(WAIT_S):
                while (await store.decision()).planner.candidate:
                    await asyncio.sleep(0.02)
            await until(lambda: rollout.candidate is None)
            assert await planned_by(stage.streams, 0) == ["rule"]


async def test_two_swaps_at_a_time_are_one_too_many(
    tiny_bundle: Path, manifest: Manifest, redis_server: EmbeddedRedis, store: PlanningStore
) -> None:
    """While one replica leads, another refuses, and says who leads."""
    async with Stage(manifest) as stage:
        one = await stage.add(tiny_bundle, redis_server, [])
        two = await stage.add(tiny_bundle, redis_server, [])
        assert one.follower is not None and two.follower is not None
        leader, other = one.follower, two.follower
        await until(lambda: leader.replica in other.reports)
        one.swaps.planners.swapper._task = asyncio.create_task(asyncio.Event().wait())  # type: ignore[arg-type]
        await leader.begin("planner", "openai:m@http://127.0.0.1:9/v1", 10)
        await until(lambda: other.decision.planner.on_trial_by == leader.replica)
        async with admin_of(two) as admin:
            with pytest.raises(CuelightError, match=f"replica {leader.replica} leads another swap"):
                await steps_of(admin.SwapPlanner(pb.SwapPlannerRequest(to="rule")))


async def test_a_tuned_conditioner_comes_into_use_at_every_replica(
    tiny_bundle: Path, manifest: Manifest, redis_server: EmbeddedRedis, store: PlanningStore, tmp_path: Path
) -> None:
    """And a replica whose folder holds something else says so, and has all of them go back."""
    tuned = tuned_bundle(tiny_bundle, tmp_path / "tuned")
    async with Stage(manifest) as stage:
        one = await stage.add(tiny_bundle, redis_server, ["a1"])
        two = await stage.add(tiny_bundle, redis_server, ["b1"])
        for stream in stage.streams:
            await chunk(stream, 0)
        async with admin_of(one) as admin:
            steps = await steps_of(admin.SwapConditioner(pb.SwapConditionerRequest(bundle=str(tuned))))
        assert steps[-1].phase == pb.SWAP_PHASE_DONE, steps[-1].text
        assert one.house is not None and two.house is not None
        following = two.house.conditioners
        await until(lambda: "0.1.0-tuned" in following.current.name)
        assert (await store.decision()).conditioner.current.startswith(str(tuned))
        assert two.follower is not None
        wrong = (await store.decision()).changed("conditioner", Choice(candidate=f"{tuned}@0123456789ab", percent=100))
        assert await store.decide(wrong)
        watched = two.follower
        await until(lambda: "holds another bundle" in watched._kept["conditioner"].fault)
        assert "0.1.0-tuned" in following.current.name and following.candidate is None


async def test_a_decision_that_replicas_cannot_follow_is_told_for_as_long_as_it_holds(
    tiny_bundle: Path, manifest: Manifest, redis_server: EmbeddedRedis, store: PlanningStore
) -> None:
    """Those of an earlier version, to which it means nothing, go on with what they have, say so, and can be led on."""
    with llm_server("good") as server:
        async with Stage(manifest) as stage:
            followers = [(await stage.add(tiny_bundle, redis_server, [name])).follower for name in ("a1", "b1")]

            def faults() -> list[str]:
                return [f.reports[f.replica].planner.fault for f in followers if f is not None]

            async def decided(choice: Choice) -> None:
                made = (await store.decision()).changed("planner", choice)
                assert await store.decide(made)
                await until(lambda: all(f and f.reports[f.replica].version == made.version for f in followers))

            for _ in range(2):  # looked at again, it is no better
                await decided(Choice(current="telepathy:m"))
                assert all("is no planner" in fault for fault in faults())
            assert await planned_by(stage.streams, 0) == ["rule", "rule"]
            steps = await stage.swap(0, 1, to=server.spec, unchecked=True)
            assert steps[-1].phase == pb.SWAP_PHASE_DONE, steps[-1].text
            assert await planned_by(stage.streams, stage.next_index) == [server.spec] * 2
            await until(lambda: faults() == ["", ""])


async def test_no_swap_goes_past_a_replica_that_is_not_understood(
    tiny_bundle: Path, manifest: Manifest, redis_server: EmbeddedRedis, raw_redis: redis.Redis, store: PlanningStore
) -> None:
    """A report of a form that another version may have is no reason to follow nothing, and none to leave it behind."""
    with llm_server("good") as server:
        async with Stage(manifest) as stage:
            leader = await stage.add(tiny_bundle, redis_server, ["a1"])
            raw_redis.hset(ORCHESTRATORS, "stranger", '{"says": "hello"}')
            async with admin_of(leader) as admin:
                steps = await steps_of(admin.SwapPlanner(pb.SwapPlannerRequest(to=server.spec, unchecked=True)))
            assert steps[-1].phase == pb.SWAP_PHASE_BACK
            assert "may be of another version (replica stranger)" in steps[-1].text
            assert (await store.decision()).planner == Choice()
            assert await planned_by(stage.streams, 0) == ["rule"]


async def test_a_lost_decision_is_told_again(
    tiny_bundle: Path, manifest: Manifest, redis_server: EmbeddedRedis, raw_redis: redis.Redis, store: PlanningStore
) -> None:
    """A Redis that forgets everything hears from the replicas what was decided."""
    async with replica(tiny_bundle, redis_server) as orchestrator:
        assert orchestrator.follower is not None
        follower = orchestrator.follower
        made = (await store.decision()).changed("planner", Choice(current="rule"))
        assert await store.decide(made)
        await until(lambda: follower.decision.version == made.version)
        raw_redis.flushall()
        async with asyncio.timeout(WAIT_S):
            while (await store.decision()).planner.current != "rule":
                await asyncio.sleep(0.02)


async def test_a_replica_starts_without_redis_and_follows_once_it_answers(tiny_bundle: Path) -> None:
    """It serves with what its settings say, and takes part in the deployment as soon as there is one."""
    redis = EmbeddedRedis()
    redis.start()
    try:
        redis.kill()
        async with replica(tiny_bundle, redis, redis_call_timeout_ms=200) as orchestrator:
            follower = orchestrator.follower
            assert follower is not None and orchestrator.servicer is not None and not follower.reports
            redis.restart()
            await until(lambda: follower.replica in follower.reports)
    finally:
        redis.stop()
