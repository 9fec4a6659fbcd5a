"""What is asked of a language model, whichever it is and wherever it runs: a question in, text as it comes out.

CuelightError
└── PlannerFailed  UNAVAILABLE  a planner's model is away, too slow, or answers nothing that can be used

It knows no sessions and no plans.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Protocol

from orchestrator_llm.engine.brief import Message, Question
from services.errors import CuelightError, Status

WARM_UP = Question((Message("user", "Say: ready."),), max_tokens=8)


class PlannerFailed(CuelightError):
    """A planner's model is away, too slow, or answers nothing that can be used."""

    status = Status.UNAVAILABLE
    reason = "PLANNER_FAILED"
    retry_after_s = 1.0


class Completion(Protocol):
    """A language model that answers. An answer that is not read to its end is cancelled where it is made."""

    def stream(self, question: Question) -> AsyncGenerator[str]:
        """The answer's text, piece by piece. Raises PlannerFailed."""

    async def close(self) -> None:
        """Lets go of what it holds."""


async def answer(model: Completion, question: Question, *, timeout_s: float, most_bytes: int) -> str:
    """A whole answer. Raises PlannerFailed when it takes too long or is too large."""
    parts: list[str] = []
    size = 0
    try:
        async with asyncio.timeout(timeout_s), aclosing(model.stream(question)) as pieces:
            async for piece in pieces:
                size += len(piece.encode(errors="replace"))
                if size > most_bytes:
                    raise PlannerFailed(f"the model's answer is larger than {most_bytes} bytes")
                parts.append(piece)
    except TimeoutError as fault:
        raise PlannerFailed(f"the model did not answer within {timeout_s:g} s") from fault
    return "".join(parts)
