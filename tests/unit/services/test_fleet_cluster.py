"""What the controller makes of answers of the API server."""

from __future__ import annotations

import pytest
from kubernetes.aio.client import ApiClient
from kubernetes.aio.client.exceptions import ApiException

from services.fleet.cluster import Cluster, Names
from services.fleet.limits import names_of
from services.settings import FleetSettings


class Refusing:
    """An API server that answers every question about a StatefulSet with one status."""

    def __init__(self, status: int) -> None:
        self.status = status

    async def read_namespaced_stateful_set(self, name: str, namespace: str) -> object:
        raise ApiException(status=self.status)


@pytest.mark.parametrize("status", [403, 404])
async def test_a_version_of_before_may_be_gone_and_the_present_one_must_not(
    status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Deleted, or no business of this controller any more; any other answer, and any about the present, is a fault."""
    async with ApiClient() as api:
        before = Cluster(api, Names("stage", "worker-4b227777s1", is_previous=True))
        present = Cluster(api, Names("stage", "worker"))
        for cluster in (before, present):
            monkeypatch.setattr(cluster, "_apps", Refusing(status))
        assert await before.look() is None
        with pytest.raises(ApiException):
            await present.look()
        monkeypatch.setattr(before, "_apps", Refusing(500))
        with pytest.raises(ApiException):
            await before.look()


def test_the_present_version_comes_first_and_is_told_from_those_of_before() -> None:
    """Whatever the list of those of before says of it."""
    settings = FleetSettings(
        fleet_workers="w", fleet_orchestrators="o", fleet_previous={"w-1": "o-1", "w": "else", "w-2": ""}
    )
    named = [(names.workers, names.orchestrators, names.is_previous) for names in names_of(settings)]
    assert named == [("w", "o", False), ("w-1", "o-1", True), ("w-2", "", True)]
