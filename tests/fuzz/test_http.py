"""The HTTP port under what its OpenAPI document allows and forbids."""

from __future__ import annotations

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from schemathesis.checks import CHECKS

from tests.fuzz.conftest import House, rounds

SHARE = 0.1
FEW = settings(
    max_examples=20,
    deadline=None,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
NAMES = ("not_a_server_error", "status_code_conformance", "content_type_conformance", "response_schema_conformance")


@pytest.mark.timeout(3600)
def test_every_answer_is_as_the_document_says(house: House) -> None:
    """Whatever stands in a path: no fault of the server, and status, type and body as they are written down."""
    document = schemathesis.openapi.from_url(f"{house.web}/api/openapi.json")
    checks = CHECKS.get_by_names(list(NAMES))
    operations = [found.ok() for found in document.get_all_operations()]
    assert len(operations) >= 5
    for number in rounds(2 * len(operations), SHARE):
        operation = operations[number % len(operations)]

        @seed(number)
        @FEW
        @given(case=operation.as_strategy())
        def attempt(case: Any) -> None:
            case.call_and_validate(checks=checks, timeout=60)

        attempt()
    house.check()
