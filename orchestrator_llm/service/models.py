"""Makes the language model that a planner's specification names. It knows where models are, not what they are asked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from orchestrator_llm.engine.backend import Backend
from orchestrator_llm.service.completion import Completion, PlannerFailed
from orchestrator_llm.service.endpoint import Endpoint
from orchestrator_llm.service.own_completion import OwnCompletion
from orchestrator_llm.service.planners import PlannerSpec
from services.settings import SettingsError

MAX_KEY_BYTES = 8 * 1024


def make_completion(spec: PlannerSpec, key: str, conditioning: Callable[[], Backend]) -> Completion:
    """The model of a specification; `conditioning` gives the backend that conditions sessions now.

    Raises PlannerFailed when it cannot be had here.
    """
    match spec.kind:
        case "own":
            return OwnCompletion(conditioning)
        case "openai":
            return Endpoint(spec.url, spec.model, key=key)
        case "vllm":
            from orchestrator_llm.service.vllm_completion import load_vllm

            return load_vllm(Path(spec.model))
        case _:
            raise PlannerFailed("the rules have no model")


def read_key(value: str, file: Path | None) -> str:
    """The API key, from a file where one is named. Raises SettingsError, which does not show it."""
    if file is None:
        return value.strip()
    try:
        with file.open("rb") as opened:
            raw = opened.read(MAX_KEY_BYTES + 1)
        key = raw.decode("ascii").strip()
    except OSError as fault:
        raise SettingsError(f"CUELIGHT_PLANNER_KEY_FILE: {file} cannot be read: {fault.strerror}") from fault
    except UnicodeDecodeError as fault:
        raise SettingsError(f"CUELIGHT_PLANNER_KEY_FILE: {file} holds no key") from fault
    if len(raw) > MAX_KEY_BYTES or not key.isprintable() or not key:
        raise SettingsError(f"CUELIGHT_PLANNER_KEY_FILE: {file} holds no key")
    return key
