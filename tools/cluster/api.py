"""The Kubernetes API as plain JSON over HTTPS, for the simulation itself; what is proven uses the official clients."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

Object = dict[str, Any]
_GROUPS = {
    "pods": "api/v1",
    "services": "api/v1",
    "endpoints": "api/v1",
    "nodes": "api/v1",
    "namespaces": "api/v1",
    "secrets": "api/v1",
    "persistentvolumes": "api/v1",
    "persistentvolumeclaims": "api/v1",
    "statefulsets": "apis/apps/v1",
    "deployments": "apis/apps/v1",
    "leases": "apis/coordination.k8s.io/v1",
    "poddisruptionbudgets": "apis/policy/v1beta1",
    "horizontalpodautoscalers": "apis/autoscaling/v2beta2",
    "apiservices": "apis/apiregistration.k8s.io/v1",
}
_CLUSTER_WIDE = frozenset({"nodes", "namespaces", "persistentvolumes", "apiservices"})


class ApiError(Exception):
    """The API server refused, or could not be reached (status 0)."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status


@dataclass
class Api:
    """A client with one token."""

    client: httpx.AsyncClient

    @classmethod
    @contextlib.asynccontextmanager
    async def connect(cls, server: str, authority: Path, token: str) -> AsyncIterator[Api]:
        """Open a client; nothing is sent yet."""
        headers = {"Authorization": f"Bearer {token}"}
        async with httpx.AsyncClient(base_url=server, verify=str(authority), headers=headers, timeout=10) as client:
            yield cls(client)

    async def ask(self, method: str, path: str, body: Mapping[str, Any] | None = None, kind: str = "json") -> Object:
        """One request. Raises ApiError."""
        headers = {"Content-Type": f"application/{kind}"} if body is not None else {}
        try:
            answer = await self.client.request(method, f"/{path}", json=body, headers=headers)
        except httpx.HTTPError as fault:
            raise ApiError(0, type(fault).__name__) from fault
        if answer.is_error:
            is_told = "json" in answer.headers.get("Content-Type", "")  # a path that is not known is answered in text
            raise ApiError(answer.status_code, answer.json().get("message", "") if is_told else answer.text.strip())
        found: Object = answer.json()
        return found

    async def list(self, resource: str, namespace: str = "", selector: str = "") -> list[Object]:
        """All objects of one kind."""
        query = f"?labelSelector={selector}" if selector else ""
        return list((await self.ask("GET", _path(resource, namespace) + query))["items"])

    async def get(self, resource: str, name: str, namespace: str = "") -> Object:
        """One object. Raises ApiError 404."""
        return await self.ask("GET", f"{_path(resource, namespace)}/{name}")

    async def create(self, resource: str, body: Object, namespace: str = "") -> Object:
        """Make an object."""
        return await self.ask("POST", _path(resource, namespace), body)

    async def patch(self, resource: str, name: str, body: Object, namespace: str = "", sub: str = "") -> Object:
        """Merge `body` into an object, or into its sub-resource."""
        path = f"{_path(resource, namespace)}/{name}{f'/{sub}' if sub else ''}"
        return await self.ask("PATCH", path, body, "merge-patch+json")

    async def delete(self, resource: str, name: str, namespace: str = "", *, now: bool = False, uid: str = "") -> None:
        """Delete an object, at once or with its grace; only the one with `uid` where given."""
        body: Object = {"kind": "DeleteOptions", "apiVersion": "v1"}
        if now:
            body["gracePeriodSeconds"] = 0
        if uid:
            body["preconditions"] = {"uid": uid}
        await self.ask("DELETE", f"{_path(resource, namespace)}/{name}", body)

    async def evict(self, pod: str, namespace: str) -> None:
        """Ask for a pod's eviction. Raises ApiError 429 when a budget forbids it."""
        body = {"apiVersion": "policy/v1beta1", "kind": "Eviction", "metadata": {"name": pod, "namespace": namespace}}
        await self.ask("POST", f"{_path('pods', namespace)}/{pod}/eviction", body)

    async def wait_ready(self, timeout_s: float) -> None:
        """Wait until the server says that it is ready. Raises TimeoutError."""
        async with asyncio.timeout(timeout_s):
            while True:
                with contextlib.suppress(httpx.HTTPError):
                    if (await self.client.get("/readyz")).status_code == httpx.codes.OK:
                        return
                await asyncio.sleep(0.1)


def _path(resource: str, namespace: str) -> str:
    scope = "" if resource in _CLUSTER_WIDE or not namespace else f"namespaces/{namespace}/"
    return f"{_GROUPS[resource]}/{scope}{resource}"
