"""Nodes whose agent starts the pods' real processes, in the kubelet's place.

It looks at the API server a few times a second and brings about what it reads: pods bound to its nodes run, deleted
ones stop with their grace, Services and names lead where endpoints say. Statuses go back. While the API server is away
what runs goes on. Images are not run: a container's command is, from this repository's environment.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tools.cluster.api import Api, ApiError, Object
from tools.cluster.container import ROOT, Container, Mount, Surroundings, expanded
from tools.cluster.control_plane import API_PORT
from tools.cluster.network import API_SERVICE, GATEWAY, Backend, Network

LOOK_S = 0.2
BEAT_S = 5.0
CAPACITY = {"cpu": "64", "memory": "256Gi", "pods": "50"}
_PASSING = frozenset({0, 404, 409, 429, 500, 503, 504})
"""Statuses of a server that is away or busy, and of objects that went or changed: the next look is another."""
_IMAGE = {
    "HOME": "/tmp",
    "LANG": "C.UTF-8",
    "OMP_NUM_THREADS": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONUNBUFFERED": "1",
}


@dataclass
class Pod:
    """A pod that was started here."""

    manifest: Object
    network: str
    address: str
    folder: Path
    containers: list[Container] = field(default_factory=list)
    task: asyncio.Task[None] | None = None
    phase: str = "Pending"
    is_stopping: bool = False
    reported: Object = field(default_factory=dict)
    began_at: float = field(default_factory=time.time)

    @property
    def is_ready(self) -> bool:
        """All containers are."""
        return self.phase == "Running" and bool(self.containers) and all(each.is_ready for each in self.containers)

    def status(self) -> Object:
        """For the API server."""
        since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.began_at))
        ready = "True" if self.is_ready else "False"
        conditions = {"Initialized": "True", "Ready": ready, "ContainersReady": ready, "PodScheduled": "True"}
        return {
            "phase": self.phase,
            "hostIP": GATEWAY,
            "podIP": self.address,
            "podIPs": [{"ip": self.address}],
            "startTime": since,
            "conditions": [{"type": name, "status": value} for name, value in conditions.items()],
            "containerStatuses": [each.status() for each in self.containers],
        }


class NodeAgent:
    """All nodes of the simulation."""

    def __init__(self, api: Api, network: Network, folder: Path, nodes: Sequence[str]) -> None:
        self._api = api
        self._network = network
        self._folder = folder
        self.nodes = tuple(nodes)
        self.pods: dict[str, Pod] = {}
        """By uid."""
        self._changed = asyncio.Event()
        self._silenced: set[str] = set()
        self._beaten_at = 0.0

    async def register(self) -> None:
        """Make the Node objects."""
        for name in self.nodes:
            labels = {"kubernetes.io/hostname": name, "topology.kubernetes.io/zone": "here"}
            body = {"metadata": {"name": name, "labels": labels}, "spec": {}}
            await self._api.create("nodes", body)
        await self._beat()

    async def run(self) -> None:
        """Look and act until cancelled."""
        while True:
            try:
                if time.monotonic() - self._beaten_at > BEAT_S:
                    await self._beat()
                await self._look()
            except ApiError as fault:
                if fault.status not in _PASSING:
                    raise
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await self._changed.wait()
            self._changed.clear()

    async def close(self) -> None:
        """Kill whatever still runs."""
        for pod in self.pods.values():
            for container in pod.containers:
                container.kill()
            if pod.task is not None:
                pod.task.cancel()
        await asyncio.gather(*(pod.task for pod in self.pods.values() if pod.task), return_exceptions=True)

    def find(self, name: str) -> Pod | None:
        """The pod of this name that runs here."""
        return next((pod for pod in self.pods.values() if pod.manifest["metadata"]["name"] == name), None)

    async def _beat(self) -> None:
        """Say that the nodes live."""
        now = time.strftime("%Y-%m-%dT%H:%M:%S.000000Z", time.gmtime())
        for name in self.nodes:
            conditions = [
                {"type": "Ready", "status": "True", "reason": "AgentReady", "lastHeartbeatTime": now[:19] + "Z"}
            ]
            status = {"capacity": CAPACITY, "allocatable": CAPACITY, "conditions": conditions}
            await self._api.patch("nodes", name, {"status": status}, sub="status")
            spec = {"holderIdentity": name, "leaseDurationSeconds": 40, "renewTime": now}
            try:
                await self._api.patch("leases", name, {"spec": spec}, "kube-node-lease")
            except ApiError as fault:
                if fault.status != 404:
                    raise
                with contextlib.suppress(ApiError):  # its namespace may not be there yet
                    await self._api.create("leases", {"metadata": {"name": name}, "spec": spec}, "kube-node-lease")
        self._beaten_at = time.monotonic()

    async def _look(self) -> None:
        listed = await self._api.list("pods")
        seen = set()
        for manifest in listed:
            uid, node = manifest["metadata"]["uid"], manifest["spec"].get("nodeName")
            if node not in self.nodes:
                continue
            seen.add(uid)
            if uid not in self.pods and not manifest["metadata"].get("deletionTimestamp"):
                self._start(uid, manifest)
            elif uid not in self.pods:
                await self._api.delete("pods", *_name(manifest), now=True, uid=uid)
            elif manifest["metadata"].get("deletionTimestamp"):
                self._stop(uid, manifest["metadata"].get("deletionGracePeriodSeconds", 30))
        for uid in self.pods.keys() - seen:
            self._stop(uid, 0.0)
        await self._report()
        await self._lead()

    def _start(self, uid: str, manifest: Object) -> None:
        network, address = self._network.add_pod()
        folder = self._folder / "pods" / uid
        folder.mkdir(parents=True)
        self.pods[uid] = pod = Pod(manifest, network, address, folder)
        pod.task = asyncio.create_task(self._run(pod), name=manifest["metadata"]["name"])

    def _stop(self, uid: str, grace_s: float) -> None:
        pod = self.pods[uid]
        if not pod.is_stopping:
            pod.is_stopping = True
            running, pod.task = pod.task, asyncio.create_task(self._end(uid, pod, pod.task, grace_s))
            del running

    async def _end(self, uid: str, pod: Pod, running: asyncio.Task[None] | None, grace_s: float) -> None:
        await asyncio.gather(*(container.stop(grace_s) for container in pod.containers))
        if running is not None:
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await running
        self._network.remove_pod(pod.network)
        shutil.rmtree(pod.folder, ignore_errors=True)
        while True:
            try:
                await self._api.delete("pods", *_name(pod.manifest), now=True, uid=uid)
                break
            except ApiError as fault:
                if fault.status in (404, 409):
                    break
                await asyncio.sleep(LOOK_S)
        del self.pods[uid]
        self._changed.set()

    async def _run(self, pod: Pod) -> None:
        spec = pod.manifest["spec"]
        restarts = spec.get("restartPolicy", "Always") == "Always"
        mounted = await self._volumes(pod)
        for each in spec.get("initContainers", []):
            container = await self._container(pod, each, mounted, is_restarted=False)
            await container.run()
            if container.exit_code:
                pod.phase = "Failed"
                self._changed.set()
                return
        pod.containers = [
            await self._container(pod, each, mounted, is_restarted=restarts) for each in spec["containers"]
        ]
        pod.phase = "Running"
        await asyncio.gather(*(each.run() for each in pod.containers))
        if not restarts:
            pod.phase = "Failed" if any(each.exit_code for each in pod.containers) else "Succeeded"
        self._changed.set()

    async def _container(
        self, pod: Pod, spec: Mapping[str, Any], volumes: Mapping[str, Path], *, is_restarted: bool
    ) -> Container:
        mounts: list[Mount] = [(str(ROOT / "bundles"), "/opt/cuelight/bundles", True)]
        mounts += [
            (str(volumes[each["name"]]), each["mountPath"], each.get("readOnly", False))
            for each in spec.get("volumeMounts", [])
        ]
        name = pod.manifest["metadata"]["name"]
        log = self._folder / "logs" / f"{name}.log"
        log.parent.mkdir(exist_ok=True)
        around = Surroundings(name, pod.network, pod.address, log, tuple(mounts))
        environment = await self._environment(pod, spec)
        return Container(spec, environment, around, self._changed.set, is_restarted)

    async def _environment(self, pod: Pod, spec: Mapping[str, Any]) -> dict[str, str]:
        path = f"{Path(sys.prefix, 'bin')}:{os.environ.get('PATH', '/usr/bin:/bin')}"
        api = {"KUBERNETES_SERVICE_HOST": API_SERVICE, "KUBERNETES_SERVICE_PORT": "443"}
        result = {**_IMAGE, "PATH": path, "HOSTNAME": pod.manifest["metadata"]["name"], **api}
        for variable in spec.get("env", []):
            given = variable.get("valueFrom", {})
            if "secretKeyRef" in given:
                secret = await self._api.get("secrets", given["secretKeyRef"]["name"], _name(pod.manifest)[1])
                value = base64.b64decode(secret["data"][given["secretKeyRef"]["key"]]).decode()
            elif "fieldRef" in given:
                value = self._field(pod, given["fieldRef"]["fieldPath"])
            else:
                value = expanded(variable.get("value", ""), result)
            result[variable["name"]] = value
        return result

    def _field(self, pod: Pod, path: str) -> str:
        if path == "status.podIP":
            return pod.address
        part, _, key = path.partition(".")
        return str(pod.manifest[part][key])

    async def _volumes(self, pod: Pod) -> dict[str, Path]:
        made = {}
        for volume in pod.manifest["spec"].get("volumes", []):
            if "persistentVolumeClaim" in volume:
                made[volume["name"]] = await self._disk(pod, volume["persistentVolumeClaim"]["claimName"])
                continue
            path = made[volume["name"]] = pod.folder / volume["name"]
            path.mkdir()
            if "secret" in volume:
                wanted = volume["secret"]
                secret = await self._api.get("secrets", wanted["secretName"], _name(pod.manifest)[1])
                for key, value in secret.get("data", {}).items():
                    (path / key).write_bytes(base64.b64decode(value))
            elif "emptyDir" not in volume:
                raise NotImplementedError(f"volume {volume['name']}: neither emptyDir, secret nor claim")
        return made

    async def _disk(self, pod: Pod, claim: str) -> Path:
        """The folder of the volume that a claim is bound to; the scheduler has seen to it that it is."""
        bound = await self._api.get("persistentvolumeclaims", claim, _name(pod.manifest)[1])
        volume = await self._api.get("persistentvolumes", bound["spec"]["volumeName"])
        return Path(volume["spec"]["hostPath"]["path"])

    async def _report(self) -> None:
        for pod in list(self.pods.values()):
            status = pod.status()
            if status != pod.reported:
                name, namespace = _name(pod.manifest)
                try:
                    await self._api.patch("pods", name, {"status": status}, namespace, "status")
                except ApiError as fault:
                    if fault.status not in _PASSING:
                        raise
                    continue
                pod.reported = status

    async def _lead(self) -> None:
        """Services and names, as endpoints have them."""
        endpoints = {_name(each): each for each in await self._api.list("endpoints")}
        services: dict[tuple[str, int], Backend] = {}
        names: dict[str, str] = {}
        for service in await self._api.list("services"):
            name, namespace = _name(service)
            at = service["spec"].get("clusterIP", "None")
            subsets = endpoints.get((name, namespace), {}).get("subsets") or []
            if (name, namespace) == ("kubernetes", "default"):
                services[at, 443] = Backend(((GATEWAY, API_PORT),))
            elif at == "None":
                names |= _pod_names(name, namespace, subsets)
            else:
                names |= dict.fromkeys((name, f"{name}.{namespace}", f"{name}.{namespace}.svc"), at)
                services |= {(at, port["port"]): _backend(port, subsets) for port in service["spec"]["ports"]}
        self._network.set_names(names)
        await self._network.set_services(services)


def _name(manifest: Mapping[str, Any]) -> tuple[str, str]:
    return manifest["metadata"]["name"], manifest["metadata"].get("namespace", "")


def _backend(port: Mapping[str, Any], subsets: Sequence[Mapping[str, Any]]) -> Backend:
    found = []
    for subset in subsets:
        numbers = [each["port"] for each in subset.get("ports", []) if each.get("name") == port.get("name")]
        found += [(address["ip"], numbers[0]) for address in subset.get("addresses") or [] if numbers]
    return Backend(tuple(found))


def _pod_names(service: str, namespace: str, subsets: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Names of pods in a headless Service; those that are not ready are in it when it publishes them."""
    names = {}
    for subset in subsets:
        for address in subset.get("addresses") or []:
            if "hostname" in address:
                names[f"{address['hostname']}.{service}.{namespace}.svc"] = address["ip"]
    return names
