"""Who of several controllers acts: the holder of one Lease of Kubernetes.

Times are this process's monotonic clock: a holder counts as gone when its record has not changed for the whole duration
here, and who cannot renew stops acting before others may begin, so that clocks need not agree. Knows nothing of fleets.
"""

from __future__ import annotations

import datetime
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from kubernetes.aio.client import ApiClient, CoordinationV1Api
from kubernetes.aio.client.exceptions import ApiException

from services.logs import get_logger

log = get_logger(__name__)

Json: TypeAlias = dict[str, Any]
DURATION_S = 15
ACTS_S = 10.0
"""A leader that has not renewed for this long acts no more; the rest of the duration is for clocks that drift."""
FORBIDDEN, NOT_FOUND, CONFLICT = 403, 404, 409


@dataclass(frozen=True, slots=True)
class _Seen:
    """The record as it was last found changed, and when that was."""

    version: str
    at_s: float


class Election:
    """One candidate."""

    def __init__(self, api: ApiClient, namespace: str, name: str, identity: str, now: Callable[[], float]) -> None:
        # Untyped here: the client's types know no dictionaries.
        self._api: Any = api
        self._leases: Any = CoordinationV1Api(api)
        self._namespace, self._name = namespace, name
        self.identity = identity
        self._now = now
        self._seen: _Seen | None = None
        self._renewed_at_s: float | None = None

    @property
    def is_leader(self) -> bool:
        """Whether this one may act now."""
        return self._renewed_at_s is not None and self._now() - self._renewed_at_s < ACTS_S

    async def stand(self) -> bool:
        """Renew, or take what nobody holds; says whether this one leads. What the API server raises passes."""
        began_s = self._now()
        lease = await self._read()
        if lease is None:
            await self._write(self._create(self._record({})), began_s)
            return self.is_leader
        spec, version = lease["spec"], lease["metadata"]["resourceVersion"]
        if self._seen is None or self._seen.version != version:
            self._seen = _Seen(version, began_s)
        is_over = began_s - self._seen.at_s > spec.get("leaseDurationSeconds", DURATION_S)
        if spec.get("holderIdentity", "") in ("", self.identity) or is_over:
            await self._write(self._replace(lease | {"spec": self._record(spec)}), began_s)
        else:
            self._renewed_at_s = None
        return self.is_leader

    async def resign(self) -> None:
        """Let another one begin at once. What the API server raises passes."""
        if not self.is_leader:
            return
        self._renewed_at_s = None
        lease = await self._read()
        if lease is not None and lease["spec"].get("holderIdentity") == self.identity:
            await self._replace(lease | {"spec": lease["spec"] | {"holderIdentity": ""}})

    async def _read(self) -> Json | None:
        try:
            found = await self._leases.read_namespaced_lease(self._name, self._namespace)
        except ApiException as fault:
            if fault.status == NOT_FOUND:
                return None
            raise
        plain: Json = self._api.sanitize_for_serialization(found)
        return plain

    async def _create(self, spec: Json) -> None:
        await self._leases.create_namespaced_lease(self._namespace, {"metadata": {"name": self._name}, "spec": spec})

    async def _replace(self, lease: Json) -> None:
        await self._leases.replace_namespaced_lease(self._name, self._namespace, lease)

    async def _write(self, writing: Awaitable[None], began_s: float) -> None:
        """Write the record; when another one was quicker, that one leads. Counted from before the call."""
        was_leader = self.is_leader
        try:
            await writing
        except ApiException as fault:
            if fault.status != CONFLICT:
                raise
            self._renewed_at_s = None
            return
        self._renewed_at_s = began_s
        if not was_leader:
            log.info("fleet_leads", identity=self.identity)

    def _record(self, before: Json) -> Json:
        """The Lease's spec with this one as its holder."""
        now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        is_mine = before.get("holderIdentity") == self.identity
        return {
            "holderIdentity": self.identity,
            "leaseDurationSeconds": DURATION_S,
            "acquireTime": before["acquireTime"] if is_mine and "acquireTime" in before else now,
            "renewTime": now,
            "leaseTransitions": before.get("leaseTransitions", 0) + (0 if is_mine else 1),
        }
