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
from services.state.demand import DemandStore, Survey
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

    clusters: tuple[Cluster, ...]
    """One for each version, the present one first."""
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
        self._histories: dict[str, History] = {}
        self._emptied: dict[str, float] = {}
        self._said: dict[str, str] = {}

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

    async def step(self) -> tuple[FleetView, ...]:
        """One look, and what follows from it; the versions that were seen, none when it could not be had."""
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
            return ()
        found, survey = looked
        views: list[FleetView] = []
        to_empty: list[Worker] = []
        for cluster, seen in found:
            if seen is None:
                figures.stand_previous(cluster.names.workers, None)
                continue
            view = joined(at_s, cluster.names, seen, survey)
            to_empty += await self._attend(cluster, seen, view, leads=leads)
            views.append(view)
        await self._empty(tuple(to_empty))
        return tuple(views)

    async def _look(self) -> tuple[list[tuple[Cluster, ClusterSeen | None]], Survey] | None:
        try:
            async with asyncio.timeout(CALL_S):
                found = [(cluster, await cluster.look()) for cluster in self._tools.clusters]
        except _API_FAULTS as fault:
            self._failed("api-server", fault)
            return None
        try:
            return found, await self._tools.store.survey()
        except CuelightError as fault:
            self._failed("store", fault)
            return None

    async def _attend(self, cluster: Cluster, seen: ClusterSeen, view: FleetView, *, leads: bool) -> tuple[Worker, ...]:
        """Decide on one version, and act on it when this controller leads; the workers that are to be emptied."""
        name = cluster.names.workers
        decision = decide(view, self._policy, self._histories.get(name, History()), self._now())
        orchestrators, self._histories[name] = decide_orchestrators(view, self._policy, decision.history, self._now())
        if view.is_previous:
            self._tools.figures.stand_previous(name, view)
        else:
            self._tools.figures.stand(view, decision.workers, orchestrators)
        if not leads:
            return ()
        try:
            async with asyncio.timeout(CALL_S):
                await self._act(cluster, seen, (view, decision, orchestrators))
        except _API_FAULTS as fault:
            self._failed("api-server", fault)
        return decision.to_empty

    async def _act(self, cluster: Cluster, seen: ClusterSeen, decided: tuple[FleetView, Decision, Advice]) -> None:
        tools, (view, decision, orchestrators) = self._tools, decided
        wanted, name = decision.workers, cluster.names.workers
        for pod in seen.pods:
            if pod.name in decision.marks:
                await cluster.mark(pod, decision.marks[pod.name])
        if wanted.reason != self._said.get(name):
            self._said[name] = wanted.reason
            log.info("fleet_advised", of=name, workers=wanted.replicas, present=view.replicas, why=wanted.reason)
        if not tools.scales or not tools.election.is_leader:
            return
        if wanted.replicas != view.replicas and await cluster.set_workers(wanted.replicas, view.replicas):
            tools.figures.changes.labels("workers").inc()
            log.info("workers_set", of=name, workers=wanted.replicas, before=view.replicas, why=wanted.reason)
        if view.orchestrators is None or orchestrators.replicas == view.orchestrators:
            return
        if await cluster.set_orchestrators(orchestrators.replicas, view.orchestrators):
            tools.figures.changes.labels("orchestrators").inc()
            log.info(
                "orchestrators_set",
                of=cluster.names.orchestrators,
                orchestrators=orchestrators.replicas,
                why=orchestrators.reason,
            )

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
