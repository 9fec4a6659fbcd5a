"""What is loaded while sessions go on keeps none of them."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import pytest

from orchestrator_llm.service.beside import GIVE_WAY_S, beside

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


async def test_a_load_gives_way_often_and_the_rest_is_as_before() -> None:
    """While one or two are under way threads change sooner; afterwards all is as it was, after a fault too."""
    usual_s = sys.getswitchinterval()

    def fails() -> float:
        raise ValueError("no such model")

    found = await asyncio.gather(beside(sys.getswitchinterval), beside(sys.getswitchinterval))
    assert found == pytest.approx([GIVE_WAY_S] * 2, rel=1e-3)
    with pytest.raises(ValueError, match="no such model"):
        await beside(fails)
    assert sys.getswitchinterval() == pytest.approx(usual_s, rel=1e-3)


def test_the_first_call_of_an_endpoint_imports_nothing() -> None:
    """All that the HTTP client needs is there once it is made, which happens on a thread."""
    ran = subprocess.run([sys.executable, "-c", FIRST_CALL], capture_output=True, text=True, timeout=60, check=True)
    assert ran.stdout.strip() == ""
