"""Where async meets sync: one thread runs the engine, one bounded queue leads to it.

Commands are run between two steps, in order; a chunk's next request or its latents come back through a future. It knows
the engine's interface and nothing of sessions' lives.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from dit_worker.engine.arrays import Floats, Pixels
from dit_worker.engine.engine import Engine, EngineFigures, Outcome, Standing
from dit_worker.engine.performance import ChunkLatents, StepRequest
from dit_worker.engine.stage import Spent
from services.logs import get_logger

log = get_logger(__name__)
R = TypeVar("R")
_IDLE_WAIT_S = 0.5
_CAPACITY = 1024


@dataclass(frozen=True, slots=True)
class Settled:
    """A finished chunk, the seconds it had left before its deadline, and those of the device that it took."""

    latents: ChunkLatents
    slack_s: float
    spent: Spent


@dataclass(frozen=True, slots=True)
class _Command:
    run: Callable[[], object]
    reply: asyncio.Future[Any]


class EngineBridge:
    """The engine as coroutines. Start it inside a running loop; every method belongs to that loop."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._commands: queue.Queue[_Command | None] = queue.Queue(maxsize=_CAPACITY)
        self._steps: dict[str, asyncio.Future[StepRequest | Settled]] = {}
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self) -> None:
        """Start the engine's thread."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    async def stop(self) -> None:
        """Let the running step end, then stop the thread. Waits at most ten seconds."""
        await asyncio.to_thread(self._commands.put, None)
        await asyncio.to_thread(self._thread.join, 10)

    async def open(
        self, session_id: str, seed: int, portrait: Pixels, standing: Standing, *, is_repeatable: bool = False
    ) -> None:
        """Take a session up where it stands."""
        await self._call(lambda: self._engine.open(session_id, seed, portrait, standing, is_repeatable=is_repeatable))

    @property
    def figures(self) -> EngineFigures:
        """How the engine's room for keys and values is used, and what was run together."""
        return self._engine.figures

    async def voice(self, samples: Floats) -> Floats:
        """Reference latents (R, D) of a voice, samples (S,) at the bundle's rate. Raises BadVoice."""
        return await self._call(lambda: self._engine.voice(samples))

    async def restore(self, session_id: str, standing: Standing) -> None:
        """Stand elsewhere; a chunk in flight is forgotten."""
        self._forget(session_id)
        await self._call(lambda: self._engine.restore(session_id, standing))

    async def is_warm(self, session_id: str) -> bool:
        """Whether what its next chunk attends to is computed, or cannot be for want of a slot."""
        return await self._call(lambda: self._engine.is_warm(session_id))

    async def begin(
        self, session_id: str, chunk_index: int, steps: int, deadline: float, prompt: str = ""
    ) -> StepRequest:
        """Put a chunk in flight, with all that is asked of its picture, and learn what its first step needs."""
        return await self._call(lambda: self._engine.begin(session_id, chunk_index, steps, deadline, prompt))

    async def supply(self, session_id: str, step: int, condition: Floats) -> StepRequest | Settled:
        """Give a step its condition and wait until it has run. Raises what the step raised."""
        assert self._loop is not None, "start first"
        waiting: asyncio.Future[StepRequest | Settled] = self._loop.create_future()
        self._steps[session_id] = waiting
        try:
            await self._call(lambda: self._engine.supply(session_id, step, condition))
            return await waiting
        finally:
            self._forget(session_id)

    async def commit(self, session_id: str) -> None:
        """The chunk finished last exists now."""
        await self._call(lambda: self._engine.commit(session_id))

    async def abort(self, session_id: str) -> None:
        """Forget the chunk in flight."""
        self._forget(session_id)
        await self._call(lambda: self._engine.abort(session_id))

    async def close(self, session_id: str) -> None:
        """Let a session go."""
        self._forget(session_id)
        await self._call(lambda: self._engine.close(session_id))

    async def _call(self, run: Callable[[], R]) -> R:
        """Run one command on the engine's thread. A full queue is an overload that is told, never waited out."""
        assert self._loop is not None, "start first"
        command = _Command(run, self._loop.create_future())
        self._commands.put_nowait(command)
        result: R = await command.reply
        return result

    def _forget(self, session_id: str) -> None:
        waiting = self._steps.pop(session_id, None)
        if waiting is not None:
            waiting.cancel()

    def _run(self) -> None:
        """The engine's thread: commands first, then one step, and sleep only when there is neither."""
        is_idle = False
        while self._take_commands(wait=is_idle):
            outcomes = self._engine.step()
            is_idle = not outcomes
            for outcome in outcomes:
                self._post(self._settle, outcome)

    def _take_commands(self, *, wait: bool) -> bool:
        """Run what is queued; False when told to stop."""
        while True:
            try:
                command = self._commands.get(timeout=_IDLE_WAIT_S) if wait else self._commands.get_nowait()
            except queue.Empty:
                return True
            if command is None:
                return False
            self._execute(command)
            wait = False

    def _execute(self, command: _Command) -> None:
        try:
            result = command.run()
        except Exception as error:  # noqa: BLE001  (it belongs to whoever gave the command)
            self._post(_fail, command.reply, error)
        else:
            self._post(_resolve, command.reply, result)

    def _post(self, function: Callable[..., None], *arguments: object) -> None:
        assert self._loop is not None, "start first"
        try:
            self._loop.call_soon_threadsafe(function, *arguments)
        except RuntimeError:
            log.warning("engine_outcome_dropped", reason="the event loop has ended")

    def _settle(self, outcome: Outcome) -> None:
        waiting = self._steps.get(outcome.session_id)
        if waiting is None or waiting.done():
            return
        if outcome.error is not None:
            waiting.set_exception(outcome.error)
        elif isinstance(outcome.result, ChunkLatents):
            waiting.set_result(Settled(outcome.result, outcome.slack_s or 0.0, outcome.spent))
        elif outcome.result is not None:
            waiting.set_result(outcome.result)


def _resolve(reply: asyncio.Future[Any], result: object) -> None:
    if not reply.done():
        reply.set_result(result)


def _fail(reply: asyncio.Future[Any], error: Exception) -> None:
    if not reply.done():
        reply.set_exception(error)
