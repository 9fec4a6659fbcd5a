"""vLLM as a planner's model: an OpenAI server of its own, and an engine in this process, with a tiny random model."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from orchestrator_llm.conformance.cases import campaigns, replies
from orchestrator_llm.conformance.suite import Limits, check
from orchestrator_llm.engine.brief import Brief, Question, question
from orchestrator_llm.engine.campaign import MAX_CAMPAIGN_BYTES, Campaign
from orchestrator_llm.service.completion import Completion, answer
from orchestrator_llm.service.endpoint import Endpoint
from orchestrator_llm.service.vllm_completion import load_vllm
from services.ports import free_port
from tests.fixtures.talking_bundle import build_tiny_instruct
from tests.fixtures.tiny_llm import build_tiny_llm
from tests.vllm.backend.conftest import PATIENCE_S

ROOT = Path(__file__).resolve().parents[3]
ATTEMPTS = 20
"""Replies to ask a model of random weights for: the first token of one may be its end."""
ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model."""
    return build_tiny_llm(tmp_path_factory.mktemp("llm"))


@asynccontextmanager
async def server(folder: Path) -> AsyncIterator[str]:
    """vLLM's own OpenAI server; gives its base URL."""
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "vllm.entrypoints.openai.api_server",
        "--model", str(folder), "--served-model-name", "tiny",
        "--host", "127.0.0.1", "--port", str(port), "--enforce-eager", "--block-size", "32", "--max-model-len", "8192",
        "--structured-outputs-config", '{"backend": "xgrammar", "disable_any_whitespace": true}',
        env={**os.environ, **ENVIRONMENT}, cwd=ROOT,
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        async with asyncio.timeout(PATIENCE_S), httpx.AsyncClient() as client:
            while True:
                assert process.returncode is None, "the server ended"
                try:
                    if (await client.get(f"http://127.0.0.1:{port}/health")).is_success:
                        break
                except httpx.HTTPError:
                    await asyncio.sleep(0.5)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        await process.wait()


def asked(brief: Brief) -> Question:
    """A question with room for a model that speaks bytes."""
    return replace(question(replace(brief, slots=1)), max_tokens=5000 if brief.slots > 1 else 200)


async def plans_and_replies(model: Completion) -> None:
    """Campaigns of a random model are valid, for an ordinary and an empty question; replies are texts that end."""
    cases = [campaigns(6)[index] for index in (0, -6)]
    for case in cases:
        raw = await answer(model, asked(case.brief), timeout_s=PATIENCE_S, most_bytes=MAX_CAMPAIGN_BYTES)
        assert len(Campaign.parse(raw).actions) == 1
    short = replace(question(replies()[0].brief), max_tokens=40)
    said = ""
    for _ in range(ATTEMPTS):
        said = said or await answer(model, short, timeout_s=PATIENCE_S, most_bytes=10_000)
    assert said


async def test_a_vllm_server_plans(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over the OpenAI protocol, held to the schema by structured output; `cuelight orchestrator check` can judge it."""
    async with server(folder) as url:
        monkeypatch.setattr("orchestrator_llm.service.endpoint.READ_S", PATIENCE_S)
        model = Endpoint(url, "tiny")
        try:
            await plans_and_replies(model)
            await is_judged(model)
        finally:
            await model.close()


async def is_judged(model: Completion) -> None:
    """The conformance suite comes to a verdict on it, and what code sees to holds whatever it says."""
    report = await check(model, chunk_s=1.375, syllables_per_second=4.5, limits=Limits(timeout_s=PATIENCE_S), share=0.1)
    rows = {row.check: row for row in report.rows}
    assert rows["scripted words changed"].is_passed
    assert rows["injected instructions left alone"].is_passed, "it can follow none"
    assert {"plans that are valid", "plan latency", "what is heard is answered"} <= rows.keys()
    print("\n".join(f"{row.check}: {row.measured} ({row.limit})" for row in report.rows))


@pytest.mark.filterwarnings("ignore")  # what vLLM and torch say of one another while they are loaded
@pytest.mark.parametrize("kind", ["bytes", "instruct"])
async def test_an_engine_in_this_process_plans(
    folder: Path, kind: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The same from an engine of one's own: of the model that speaks bytes, and of a checkpoint as published."""
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    model = load_vllm(folder if kind == "bytes" else build_tiny_instruct(tmp_path))
    try:
        await plans_and_replies(model)
    finally:
        await model.close()
