"""What the fleet is asked for, and the whole of it in one look: for whoever decides how large it should be.

Knows slots by the ids of workers and sessions, and nothing of pods.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

from services.session import STATE_SCHEMA, is_render
from services.state.calls import RedisCalls
from services.state.fleet import ALIVE_MS
from services.state.keys import BEATS, PLACEMENTS, WANTING, WORKERS

WANT_MS = 5_000
"""A session that found no slot counts as wanting one for this long after it last asked."""


@dataclass(frozen=True, slots=True)
class Surveyed:
    """A worker as it last said of itself."""

    worker_id: str
    address: str
    slots: int
    bundle: str
    is_ready: bool
    """Takes new sessions."""
    heartbeat_age_s: float
    sessions: tuple[str, ...]
    """Those that have a slot here, hosted or reserved."""
    condition_s: float = 0.0
    """How long a step waits for its condition, 95th percentile; 0 before the first."""
    state_schema: int = STATE_SCHEMA
    """Layout of the state of sessions that it goes on from."""

    @property
    def is_alive(self) -> bool:
        """Its heartbeat is recent."""
        return self.heartbeat_age_s * 1000 <= ALIVE_MS


@dataclass(frozen=True, slots=True)
class Survey:
    """The fleet at one moment."""

    workers: tuple[Surveyed, ...]
    wanting: int
    """Sessions that found no slot of late."""


class DemandStore(RedisCalls):
    """Demand and survey."""

    async def want_slot(self, session_id: str) -> None:
        """Count a session that found no slot."""
        await self._script("want", (WANTING,), session_id, WANT_MS)

    async def want_no_more(self, session_id: str) -> None:
        """The session has a slot, or has given up. Harmless when it was not counted."""
        await self._script("want", (WANTING,), session_id, 0)

    async def survey(self) -> Survey:
        """Look at the whole fleet. Entries that are not what they must be are passed over."""
        _, wanting, count, *parts = await self._script("survey", (WORKERS, BEATS, PLACEMENTS, WANTING))
        cut = 2 * int(count)
        hosted: dict[str, list[str]] = {}
        for session_id, placed in _pairs(parts[cut:]):
            # A slot that is held for a session on its way has the session's name with a mark.
            name = session_id.decode().rstrip(">")
            if not is_render(name):  # they fill what is left: no reason for a worker more, or to keep one
                hosted.setdefault(str(json.loads(placed).get("worker")), []).append(name)
        return Survey(tuple(_workers(parts[:cut], hosted)), int(wanting))


def _pairs(parts: list[bytes]) -> Iterator[tuple[bytes, bytes]]:
    return zip(parts[::2], parts[1::2], strict=True)


def _workers(parts: list[bytes], hosted: dict[str, list[str]]) -> Iterator[Surveyed]:
    for report, age_ms in _pairs(parts):
        try:
            said = json.loads(report)
            yield Surveyed(
                worker_id=str(said["worker_id"]),
                address=str(said["address"]),
                slots=int(said["slots"]),
                bundle=str(said["bundle"]),
                is_ready=bool(said["is_ready"]),
                heartbeat_age_s=int(age_ms) / 1000,
                sessions=tuple(sorted(hosted.get(said["worker_id"], ()))),
                condition_s=float(said.get("condition_s", 0.0)),
                state_schema=int(said.get("state_schema", 1)),
            )
        except (KeyError, TypeError, ValueError):
            continue
