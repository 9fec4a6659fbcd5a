"""What is done to the release while a viewer watches: pods, nodes, versions and controllers that come and go."""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Mapping
from typing import Any

from services.session import STATE_SCHEMA
from tools.cluster.api import ApiError, Object
from tools.cluster.cluster import NAMESPACE, Cluster
from tools.cluster.container import ROOT
from tools.cluster.release import NAME
from tools.cluster.viewer import Viewer

PATIENCE_S = float(os.environ.get("CLUSTER_PATIENCE_S", "300"))
"""Anything is waited for this long; a machine that does other work takes more."""
SLOTS = 2
"""Of a worker."""
PATIENT_MS = 10_000
"""A target for conditions that this machine keeps, whatever else it does: one orchestrator is enough then."""
TOO_MANY_REQUESTS = 429
PARTS = ("gateway", "orchestrator", "worker", "fleet", "render")
"""Components that an upgrade replaces."""
POCKET: Mapping[str, Any] = {
    "source": "image",
    "path": "pocket",
    "digest": hashlib.sha256((ROOT / "bundles" / "pocket" / "manifest.json").read_bytes()).hexdigest(),
}


class NotHere(Exception):
    """This machine cannot show it, which is nobody's fault; the sentence says why."""


def version_of(bundle: Mapping[str, Any]) -> str:
    """What names of objects say of a bundle."""
    return f"{bundle['digest'][:8]}s{STATE_SCHEMA}"


FIRST = f"{NAME}-worker-{version_of(POCKET)}-0"


def values(**fleet: float) -> dict[str, Any]:
    """Two gateways and controllers, one orchestrator and render worker, and the workers that one session wants: two."""
    settings = {"fleet_look_s": 1, "fleet_cool_down_s": 8, "fleet_max_workers": 3, "fleet_buffer_slots": SLOTS}
    settings |= {"fleet_max_orchestrators": 2, "fleet_condition_target_ms": PATIENT_MS}
    return {
        "allowStrangers": True,
        "redis": {"trial": {"enabled": True}},
        "bundle": dict(POCKET),
        "gateway": {"replicas": 2},
        "orchestrator": {"replicas": 1},
        # However slow this machine is: what is proven here is not speed.
        "worker": {"settings": {"worker_slots": SLOTS, "utilisation_bound": 100, "drain_s": 120}},
        "render": {"enabled": True, "replicas": 1, "claim": {"name": "films"}},
        "fleet": {"enabled": True, "scaleOrchestrators": True, "settings": settings | fleet},
        "monitoring": {"podMonitor": {"enabled": True}, "rules": {"enabled": True}},
    }


async def install(cluster: Cluster, viewer: Viewer) -> str:
    """`helm install --wait`, then a viewer sees three chunks."""
    began = time.monotonic()
    await cluster.release.install(values(), int(PATIENCE_S))
    installed_s = time.monotonic() - began
    viewer.start()
    await viewer.more(3, PATIENCE_S, "the first three chunks")
    await cluster.until_ready("worker", 2, PATIENCE_S)
    return f"installed in {installed_s:.1f} s"


async def helm_test(cluster: Cluster, viewer: Viewer) -> str:
    """`helm test` opens a session of its own beside the viewer's."""
    began = time.monotonic()
    await cluster.release.test(int(PATIENCE_S))
    passed_s = time.monotonic() - began
    await viewer.more(1, PATIENCE_S)
    return f"passed in {passed_s:.1f} s"


async def delete_worker(cluster: Cluster, viewer: Viewer) -> str:
    """The pod that has the session is deleted: the session moves, and the pod comes back."""
    pod = await host_of(cluster, viewer)
    began = time.monotonic()
    await cluster.api.delete("pods", pod, NAMESPACE)
    await cluster.until(lambda: _has_moved(cluster, viewer, pod), PATIENCE_S, "the session elsewhere")
    moved_s = time.monotonic() - began
    await viewer.more(3, PATIENCE_S)
    await cluster.until_ready("worker", 2, PATIENCE_S)
    return f"{pod}: session elsewhere after {moved_s:.1f} s"


async def evict_busy(cluster: Cluster, viewer: Viewer) -> str:
    """The Eviction API refuses the pod that has the session, and takes one that has none."""
    pod = await host_of(cluster, viewer)
    try:
        await cluster.api.evict(pod, NAMESPACE)
    except ApiError as fault:
        if fault.status != TOO_MANY_REQUESTS:
            raise
    else:
        raise RuntimeError(f"{pod} was evicted though it has a session")
    (idle,) = [name for name in await cluster.ready("worker") if name != pod]
    await cluster.until(lambda: _evicted(cluster, idle), PATIENCE_S, f"the eviction of {idle}")
    await viewer.more(2, PATIENCE_S)
    await cluster.until_ready("worker", 2, PATIENCE_S)
    return f"{pod} refused with 429, idle {idle} evicted"


