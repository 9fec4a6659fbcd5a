"""Every example runs as it stands in the repository."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.fixtures.stack import ROOT, RunningStack

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_example_runs(example: Path, stack: RunningStack, tmp_path: Path) -> None:
    """It ends well, prints something, and is short."""
    ran = subprocess.run(
        [sys.executable, str(example), stack.address],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        cwd=tmp_path,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip()
    assert len(example.read_text().splitlines()) <= 40


def test_there_are_three() -> None:
    """The folder is not empty by mistake."""
    assert len(EXAMPLES) >= 3
