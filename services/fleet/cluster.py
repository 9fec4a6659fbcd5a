"""The pods of one version as Kubernetes has them, and what may be done to them: set numbers of replicas, mark pods.

Reads and writes through the official client; what the API server raises passes. Decides nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from kubernetes.aio.client import ApiClient, AppsV1Api, CoreV1Api
from kubernetes.aio.client.exceptions import ApiException

from services.fleet.election import FORBIDDEN, NOT_FOUND

Json: TypeAlias = dict[str, Any]
MARK = "cuelight.dev/"
BUSY_LABEL = f"{MARK}busy"
"""What a PodDisruptionBudget selects: pods with sessions."""
SAFE_TO_EVICT = "cluster-autoscaler.kubernetes.io/safe-to-evict"


@dataclass(frozen=True, slots=True)
class PodSeen:
    """A worker's pod."""

    name: str
    ordinal: int
    is_ready: bool
    is_leaving: bool
    """It is being deleted, or its node takes no pods any more."""
    labels: Mapping[str, str]
    annotations: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class ClusterSeen:
    """Workers and orchestrators."""

    replicas: int
    pods: tuple[PodSeen, ...]
    orchestrators: int | None = None
    """None when their number is none of the controller's business."""


@dataclass(frozen=True, slots=True)
class Names:
    """What the controller is responsible for: workers that hold one bundle, and their orchestrators."""

    namespace: str
    workers: str
    """Name of the workers' StatefulSet."""
    orchestrators: str = ""
    """Name of the orchestrators' Deployment; empty when it is none of the controller's business."""
    watches_nodes: bool = False
    """Nodes may be read, so that pods on closed ones are known to leave."""
    is_previous: bool = False
    """Its bundle is one of before: it performs what sessions it has, and goes when it has none."""


class Cluster:
    """One version of a release in one namespace."""

    def __init__(self, api: ApiClient, names: Names) -> None:
        self._api: Any = api
        self._core, self._apps = CoreV1Api(api), AppsV1Api(api)
        self.names = names

    async def look(self) -> ClusterSeen | None:
        """See what there is; None when it is of before and gone, or no business of ours any more."""
        names = self.names
        try:
            stateful = self._plain(await self._apps.read_namespaced_stateful_set(names.workers, names.namespace))
        except ApiException as fault:
            if fault.status in (NOT_FOUND, FORBIDDEN) and names.is_previous:
                return None
            raise
        wanted = stateful["spec"]["selector"]["matchLabels"]
        selector = ",".join(f"{key}={value}" for key, value in sorted(wanted.items()))
        pods = self._plain(await self._core.list_namespaced_pod(names.namespace, label_selector=selector))
        closed = await self._closed_nodes() if names.watches_nodes else frozenset()
        seen = (_seen(pod, names.workers, closed) for pod in pods["items"])
        orchestrators = None
        if names.orchestrators:
            found = await self._apps.read_namespaced_deployment(names.orchestrators, names.namespace)
            orchestrators = self._plain(found)["spec"].get("replicas", 1)
        replicas = stateful["spec"].get("replicas", 1)
        return ClusterSeen(replicas, tuple(pod for pod in seen if pod is not None), orchestrators)

    async def set_workers(self, replicas: int, seen: int) -> bool:
        """Set the number of workers; False, and nothing done, when it is not the one that was seen any more."""
        name, namespace = self.names.workers, self.names.namespace
        scale = self._plain(await self._apps.read_namespaced_stateful_set_scale(name, namespace))
        if scale["spec"].get("replicas", 0) != seen:
            return False
        await self._apps.patch_namespaced_stateful_set_scale(name, namespace, _scaled(scale, replicas))
        return True

    async def set_orchestrators(self, replicas: int, seen: int) -> bool:
        """Set the number of orchestrators, likewise."""
        name, namespace = self.names.orchestrators, self.names.namespace
        scale = self._plain(await self._apps.read_namespaced_deployment_scale(name, namespace))
        if scale["spec"].get("replicas", 0) != seen:
            return False
        await self._apps.patch_namespaced_deployment_scale(name, namespace, _scaled(scale, replicas))
        return True

    async def mark(self, pod: PodSeen, marks: Mapping[str, str]) -> bool:
        """Put marks on a pod where they differ; False when they do not. A pod that is gone needs none."""
        busy = marks["busy"]
        annotations = {f"{MARK}{name}": value for name, value in marks.items() if name != "busy"}
        annotations[SAFE_TO_EVICT] = "false" if busy == "true" else "true"
        same = all(pod.annotations.get(name) == value for name, value in annotations.items())
        if same and pod.labels.get(BUSY_LABEL) == busy:
            return False
        body = {"metadata": {"labels": {BUSY_LABEL: busy}, "annotations": annotations}}
        try:
            await self._core.patch_namespaced_pod(pod.name, self.names.namespace, body)
        except ApiException as fault:
            if fault.status != NOT_FOUND:
                raise
        return True

    async def _closed_nodes(self) -> frozenset[str]:
        nodes = self._plain(await self._core.list_node())["items"]
        return frozenset(node["metadata"]["name"] for node in nodes if node.get("spec", {}).get("unschedulable"))

    def _plain(self, found: object) -> Json:
        """An object of the client's as the API has it: in the client's own types every field may be missing."""
        plain: Json = self._api.sanitize_for_serialization(found)
        return plain


def ordinal_of(pod: str, stateful: str) -> int | None:
    """The ordinal of a StatefulSet's pod; None for any other pod."""
    found = pod.removeprefix(f"{stateful}-")
    return int(found) if found != pod and found.isdigit() else None


def _scaled(scale: Json, replicas: int) -> Json:
    """A change of the number that is refused when anything has changed since `scale` was read."""
    version = scale["metadata"]["resourceVersion"]
    return {"metadata": {"resourceVersion": version}, "spec": {"replicas": replicas}}


def _seen(pod: Json, stateful: str, closed: frozenset[str]) -> PodSeen | None:
    """The pod as it counts; None for one that is none of the StatefulSet's, or has ended."""
    metadata, status = pod["metadata"], pod.get("status", {})
    ordinal = ordinal_of(metadata["name"], stateful)
    if ordinal is None or status.get("phase") in ("Succeeded", "Failed"):
        return None
    return PodSeen(
        name=metadata["name"],
        ordinal=ordinal,
        is_ready=any(each["type"] == "Ready" and each["status"] == "True" for each in status.get("conditions", ())),
        is_leaving="deletionTimestamp" in metadata or pod["spec"].get("nodeName") in closed,
        labels=metadata.get("labels", {}),
        annotations=metadata.get("annotations", {}),
    )
