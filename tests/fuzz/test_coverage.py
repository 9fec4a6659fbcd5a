"""Parsers under coverage-guided fuzzing, from the saved corpus on."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.conftest import BUDGET, OUT

ROOT = Path(__file__).resolve().parents[2]
SHARE = 0.1
START_S = 600.0
"""What imports and the saved corpus may take besides."""


@pytest.mark.parametrize("target", ["text", "portrait", "planned", "message"])
@pytest.mark.timeout(3600)
def test_no_bytes_break(target: str) -> None:
    """What breaks a target lies in out/fuzz then; it belongs into tests/fuzz/corpus with its mend."""
    pytest.importorskip("atheris", reason="there is none for this Python")
    found, seconds = OUT / target, max(1, round(BUDGET.take(SHARE)))
    shutil.rmtree(found, ignore_errors=True)
    found.mkdir(parents=True)
    command = [sys.executable, "-W", "ignore", "-m", "tests.fuzz.coverage", target, str(seconds), str(found)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, errors="replace", timeout=seconds + START_S, check=False
    )
    broken = [path.name for path in found.iterdir() if path.name.startswith(("crash-", "oom-", "timeout-", "leak-"))]
    assert done.returncode == 0 and not broken, f"{found}: {broken}\n{done.stderr[-3000:]}"
