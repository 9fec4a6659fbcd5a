"""An endpoint's first call keeps no session waiting."""

from __future__ import annotations

import subprocess
import sys

FIRST_CALL = """
import asyncio, sys
from orchestrator_llm.engine.brief import Message, Question
from orchestrator_llm.service.completion import PlannerFailed
from orchestrator_llm.service.endpoint import Endpoint

async def main():
    model = Endpoint("http://127.0.0.1:9/v1", "m")
    before = set(sys.modules)
    try:
        async for _ in model.stream(Question((Message("user", "x"),), 8)): pass
    except PlannerFailed:
        print(*sorted(set(sys.modules) - before))
    await model.close()

asyncio.run(main())
"""


def test_the_first_call_of_an_endpoint_imports_nothing() -> None:
    """All that the HTTP client needs is there once it is made, which happens on a thread."""
    ran = subprocess.run([sys.executable, "-c", FIRST_CALL], capture_output=True, text=True, timeout=60, check=True)
    assert ran.stdout.strip() == ""
