"""Text from the language model that a conditioner's body is, on the engine that hosts it: one copy of the weights.

A question becomes tokens, which the engine continues in the same passes that compute the steps of sessions; what it
writes is told piece by piece, from whichever thread has the turn. It knows no planner and no session.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

from orchestrator_llm.engine.backend import Writing
from orchestrator_llm.engine.brief import Question
from orchestrator_llm.engine.errors import ModelFault
from orchestrator_llm.engine.loading import LanguageModel

MOST_TOKENS = 4096
"""Of a question and its answer together."""
WRITE_TIMEOUT_S = 120.0
"""A text that has no end after this long is given up; who asks for one has less patience."""
TEMPERATURE = 0.7


class Writer:
    """Writes for any number of threads at a time."""

    def __init__(self, model: LanguageModel, call: Callable[[Writing, float], object]) -> None:
        """`call` puts a writing through the engine; it returns why the text has ended."""
        from transformers import AutoTokenizer

        self._tokenizer = AutoTokenizer.from_pretrained(str(model.folder))
        self._borrowed = threading.Lock()
        self._call = call

    def begin(self, question: Question, tell: Callable[[str], None]) -> Writing:
        """A text that has not been asked for yet. Raises ModelFault for a question that leaves no room for it."""
        with self._borrowed:  # a tokenizer is one thread's at a time
            tokens = self._tokenizer.encode(prompt_text(self._tokenizer, question), add_special_tokens=False)
        if len(tokens) >= MOST_TOKENS:
            raise ModelFault(f"the question has {len(tokens)} tokens, with its answer there may be {MOST_TOKENS}")
        most = min(question.max_tokens, MOST_TOKENS - len(tokens))
        return Writing(tokens, most, question.schema, tell)

    def finish(self, writing: Writing) -> None:
        """Returns when all is told, or nothing is wanted any more. Raises ModelFault."""
        if self._call(writing, WRITE_TIMEOUT_S) == "error":
            raise ModelFault("vLLM could not hold the text to its form")


def parameters(writing: Writing) -> Any:  # noqa: ANN401  (vLLM is not imported here)
    """What vLLM is asked for."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(
        max_tokens=writing.most_tokens,
        temperature=TEMPERATURE,
        structured_outputs=structured(writing.schema),
        output_kind=RequestOutputKind.DELTA,
    )


def structured(schema: Mapping[str, Any] | None) -> Any:  # noqa: ANN401  (vLLM is not imported here)
    """What holds an answer to a JSON schema; None for plain text."""
    from vllm.sampling_params import StructuredOutputsParams

    return None if schema is None else StructuredOutputsParams(json=dict(schema))


def prompt_text(tokenizer: Any, question: Question) -> str:  # noqa: ANN401  (a tokenizer of transformers)
    """A question as the model's own chat, or one part below the other where it has no template."""
    if tokenizer.chat_template:
        messages = [{"role": message.role, "content": message.content} for message in question.messages]
        prompt: str = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return prompt
    return "\n\n".join([*(message.content for message in question.messages), ""])
