"""Calls of many threads, computed together: whoever gets the turn works for all that have arrived.

    call(request) ─▶ arrived ─▶ [ one thread at a time: advance(arrived) settles some ] ─▶ answer

So a call never waits for others to come, and those that come while one computes share the next turn. It knows nothing
of what is computed.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from orchestrator_llm.engine.errors import ModelFault

Request = TypeVar("Request")
Answer = TypeVar("Answer")


@dataclass(slots=True, eq=False)
class Ticket(Generic[Request, Answer]):
    """One call under way."""

    request: Request
    answer: Answer | None = None
    fault: BaseException | None = None
    is_settled: bool = False
    is_given_up: bool = False
    """Nobody waits for the answer any more."""

    def settle(self, answer: Answer) -> None:
        """Gives the answer."""
        self.answer, self.is_settled = answer, True

    def fail(self, fault: BaseException) -> None:
        """Ends the call with an error."""
        self.fault, self.is_settled = fault, True


class Turnstile(Generic[Request, Answer]):
    """Any thread may call; `advance` runs on one at a time.

    `advance` takes tickets off the left of what has arrived and settles some of those it has ever taken. It must come
    nearer to an answer each time it is called.
    """

    def __init__(self, advance: Callable[[deque[Ticket[Request, Answer]]], None], timeout_s: float) -> None:
        self._advance = advance
        self._timeout_s = timeout_s
        self._arrived: deque[Ticket[Request, Answer]] = deque()
        self.turn = threading.Lock()
        """Held while something is computed; other work on the same models may hold it too."""

    def call(self, request: Request) -> Answer:
        """The answer to `request`. Raises what `advance` fails it with, and ModelFault when it takes too long."""
        ticket: Ticket[Request, Answer] = Ticket(request)
        deadline = time.monotonic() + self._timeout_s
        self._arrived.append(ticket)
        while not ticket.is_settled:
            if time.monotonic() > deadline:
                ticket.is_given_up = True
                raise ModelFault(f"the model did not answer within {self._timeout_s:g} s")
            if self.turn.acquire(timeout=max(0.0, deadline - time.monotonic())):
                try:
                    if not ticket.is_settled:
                        self._advance(self._arrived)
                finally:
                    self.turn.release()
        if ticket.fault is not None:
            raise ticket.fault
        assert ticket.answer is not None, "a settled ticket has an answer or a fault"
        return ticket.answer
