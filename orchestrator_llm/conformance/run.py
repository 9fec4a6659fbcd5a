"""One check from the outside: a planner's specification in, the verdict out. It knows where keys come from."""

from __future__ import annotations

from orchestrator_llm.conformance.suite import Limits, Report, check
from orchestrator_llm.service.completion import PlannerFailed
from orchestrator_llm.service.models import make_completion, read_key
from orchestrator_llm.service.planners import PlannerSpec
from services.settings import OrchestratorSettings, read

TYPICAL_RATE = 4.5
"""Syllables a second, for a bundle that does not say."""


async def check_planner(text: str, *, chunk_s: float, syllables_per_second: float | None, timeout_s: float) -> Report:
    """Puts the whole suite to a planner, given by specification or by a name in CUELIGHT_PLANNERS.

    Raises ValueError for what names none, SettingsError, and PlannerFailed when its model cannot be had at all.
    """
    settings = read(OrchestratorSettings)
    spec = PlannerSpec.parse(settings.planners.get(text, text))
    if spec.kind == "rule":
        raise ValueError("the rule planner asks no model: there is nothing to check")
    key = read_key(settings.planner_key.get_secret_value(), settings.planner_key_file)
    model = make_completion(spec, key)
    rate = syllables_per_second or TYPICAL_RATE
    try:
        return await check(model, chunk_s=chunk_s, syllables_per_second=rate, limits=Limits(timeout_s=timeout_s))
    finally:
        await model.close()


__all__ = ["PlannerFailed", "Report", "check_planner"]
