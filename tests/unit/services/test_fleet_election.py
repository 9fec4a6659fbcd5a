"""Who leads, on one Lease that several candidates read and write, in a time of their own."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from kubernetes.aio.client.exceptions import ApiException

from services.fleet.election import ACTS_S, DURATION_S, Election


class LeaseServer:
    """The part of an API server that holds one Lease: versions rise, and a write on an old one is refused."""

    def __init__(self) -> None:
        self.lease: dict[str, Any] | None = None
        self.is_away = False

    def _check(self) -> None:
        if self.is_away:
            raise ApiException(status=503)

    async def read_namespaced_lease(self, name: str, namespace: str) -> dict[str, Any]:
        self._check()
        if self.lease is None:
            raise ApiException(status=404)
        return copy.deepcopy(self.lease)

    async def create_namespaced_lease(self, namespace: str, body: dict[str, Any]) -> None:
        self._check()
        if self.lease is not None:
            raise ApiException(status=409)
        self.lease = copy.deepcopy(body) | {"metadata": {"name": "lease", "resourceVersion": "1"}}

    async def replace_namespaced_lease(self, name: str, namespace: str, body: dict[str, Any]) -> None:
        self._check()
        assert self.lease is not None
        version = self.lease["metadata"]["resourceVersion"]
        if body["metadata"]["resourceVersion"] != version:
            raise ApiException(status=409)
        self.lease = copy.deepcopy(body)
        self.lease["metadata"]["resourceVersion"] = str(int(version) + 1)


class Clock:
    """Monotonic seconds of all candidates."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class Plain:
    """The client's conversion: what is plain stays so."""

    def sanitize_for_serialization(self, found: Any) -> Any:
        return found


def _candidate(server: LeaseServer, clock: Clock, name: str) -> Election:
    made = Election(Plain(), "stage", "lease", name, clock)  # type: ignore[arg-type]
    made._leases = server
    return made


@pytest.fixture
def server() -> LeaseServer:
    """No Lease yet."""
    return LeaseServer()


@pytest.fixture
def clock() -> Clock:
    """At its beginning."""
    return Clock()


async def test_one_leads_and_the_other_waits(server: LeaseServer, clock: Clock) -> None:
    """While the first renews, the second never leads."""
    first, second = _candidate(server, clock, "a"), _candidate(server, clock, "b")
    for _ in range(20):
        assert await first.stand() and not await second.stand()
        clock.now += 2


async def test_a_dead_leader_is_followed(server: LeaseServer, clock: Clock) -> None:
    """When the record has not changed for its whole duration, and no sooner; the transition is counted."""
    first, second = _candidate(server, clock, "a"), _candidate(server, clock, "b")
    await first.stand()
    await second.stand()
    clock.now += DURATION_S
    assert not await second.stand()
    clock.now += 0.1
    assert await second.stand() and not first.is_leader
    assert server.lease is not None and server.lease["spec"]["leaseTransitions"] == 2
    assert not await first.stand()


async def test_who_cannot_renew_stops_before_another_may_begin(server: LeaseServer, clock: Clock) -> None:
    """With the API server away a leader acts for ten seconds more; the next begins after fifteen at the earliest."""
    first = _candidate(server, clock, "a")
    await first.stand()
    server.is_away = True
    clock.now += 5
    with pytest.raises(ApiException):
        await first.stand()
    assert first.is_leader
    clock.now += ACTS_S - 5
    assert not first.is_leader and ACTS_S < DURATION_S


async def test_of_two_that_write_at_once_one_leads(server: LeaseServer, clock: Clock) -> None:
    """The one whose write comes second is refused by the version it read."""
    first, second = _candidate(server, clock, "a"), _candidate(server, clock, "b")
    await first.stand()
    await first.resign()
    read = server.read_namespaced_lease

    async def read_and_be_late(name: str, namespace: str) -> dict[str, Any]:
        found = await read(name, namespace)
        server.read_namespaced_lease = read  # type: ignore[method-assign]
        assert await second.stand()
        return found

    server.read_namespaced_lease = read_and_be_late  # type: ignore[method-assign]
    assert not await first.stand() and second.is_leader


async def test_who_resigns_is_followed_at_once(server: LeaseServer, clock: Clock) -> None:
    """A controller that is told to stop leaves no gap."""
    first, second = _candidate(server, clock, "a"), _candidate(server, clock, "b")
    await first.stand()
    await second.stand()
    await first.resign()
    assert not first.is_leader and await second.stand()