async def drain_node(cluster: Cluster, viewer: Viewer) -> str:
    """What `kubectl drain` does to the node of the session: the controller moves it away, then the pod may go."""
    pod = await host_of(cluster, viewer)
    node = (await cluster.api.get("pods", pod, NAMESPACE))["spec"]["nodeName"]
    began = time.monotonic()
    await cluster.cordon(node, is_closed=True)
    try:
        await cluster.until(lambda: _emptied(cluster, node), PATIENCE_S, f"{node} without pods")
    finally:
        await cluster.cordon(node, is_closed=False)
    drained_s = time.monotonic() - began
    await viewer.more(3, PATIENCE_S)
    await cluster.until_ready("worker", 2, PATIENCE_S)
    return f"{node} was empty after {drained_s:.1f} s"


async def upgrade(cluster: Cluster, viewer: Viewer) -> str:
    """`helm upgrade --wait` with a change in every component: all pods are replaced."""
    before = await _uids(cluster)
    changed = values()
    for part in PARTS:
        changed[part]["podAnnotations"] = {"cuelight.dev/simulated-version": "2"}
    began = time.monotonic()
    await cluster.release.upgrade(changed, int(2 * PATIENCE_S))
    await cluster.until(lambda: _replaced(cluster, before), PATIENCE_S, "new pods everywhere")
    took_s = time.monotonic() - began
    await viewer.more(3, PATIENCE_S)
    return f"{len(before)} pods replaced in {took_s:.1f} s"


async def rollback(cluster: Cluster, viewer: Viewer) -> str:
    """`helm rollback --wait`: all pods are replaced again."""
    before = await _uids(cluster)
    began = time.monotonic()
    await cluster.release.rollback(int(2 * PATIENCE_S))
    await cluster.until(lambda: _replaced(cluster, before), PATIENCE_S, "old pods everywhere")
    took_s = time.monotonic() - began
    await viewer.more(3, PATIENCE_S)
    return f"{len(before)} pods replaced in {took_s:.1f} s"


async def kill_fleet(cluster: Cluster, viewer: Viewer) -> str:
    """The controller that leads is killed: another one leads, and sessions do not notice."""
    leader = await cluster.leader()
    pod = cluster.agent.find(leader)
    if pod is None:
        raise RuntimeError(f"{leader} leads and does not run")
    began = time.monotonic()
    pod.containers[0].kill()

    async def another() -> bool:
        return await cluster.leader() not in ("", leader)

    # The killed one starts again under its name and may take its own lease back.
    await cluster.until_lease_renewed(PATIENCE_S)
    led_s = time.monotonic() - began
    await viewer.more(2, PATIENCE_S)
    return f"led again after {led_s:.1f} s, by {'another' if await another() else 'the same'}"


async def kill_api_server(cluster: Cluster, viewer: Viewer) -> str:
    """The API server is killed and started again: performances go on without it, the controller acts after it."""
    await cluster.plane.kill("kube-apiserver")
    began = time.monotonic()
    await viewer.more(4, PATIENCE_S, "chunks while the API server is away")
    away_s = time.monotonic() - began
    await cluster.plane.start_one("kube-apiserver")
    await cluster.api.wait_ready(PATIENCE_S)
    began = time.monotonic()
    await cluster.until_lease_renewed(PATIENCE_S)
    return f"away for {away_s:.1f} s and its start; the controller led {time.monotonic() - began:.1f} s after"


async def host_of(cluster: Cluster, viewer: Viewer) -> str:
    """The pod that has the viewer's session, as the controller marked it."""
    found: list[str] = []

    async def is_marked() -> bool:
        found[:] = await cluster.hosts(viewer.session_id)
        return len(found) == 1

    await cluster.until(is_marked, PATIENCE_S, "the mark of the session on a pod")
    return found[0]


async def _has_moved(cluster: Cluster, viewer: Viewer, pod: str) -> bool:
    hosts = await cluster.hosts(viewer.session_id)
    return len(hosts) == 1 and hosts != [pod]


async def _evicted(cluster: Cluster, pod: str) -> bool:
    await cluster.api.evict(pod, NAMESPACE)
    return True


async def _emptied(cluster: Cluster, node: str) -> bool:
    """Ask for the eviction of whatever is on a node; whether nothing is."""
    pods = [each for each in await cluster.api.list("pods", NAMESPACE) if each["spec"].get("nodeName") == node]
    for pod in pods:
        if not pod["metadata"].get("deletionTimestamp") and not _is_redis(pod):
            with contextlib.suppress(ApiError):
                await cluster.api.evict(pod["metadata"]["name"], NAMESPACE)
    return all(map(_is_redis, pods))


def _is_redis(pod: Object) -> bool:
    """The trial Redis holds all sessions and has no second: a drained node must not be its own."""
    return bool(pod["metadata"]["labels"].get("app.kubernetes.io/component") == "redis")


async def _uids(cluster: Cluster) -> set[str]:
    pods = [pod for part in PARTS for pod in await cluster.pods(part)]
    return {pod["metadata"]["uid"] for pod in pods}


async def _replaced(cluster: Cluster, before: set[str]) -> bool:
    now = await _uids(cluster)
    ready = [name for part in PARTS for name in await cluster.ready(part)]
    return not now & before and len(ready) == len(now) >= len(before)
