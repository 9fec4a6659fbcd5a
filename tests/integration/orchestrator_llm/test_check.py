"""`cuelight orchestrator check` and `swap`, as an operator runs them, against scripted models on real sockets."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from orchestrator_llm.conformance.suite import Limits, Report, check
from orchestrator_llm.service.endpoint import Endpoint
from orchestrator_llm.service.swap import SwapLimits
from tests.fakes.llm_server import LlmServer, llm_server
from tests.fixtures.stack import clean_environment
from tests.integration.orchestrator_llm.test_planning import running

CHUNK_S = 1.375


async def cuelight(*arguments: str, home: Path, **variables: str) -> tuple[int, str]:
    """The command line, its exit status and all it printed."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "cuelight", "orchestrator", *arguments,
        env={**clean_environment(home), **variables},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    async with asyncio.timeout(90):
        printed, _ = await process.communicate()
    return process.returncode or 0, printed.decode()


async def verdict(server: LlmServer, **limits: Any) -> tuple[Report, set[str]]:
    """The report on a server's model, and the checks it failed."""
    model = Endpoint(server.url, "scripted")
    try:
        report = await check(model, chunk_s=CHUNK_S, syllables_per_second=4.5, limits=Limits(**limits))
    finally:
        await model.close()
    return report, {row.check for row in report.rows if not row.is_passed}


async def test_a_good_model_passes(tmp_path: Path, tiny_bundle: Path) -> None:
    """Every check passes, the table says so, and the exit status is 0."""
    with llm_server("good", key="sesame") as server:
        status, printed = await cuelight(
            "check",
            "--planner",
            server.spec,
            "--bundle",
            str(tiny_bundle),
            home=tmp_path,
            CUELIGHT_PLANNER_KEY="sesame",
        )
    assert status == 0, printed
    assert "failed" not in printed
    assert "plan latency" in printed
    assert "sesame" not in printed


async def test_a_rambling_model_fails_by_its_budgets() -> None:
    """Speech over its chunk's syllables, speech where none is wanted, replies without an end."""
    with llm_server("rambling") as server:
        report, failed = await verdict(server)
    assert not report.is_passed
    assert {"speech over its chunk's syllables", "speech where none is wanted"} <= failed
    assert any("replies beyond" in row for row in failed)
    assert "plans that are valid" not in failed
    assert "scripted words changed" not in failed, "code sees to that, whatever the model"


async def test_a_slow_model_fails_by_its_latency() -> None:
    """What never comes within the deadline is late, and nothing of it is a plan."""
    with llm_server("slow") as server:
        report, failed = await verdict(server, timeout_s=0.05)
    assert {"plans that are valid", "what is heard is answered"} <= failed
    with llm_server("good", delay_s=0.3) as server:
        model = Endpoint(server.url, "scripted")
        report = await check(model, chunk_s=0.05, syllables_per_second=100.0, share=0.2)
        await model.close()
    assert {row.check for row in report.rows if not row.is_passed} == {"plan latency", "first words of a reply"}


async def test_a_model_that_obeys_users_fails_by_injection() -> None:
    """A model that does what it finds in the data is found out."""
    with llm_server("obedient") as server:
        _, failed = await verdict(server)
    assert "injected instructions left alone" in failed


async def test_a_broken_model_fails_with_an_exit_status(tmp_path: Path, tiny_bundle: Path) -> None:
    """Errors, garbage and wrong JSON make a verdict, not a traceback; the exit status is 1."""
    with llm_server("broken") as server:
        arguments = ("check", "--planner", server.spec, "--bundle", str(tiny_bundle), "--json")
        status, printed = await cuelight(*arguments, home=tmp_path)
    assert status == 1
    assert "Traceback" not in printed
    found = json.loads(printed[: printed.rindex("}") + 1])
    assert found["is_passed"] is False
    assert not next(row for row in found["rows"] if row["check"] == "plans that are valid")["is_passed"]


async def test_what_cannot_be_checked_is_a_usage_error(tmp_path: Path, tiny_bundle: Path) -> None:
    """One sentence and exit status 2."""
    status, printed = await cuelight(
        "check", "--planner", "openai:m@nowhere", "--bundle", str(tiny_bundle), home=tmp_path
    )
    assert status == 2, printed
    assert "is no planner" in printed
    assert "Traceback" not in printed


async def test_swap_and_status_from_the_command_line(tmp_path: Path, tiny_bundle: Path) -> None:
    """Swapped, shown, and exit status 1 when it goes back; without a stack here the orchestrator must be named."""
    with llm_server("good") as server, llm_server("broken") as broken:
        async with running(tiny_bundle) as orchestrator:
            orchestrator.swaps.planners.swapper.limits = SwapLimits(move_s=0.2, watch_s=0.2)
            at = ("--orchestrator", orchestrator.rpc.address)
            status, printed = await cuelight("swap", "--to", server.spec, *at, home=tmp_path)
            assert status == 0, printed
            assert "in use for 100 %" in printed
            status, printed = await cuelight("swap", "--to", broken.spec, *at, home=tmp_path)
            assert status == 1
            assert "is not used" in printed
            status, printed = await cuelight("status", "--json", *at, home=tmp_path)
            assert status == 0
            assert json.loads(printed)["current"] == server.spec
    status, printed = await cuelight("status", home=tmp_path)
    assert status == 2
    assert "--orchestrator" in printed


async def test_a_bundle_that_keeps_no_language_model_is_no_planner(tmp_path: Path, tiny_bundle: Path) -> None:
    """Checked as its own planner it fails at once: no engine is started to find that out."""
    status, printed = await cuelight("check", "--planner", "own", "--bundle", str(tiny_bundle), home=tmp_path)
    assert status == 1
    assert "cannot write" in " ".join(printed.split()) and "Traceback" not in printed
