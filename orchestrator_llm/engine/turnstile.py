"""Calls of many threads, computed together: whoever gets the turn works for all that have arrived.

    call(request) ─▶ arrived ─▶ [ one thread at a time: advance(arrived) settles some ] ─▶ answer

So a call never waits for others to come, and those that come while one computes share the next turn. The turn goes to
whoever has waited longest, and who is answered meanwhile needs none: a call that takes many turns keeps nobody from
theirs. It knows nothing of what is computed.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, Self, TypeVar

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
    news: threading.Event = field(default_factory=threading.Event)
    """Set when it is settled, and when its caller has the turn."""

    def settle(self, answer: Answer) -> None:
        """Gives the answer."""
        self.answer, self.is_settled = answer, True
        self.news.set()

    def fail(self, fault: BaseException) -> None:
        """Ends the call with an error."""
        self.fault, self.is_settled = fault, True
        self.news.set()


class Turn:
    """A lock that is handed on in the order it was asked for."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._waiting: deque[threading.Event] = deque()
        self._is_taken = False

    def take(self, news: threading.Event, timeout_s: float | None = None) -> bool:
        """Waits until the turn comes, or `news` of another kind, or no longer; says whether it is the turn."""
        with self._guard:
            if not self._is_taken:
                self._is_taken = True
                return True
            self._waiting.append(news)
        news.wait(timeout_s)
        with self._guard:
            if news in self._waiting:
                self._waiting.remove(news)
                return False
            return True

    def give(self) -> None:
        """Hands it on."""
        with self._guard:
            if self._waiting:
                self._waiting.popleft().set()
            else:
                self._is_taken = False

    def __enter__(self) -> Self:
        self.take(threading.Event())
        return self

    def __exit__(self, *_: object) -> None:
        self.give()


class Turnstile(Generic[Request, Answer]):
    """Any thread may call; `advance` runs on one at a time.

    `advance` takes tickets off the left of what has arrived and settles some of those it has ever taken. It must come
    nearer to an answer each time it is called.
    """

    def __init__(self, advance: Callable[[deque[Ticket[Request, Answer]]], None], timeout_s: float) -> None:
        self._advance = advance
        self._timeout_s = timeout_s
        self._arrived: deque[Ticket[Request, Answer]] = deque()
        self.turn = Turn()
        """Held while something is computed; other work on the same models may hold it too."""

    def call(self, request: Request, timeout_s: float | None = None) -> Answer:
        """The answer to `request`. Raises what `advance` fails it with, and ModelFault when it takes too long."""
        patience_s = self._timeout_s if timeout_s is None else timeout_s
        ticket: Ticket[Request, Answer] = Ticket(request)
        deadline = time.monotonic() + patience_s
        self._arrived.append(ticket)
        while not self._is_settled(ticket):
            left_s = deadline - time.monotonic()
            if left_s < 0:
                ticket.is_given_up = True
                raise ModelFault(f"the model did not answer within {patience_s:g} s")
            if self.turn.take(ticket.news, left_s):
                try:
                    if not ticket.is_settled:
                        self._advance(self._arrived)
                finally:
                    self.turn.give()
        if ticket.fault is not None:
            raise ticket.fault
        assert ticket.answer is not None, "a settled ticket has an answer or a fault"
        return ticket.answer

    @staticmethod
    def _is_settled(ticket: Ticket[Request, Answer]) -> bool:
        """Looks after news is taken off, so that none that comes from now on is missed."""
        ticket.news.clear()
        return ticket.is_settled
