"""The controller: look, decide, act, every two seconds, while it leads. `decision` decides; effects are here.

When the API server or the store is away nothing is done and nothing is lost: sessions go on without it, and the next
look that succeeds decides afresh. Followers look too, so that their metrics are true and taking over takes no time.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass

import aiohttp
from kubernetes.aio.client.exceptions import ApiException

from services.errors import CuelightError
from services.fleet.cluster import Cluster, ClusterSeen
from services.fleet.decision import (
    Advice,
    Decision,
    FleetPolicy,
    FleetView,
    History,
    Worker,
    decide,
    decide_orchestrators,
)
from services.fleet.election import Election
from services.fleet.figures import FleetFigures
from services.fleet.view import joined
from services.logs import get_logger
from services.state.demand import DemandStore
from services.tls import Certificates
from services.wire.steering import WorkerLine

log = get_logger(__name__)

CALL_S = 8.0
"""One look at the API server, or one act, takes no longer: less than a leader may act without renewing."""
EMPTY_AGAIN_S = 10.0
"""A worker that is to give its sessions away is told again after this long: there may be room for them by then."""
_API_FAULTS = (ApiException, aiohttp.ClientError, TimeoutError, OSError)


@dataclass(frozen=True)
class Tools:
    """What the controller acts with."""

    cluster: Cluster
    store: DemandStore
    election: Election
    figures: FleetFigures
    certificates: Certificates | None
    scales: bool
    """False leaves the numbers to others, and only marks and empties."""


class Controller:
    """One of the controllers of a release."""

    def __init__(self, tools: Tools, policy: FleetPolicy, *, now: Callable[[], float] = time.monotonic) -> None:
        self._tools = tools
        self._policy = policy
        self._now = now
        self._history = History()
        self._emptied: dict[str, float] = {}
        self._said = ""

    async def run(self, every_s: float) -> None:
        """Look and act until cancelled, then let another controller begin."""
        try:
            while True:
                began_s = self._now()
                await self.step()
                await asyncio.sleep(max(0.0, every_s - (self._now() - began_s)))
        finally:
            with contextlib.suppress(*_API_FAULTS):
                async with asyncio.timeout(CALL_S):
                    await self._tools.election.resign()

    async def step(self) -> FleetView | None:
        """One look, and what follows from it; None when it could not be had."""
        figures = self._tools.figures
        try:
            async with asyncio.timeout(CALL_S):
                leads = await self._tools.election.stand()
        except _API_FAULTS as fault:
            leads = self._failed("election", fault)
        figures.leads.set(leads)
        at_s = self._now()
        looked = await self._look()
        if looked is None:
            return None
        cluster, view = looked[0], looked[1](at_s)
        decision = decide(view, self._policy, self._history, self._now())
        orchestrators, self._history = decide_orchestrators(view, self._policy, decision.history, self._now())
        figures.stand(view, decision.workers, orchestrators)
        if leads:
            try:
                async with asyncio.timeout(CALL_S):
                    await self._act(cluster, view, decision, orchestrators)
            except _API_FAULTS as fault:
                self._failed("api-server", fault)
            await self._empty(decision.to_empty)
        return view

    async def _look(self) -> tuple[ClusterSeen, Callable[[float], FleetView]] | None:
        try:
            async with asyncio.timeout(CALL_S):
                cluster = await self._tools.cluster.look()
        except _API_FAULTS as fault:
            self._failed("api-server", fault)
            return None
        try:
            survey = await self._tools.store.survey()
        except CuelightError as fault:
            self._failed("store", fault)
            return None
        return cluster, lambda at_s: joined(at_s, cluster, survey)

    async def _act(self, cluster: ClusterSeen, view: FleetView, decision: Decision, orchestrators: Advice) -> None:
        tools = self._tools
        for pod in cluster.pods:
            if pod.name in decision.marks:
                await tools.cluster.mark(pod, decision.marks[pod.name])
        if decision.workers.reason != self._said:
            self._said = decision.workers.reason
            log.info("fleet_advised", workers=decision.workers.replicas, present=view.replicas, why=self._said)
        if not tools.scales or not tools.election.is_leader:
            return
        if decision.workers.replicas != view.replicas and await tools.cluster.set_workers(
            decision.workers.replicas, view.replicas
        ):
            tools.figures.changes.labels("workers").inc()
            log.info(
                "workers_set", workers=decision.workers.replicas, before=view.replicas, why=decision.workers.reason
            )
        if not view.orchestrators or orchestrators.replicas == view.orchestrators:
            return
        if await tools.cluster.set_orchestrators(orchestrators.replicas, view.orchestrators):
            tools.figures.changes.labels("orchestrators").inc()
            log.info("orchestrators_set", orchestrators=orchestrators.replicas, why=orchestrators.reason)

    async def _empty(self, workers: tuple[Worker, ...]) -> None:
        """Have workers that leave give their sessions away."""
        self._emptied = {pod: at_s for pod, at_s in self._emptied.items() if any(each.pod == pod for each in workers)}
        for worker in workers:
            if not worker.address or self._now() - self._emptied.get(worker.pod, -EMPTY_AGAIN_S) < EMPTY_AGAIN_S:
                continue
            self._emptied[worker.pod] = self._now()
            try:
                async with WorkerLine(worker.address, self._tools.certificates) as line:
                    left = await line.drain(move_sessions=True)
                log.info("worker_emptied", pod=worker.pod, sessions_left=left)
            except CuelightError as fault:
                self._failed("worker", fault)

    def _failed(self, whom: str, fault: BaseException) -> bool:
        self._tools.figures.faults.labels(whom).inc()
        status = getattr(fault, "status", "")
        log.warning("fleet_look_failed", whom=whom, error=type(fault).__name__, status=str(status))
        return False
