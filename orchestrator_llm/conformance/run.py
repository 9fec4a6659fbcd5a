"""One check from the outside: a planner's specification in, the verdict out. It knows where keys come from."""

from __future__ import annotations

import asyncio
from pathlib import Path

from orchestrator_llm.conformance.suite import Limits, Report, check
from orchestrator_llm.engine.backend import Backend
from orchestrator_llm.engine.errors import BackendMissing
from orchestrator_llm.service.completion import PlannerFailed
from orchestrator_llm.service.models import make_completion, read_key
from orchestrator_llm.service.planners import PlannerSpec
from services.bundle import Bundle, load_bundle
from services.settings import OrchestratorSettings, read

TYPICAL_RATE = 4.5
"""Syllables a second, for a bundle that does not say."""


async def check_planner(text: str, bundle: Path | None, *, timeout_s: float) -> Report:
    """Puts the whole suite to a planner, given by specification or by a name in CUELIGHT_PLANNERS.

    Raises ValueError for what names none, SettingsError, BundleInvalid, and PlannerFailed or BackendMissing when its
    model cannot be had at all.
    """
    settings = read(OrchestratorSettings)
    spec = PlannerSpec.parse(settings.planners.get(text, text))
    if spec.kind == "rule":
        raise ValueError("the rule planner asks no model: there is nothing to check")
    key = read_key(settings.planner_key.get_secret_value(), settings.planner_key_file)
    loaded = load_bundle(bundle or settings.bundle)
    conditioning = await asyncio.to_thread(_conditioner, settings, loaded) if spec.kind == "own" else None

    def conditioner() -> Backend:
        assert conditioning is not None, "only the bundle's own planner asks"
        return conditioning

    model = make_completion(spec, key, conditioner)
    chunk_s, rate = loaded.manifest.chunk_seconds, loaded.manifest.syllables_per_second or TYPICAL_RATE
    try:
        return await check(model, chunk_s=chunk_s, syllables_per_second=rate, limits=Limits(timeout_s=timeout_s))
    finally:
        await model.close()


def _conditioner(settings: OrchestratorSettings, bundle: Bundle) -> Backend:
    from orchestrator_llm.conformance.own import on_vllm

    return on_vllm(settings, bundle)


__all__ = ["BackendMissing", "PlannerFailed", "Report", "check_planner"]
