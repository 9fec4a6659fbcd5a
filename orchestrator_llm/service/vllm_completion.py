"""A planner's language model in this process, by vLLM: any instruct model from a folder, its JSON held to a schema.

It has an engine of its own, beside whatever conditions sessions. vLLM is imported when a model is made and not before.
"""

from __future__ import annotations

import importlib
import importlib.util
import itertools
import os
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

from orchestrator_llm.engine.backend_vllm_engine import CPU_BLOCK, QUIET, STRUCTURED_OUTPUT
from orchestrator_llm.engine.brief import Question
from orchestrator_llm.engine.writing import MOST_TOKENS, TEMPERATURE, prompt_text, structured
from orchestrator_llm.service.completion import PlannerFailed

MEMORY_SHARE = 0.25


class VllmCompletion:
    """One model on one engine; `load_vllm` makes it."""

    def __init__(self, engine: Any, tokenizer: Any) -> None:  # noqa: ANN401  (vLLM is not imported here)
        self._engine = engine
        self._tokenizer = tokenizer
        self._numbers = itertools.count()

    async def stream(self, question: Question) -> AsyncGenerator[str]:
        """The answer's text, piece by piece. Raises PlannerFailed."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        params = SamplingParams(
            max_tokens=question.max_tokens,
            temperature=TEMPERATURE,
            structured_outputs=structured(question.schema),
            output_kind=RequestOutputKind.DELTA,
        )
        name = f"planner-{next(self._numbers)}"
        try:
            async for output in self._engine.generate(prompt_text(self._tokenizer, question), params, name):
                if text := output.outputs[0].text:
                    yield text
        except (RuntimeError, ValueError) as fault:
            raise PlannerFailed(f"the planner's engine failed: {type(fault).__name__}") from fault

    async def close(self) -> None:
        """Ends the engine."""
        engine, self._engine = self._engine, None  # it ends for good while vLLM is still there to end it
        engine.shutdown()


def preload() -> None:
    """Imports vLLM where it is installed, for beside live sessions that would keep them waiting for a second."""
    if importlib.util.find_spec("vllm") is not None:
        _quiet()
        importlib.import_module("transformers")
        importlib.import_module("vllm.v1.engine.async_llm")


def _quiet() -> None:
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)


def load_vllm(folder: Path) -> VllmCompletion:
    """Starts an engine for the model in a folder. Raises PlannerFailed where vLLM or the model is missing."""
    if not (folder / "config.json").is_file():
        raise PlannerFailed(f"{folder} holds no model: config.json is missing")
    _quiet()
    try:
        from transformers import AutoTokenizer
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM
    except ImportError as fault:
        raise PlannerFailed(
            "vllm is not installed here; run `make vllm-env` and start with .venv-vllm/bin/python"
        ) from fault
    arguments = AsyncEngineArgs(
        model=str(folder),
        max_model_len=MOST_TOKENS,
        gpu_memory_utilization=MEMORY_SHARE,
        block_size=CPU_BLOCK,
        enforce_eager=True,
        structured_outputs_config=STRUCTURED_OUTPUT,
    )
    return VllmCompletion(AsyncLLM.from_engine_args(arguments), AutoTokenizer.from_pretrained(str(folder)))
