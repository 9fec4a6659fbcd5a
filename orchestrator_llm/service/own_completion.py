"""A planner's language model that is the one conditioning sessions: one engine, one copy of the weights.

It asks whichever backend conditions sessions when a question comes, and so moves along when a conditioner is swapped.
It knows no engine.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from orchestrator_llm.engine.backend import Backend, TextWriter
from orchestrator_llm.engine.brief import Question
from orchestrator_llm.engine.errors import ModelFault
from orchestrator_llm.service.completion import PlannerFailed

THREADS = 8
"""Answers in the making, each on a thread that may take the engine further; more wait."""


class OwnCompletion:
    """The language model of the conditioner in use."""

    def __init__(self, conditioning: Callable[[], Backend]) -> None:
        """Raises PlannerFailed where sessions are conditioned by what cannot write."""
        self._conditioning = conditioning
        self._writer()
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="own-planner")

    def _writer(self) -> TextWriter:
        backend = self._conditioning()
        if backend.writer is None:
            raise PlannerFailed(backend.why_no_writer)
        return backend.writer

    async def stream(self, question: Question) -> AsyncGenerator[str]:
        """The answer's text, piece by piece. Raises PlannerFailed."""
        writer, loop = self._writer(), asyncio.get_running_loop()
        pieces: asyncio.Queue[str | None] = asyncio.Queue()  # as many as the question has tokens at most
        tell = partial(_hand_over, loop, pieces)
        try:
            writing = await loop.run_in_executor(self._threads, writer.begin, question, tell)
        except ModelFault as fault:
            raise PlannerFailed(fault.message) from fault
        done = loop.run_in_executor(self._threads, writer.finish, writing)
        done.add_done_callback(partial(_end, pieces))
        try:
            while (piece := await pieces.get()) is not None:
                yield piece
            await done
        except ModelFault as fault:
            raise PlannerFailed(f"the planner's engine failed: {fault}") from fault
        finally:
            writing.is_wanted = False
            done.cancel()  # where it has not begun

    async def close(self) -> None:
        """Takes no more questions; the engine stays, for it conditions sessions."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def _hand_over(loop: asyncio.AbstractEventLoop, pieces: asyncio.Queue[str | None], piece: str) -> None:
    """Called on whichever thread has the engine's turn."""
    if not loop.is_closed():
        loop.call_soon_threadsafe(pieces.put_nowait, piece)


def _end(pieces: asyncio.Queue[str | None], ended: asyncio.Future[None]) -> None:
    """Nothing more comes; a fault is looked at, for nobody may wait for it any more."""
    if not ended.cancelled():
        ended.exception()
    pieces.put_nowait(None)
