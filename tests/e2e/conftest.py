"""The stack that end-to-end tests share, and the time that the first of them needs to start it."""

import pytest

from tests.fixtures.stack import START_TIMEOUT_S, collector, stack, stack_bundle

__all__ = ["collector", "stack", "stack_bundle"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whichever test comes first waits for the stack, so each has the time for it."""
    for item in items:
        if "stack" in getattr(item, "fixturenames", ()) and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(START_TIMEOUT_S + 120))
