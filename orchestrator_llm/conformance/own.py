"""The bundle's own language model, put to the test where no orchestrator runs: its engine, started for the check."""

from __future__ import annotations

from orchestrator_llm.engine.backend import Backend
from orchestrator_llm.engine.backend_vllm import VllmBackend
from orchestrator_llm.engine.backend_vllm_engine import VllmOptions
from orchestrator_llm.engine.loading import language_model, no_writer
from orchestrator_llm.service.completion import PlannerFailed
from services.bundle import Bundle
from services.settings import OrchestratorSettings


def on_vllm(settings: OrchestratorSettings, bundle: Bundle) -> Backend:
    """The bundle's models where they can write. Raises PlannerFailed before anything is loaded when they never can,
    BundleInvalid and BackendMissing."""
    if language_model(bundle) is None:
        raise PlannerFailed(no_writer(bundle))
    options = VllmOptions(settings.torch_threads, bfloat16=settings.torch_autocast, device=settings.device, sessions=1)
    return VllmBackend(bundle, options)
