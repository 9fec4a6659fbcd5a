"""A bundle with random weights, made once for the tests of the evaluation."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fixtures.tiny_bundle import build_tiny_bundle


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of the tiny bundle."""
    return build_tiny_bundle(tmp_path_factory.mktemp("evaluated") / "tiny")
