"""Examples of Hypothesis are never too slow: in CI that is so by itself, and the examples are the same each time."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings


def pytest_configure() -> None:
    """Choose the profile before any test is read."""
    if not os.environ.get("CI"):
        settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
        settings.load_profile("patient")
