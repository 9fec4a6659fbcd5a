"""What makes a worker's one-token requests answer with the tail, on a CPU (`worker_cpu.py`) and on CUDA.

The runner samples a token as ever; beside it, a request with `answers.ASKED` in its extra arguments gets its answer
through the place that vLLM's output has for pooled states. Other requests share the batch and notice nothing. vLLM's
first model runner is the base, with synchronous scheduling. Whatever goes wrong here is an answer without rows, since
an exception in a worker ends its pass for all. It knows no sessions and neither device.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from vllm.logger import init_logger

from orchestrator_llm.vllm_plugin.answers import Answers, Asked, Computed, Refusal
from orchestrator_llm.vllm_plugin.model import HostedConditioner

log = init_logger(__name__)


class Answering:
    """What a model runner does besides, once its model is loaded."""

    answers: Answers
    model: HostedConditioner
    model_config: Any
    execute_model_state: Any
    input_batch: Any
    inputs_embeds: Any
    requests: dict[str, Any]

    def load_model(self, *arguments: Any, **options: Any) -> None:
        """Loads the model and begins with no texts."""
        super().load_model(*arguments, **options)  # type: ignore[misc]
        capacity = self.model_config.hf_config.texts_kept
        self.answers = Answers(self.model.shell, capacity)

    @torch.inference_mode()
    def sample_tokens(self, grammar_output: Any) -> Any:
        """vLLM's own outputs, and answers for the steps among the requests."""
        state = self.execute_model_state
        answers = {} if state is None else self._answers(state)
        output = super().sample_tokens(grammar_output)  # type: ignore[misc]
        if answers:
            output.pooler_output = [answers.get(request_id) for request_id in output.req_ids]
        return output

    def _answers(self, state: Any) -> dict[str, Tensor]:
        steps = []
        try:
            self.answers.drop(state.scheduler_output.finished_req_ids)
            steps = self._computed(state)
            return self.answers.gather(steps)
        except Exception:  # raised any further it would end the engine for every session
            log.exception("steps have failed")
            return {step.request_id: Refusal.FAILED.answer for step in steps if step.is_last}

    def _computed(self, state: Any) -> list[Computed]:
        """The rows of this pass, request by request as the batch has them."""
        found, offset = [], 0
        for request_id in self.input_batch.req_ids:
            count = state.scheduler_output.num_scheduled_tokens[request_id]
            request = self.requests[request_id]
            rows = slice(offset, offset + count)
            offset += count
            asked = Asked.of(request.sampling_params and request.sampling_params.extra_args)
            if asked is not None and request.num_computed_tokens < request.num_prompt_tokens:
                found.append(
                    Computed(
                        request_id,
                        asked,
                        request.num_computed_tokens,
                        request.num_prompt_tokens,
                        state.hidden_states[rows],
                        self.inputs_embeds.gpu[rows],
                    )
                )
        return found


class Inspected:
    """A look from outside at what a worker holds."""

    def texts_held(self) -> tuple[int, int]:
        """How many texts and unfinished tails."""
        held: tuple[int, int] = self.model_runner.answers.held  # type: ignore[attr-defined]
        return held
