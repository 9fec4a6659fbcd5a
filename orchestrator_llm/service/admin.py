"""OrchestratorAdminService: an operator's requests, as swaps of this process. It converts and knows nothing else."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from grpc import aio

from cuelight.v1 import orchestrator_admin_pb2 as pb
from cuelight.v1.orchestrator_admin_pb2_grpc import OrchestratorAdminServiceServicer
from orchestrator_llm.service.follower import Follower
from orchestrator_llm.service.house import House
from orchestrator_llm.service.swap import Phase, Progress
from orchestrator_llm.service.swaps import Swaps
from services.errors import InvalidInput

ALL = 100
_PHASES = {
    Phase.WARMING: pb.SWAP_PHASE_WARMING,
    Phase.CHECKING: pb.SWAP_PHASE_CHECKING,
    Phase.MOVING: pb.SWAP_PHASE_MOVING,
    Phase.WATCHING: pb.SWAP_PHASE_WATCHING,
    Phase.DONE: pb.SWAP_PHASE_DONE,
    Phase.BACK: pb.SWAP_PHASE_BACK,
}


class OrchestratorAdminServicer(OrchestratorAdminServiceServicer):
    """Answers operators."""

    def __init__(self, house: House, swaps: Swaps, follower: Follower | None) -> None:
        """`follower` is this process's part in its deployment; None where it is alone."""
        self._house = house
        self._swaps = swaps
        self._follower = follower

    async def SwapPlanner(
        self, request: pb.SwapPlannerRequest, context: aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[pb.SwapPlannerResponse]:
        """Makes another planner the deployment's."""
        swap = self._swaps.planners.begin(request.to, _percent(request.percent), is_checked=not request.unchecked)
        async for progress in swap:
            yield pb.SwapPlannerResponse(progress=_progress(progress))

    async def SwapConditioner(
        self, request: pb.SwapConditionerRequest, context: aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[pb.SwapConditionerResponse]:
        """Makes the conditioner of another bundle the one in use."""
        if not request.bundle:
            raise InvalidInput("bundle must name a folder", field="bundle")
        async for progress in self._swaps.conditioners.begin(request.bundle, _percent(request.percent)):
            yield pb.SwapConditionerResponse(progress=_progress(progress))

    async def GetPlanners(
        self, request: pb.GetPlannersRequest, context: aio.ServicerContext[Any, Any]
    ) -> pb.GetPlannersResponse:
        """What is known and in use."""
        planners, conditioners = self._house.planners, self._house.conditioners
        sessions, rollout = planners.sessions(), planners.in_use
        return pb.GetPlannersResponse(
            planners=[
                pb.PlannerStatus(
                    name=planner.name,
                    kind=planner.spec.kind,
                    sessions=sessions[planner.name],
                    asked=planner.asked,
                    failed=planner.failed,
                    latency_s=planner.latency_s,
                )
                for planner in planners.known()
            ],
            current=rollout.current.name,
            candidate=rollout.candidate.name if rollout.candidate else "",
            percent=rollout.percent,
            conditioner=conditioners.current.name,
            conditioner_candidate=conditioners.candidate.name if conditioners.candidate else "",
            replicas=[] if self._follower is None else _replicas(self._follower),
            version=0 if self._follower is None else self._follower.decision.version,
        )


def _percent(percent: int) -> int:
    if percent > ALL:
        raise InvalidInput(f"percent must be 0 to {ALL}; 0 is all", field="percent")
    return percent or ALL


def _replicas(follower: Follower) -> list[pb.ReplicaStatus]:
    return [
        pb.ReplicaStatus(
            replica=replica,
            address=report.address,
            sessions=report.sessions,
            version=report.version,
            fault=report.planner.fault or report.conditioner.fault,
        )
        for replica, report in sorted(follower.reports.items())
    ]


def _progress(progress: Progress) -> pb.SwapProgress:
    return pb.SwapProgress(
        phase=_PHASES[progress.phase],
        text=progress.text,
        elapsed_s=progress.elapsed_s,
        sessions_moved=progress.moved,
        sessions_to_move=progress.to_move,
    )
