"""A cluster that is up: control plane, network, node agent and a release, and what tests want to do to it."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.cluster.api import Api, ApiError, Object
from tools.cluster.control_plane import SERVER, ControlPlane
from tools.cluster.network import Network
from tools.cluster.node_agent import NodeAgent
from tools.cluster.prometheus import Prometheus
from tools.cluster.release import NAME, Release

NAMESPACE = "stage"
NODES = ("node-1", "node-2", "node-3")
GATEWAY_ADDRESS = f"{NAME}-gateway.{NAMESPACE}.svc:50051"
_LOOK_S = 0.1


@dataclass
class Cluster:
    """Everything of one simulation."""

    plane: ControlPlane
    api: Api
    network: Network
    agent: NodeAgent
    release: Release
    prometheus: Prometheus
    folder: Path

    @classmethod
    @contextlib.asynccontextmanager
    async def up(cls, binaries: Path, folder: Path, objects: Sequence[Object]) -> AsyncIterator[Cluster]:
        """Start an empty cluster in the namespaces of this process, and take it down again.

        Prometheus watches the release whose rendered `objects` are given, once that is installed.
        """
        network = Network(folder)
        network.open()
        plane = ControlPlane(binaries, folder / "control-plane")
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(plane.stop)
            await plane.start()
            api = await stack.enter_async_context(Api.connect(SERVER, plane.authority, plane.token))
            agent = NodeAgent(api, network, folder, NODES)
            await agent.register()
            running = asyncio.create_task(agent.run(), name="node agent")
            running.add_done_callback(_tell)
            stack.push_async_callback(_end, running, agent, network)
            watching = Prometheus.up(binaries / "prometheus", folder / "prometheus", api, objects)
            prometheus = await stack.enter_async_context(watching)
            cluster = cls(plane, api, network, agent, Release(plane.kubeconfig, folder, NAMESPACE), prometheus, folder)
            await cluster.until(cluster._has_accounts, 60, "the default service account")
            yield cluster

    async def until(self, condition: Callable[[], Awaitable[object]], limit_s: float, what: str) -> None:
        """Wait until something holds; the API server may be away meanwhile. Raises TimeoutError, which says what."""
        try:
            async with asyncio.timeout(limit_s):
                while True:
                    with contextlib.suppress(ApiError):
                        if await condition():
                            return
                    await asyncio.sleep(_LOOK_S)
        except TimeoutError:
            raise TimeoutError(f"waited {limit_s:g} s for {what} in vain") from None

    async def pods(self, component: str) -> list[Object]:
        """Pods of a component that are not on their way out, by name."""
        found = await self.api.list("pods", NAMESPACE, f"app.kubernetes.io/component={component}")
        return sorted((pod for pod in found if not pod["metadata"].get("deletionTimestamp")), key=_name)

    async def ready(self, component: str) -> list[str]:
        """Names of a component's pods that are ready."""
        return [_name(pod) for pod in await self.pods(component) if _is_ready(pod)]

    async def until_ready(self, component: str, count: int, limit_s: float) -> None:
        """Wait until exactly so many pods of a component are there, all ready."""

        async def holds() -> bool:
            pods = await self.pods(component)
            return len(pods) == count and all(map(_is_ready, pods))

        await self.until(holds, limit_s, f"{count} ready pods of {component}")

    async def hosts(self, session_id: str) -> list[str]:
        """Pods that the controller has marked with a session."""
        marked = [(_name(pod), pod["metadata"].get("annotations", {})) for pod in await self.pods("worker")]
        return [name for name, marks in marked if session_id in marks.get("cuelight.dev/sessions", "").split(",")]

    async def leader(self) -> str:
        """The controller that holds the Lease; empty when none does."""
        lease = await self.api.get("leases", f"{NAME}-fleet", NAMESPACE)
        return str(lease["spec"].get("holderIdentity", ""))

    async def until_lease_renewed(self, limit_s: float) -> None:
        """Wait until some controller has renewed the Lease twice from now on."""
        seen: set[str] = set()

        async def is_renewed() -> bool:
            lease = await self.api.get("leases", f"{NAME}-fleet", NAMESPACE)
            seen.add(lease["spec"].get("renewTime", ""))
            return len(seen) > 2

        await self.until(is_renewed, limit_s, "a controller that leads")

    async def command(self, component: str, *command: str) -> None:
        """Run a command in a pod of a component, as `kubectl exec` does. Raises RuntimeError when it fails."""
        name = (await self.ready(component))[0]
        pod = self.agent.find(name)
        status = await pod.containers[0].execute(command) if pod is not None else 1
        if status:
            raise RuntimeError(f"{' '.join(command)} ended with {status} in {name}")

    @contextlib.asynccontextmanager
    async def frozen(self, name: str) -> AsyncIterator[None]:
        """Stop a pod's process, which goes on where it stood."""
        pod = self.agent.find(name)
        if pod is None:
            raise RuntimeError(f"{name} does not run")
        (container,) = pod.containers
        container.send(signal.SIGSTOP)
        try:
            yield
        finally:
            container.send(signal.SIGCONT)

    async def cordon(self, node: str, *, is_closed: bool) -> None:
        """Close a node to new pods, or open it again."""
        await self.api.patch("nodes", node, {"spec": {"unschedulable": is_closed}})

    async def _has_accounts(self) -> bool:
        """Pods are refused in a namespace whose default account is not there yet."""
        namespaces = await self.api.list("namespaces")
        return any(_name(each) == "default" for each in namespaces)


async def _end(running: asyncio.Task[None], agent: NodeAgent, network: Network) -> None:
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await agent.close()
    await network.close()


def _tell(task: asyncio.Task[None]) -> None:
    """A node agent that failed is a fault of the simulation, and is told at once."""
    if not task.cancelled() and task.exception() is not None:
        sys.stderr.write(f"the node agent failed: {task.exception()!r}\n")


def _name(found: Mapping[str, Any]) -> str:
    return str(found["metadata"]["name"])


def _is_ready(pod: Mapping[str, Any]) -> bool:
    conditions = pod.get("status", {}).get("conditions") or []
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)
