"""A viewer of the simulated cluster: the SDK through the gateway's Service, a player, and what it went through.

It plays in real time and says where it is. A chunk is whole when its sound and its picture are there; the player stands
still for want of the next whole chunk, and the longest standstill is the largest gap. It decodes nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import cuelight
from cuelight.errors import CuelightError, NoCapacity
from cuelight.events import Media, StateChanged, Track
from cuelight.rpc import Timeouts
from cuelight.session import Session

TICK_S = 0.05
QUEUE_S = 60
"""As long as a creation may wait for a slot."""
_TIMEOUTS = Timeouts(connect_s=60.0, call_s=30.0)
"""What is slow here is the machine, which starts everything at once."""
LINES = (
    "Good evening, and welcome to the house.",
    "The light goes down, and the play is about to begin.",
    "Somebody carries the moon across the stage, and nobody asks why.",
    "Outside it rains, and the river is a little louder than before.",
)


@dataclass
class Seen:
    """What a viewer went through. Times are seconds."""

    came: Counter[int] = field(default_factory=Counter)
    """Media by offset, as the SDK gave them out: each once if all is well."""
    whole: dict[int, float] = field(default_factory=dict)
    """When each chunk was whole, by its number on the media clock."""
    epochs: set[int] = field(default_factory=set)
    attachments: int = 0
    gap_s: float = 0.0
    """Longest standstill of the player since it began."""
    stalled_s: float = 0.0
    played_s: float = 0.0
    error: str = ""

    @property
    def lost(self) -> int:
        """Media that never came, though later ones did."""
        return sum(offset not in self.came for offset in range(max(self.came, default=-1)))

    @property
    def doubled(self) -> int:
        """Media given out more than once."""
        return sum(count - 1 for count in self.came.values())


class Viewer:
    """One session from its creation to its end."""

    def __init__(self, address: str, name: str, *, words: int = 4000, patience_s: float = 240.0) -> None:
        self.name = name
        self.seen = Seen()
        self.session_id = ""
        self._address = address
        self._words = words
        self._patience_s = patience_s
        self.refused = 0
        """Creations that found no place."""
        self._ended = asyncio.Event()
        self._chunk_s = 0.0
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to watch."""
        self._task = asyncio.create_task(self._watch(), name=self.name)

    async def until(self, condition: Callable[[Seen], bool], limit_s: float, what: str) -> None:
        """Wait until something was seen. Raises TimeoutError or RuntimeError, which say what was waited for."""
        try:
            async with asyncio.timeout(limit_s):
                while not condition(self.seen):
                    if self.seen.error:
                        raise RuntimeError(f"{self.name} lost its session, waiting for {what}: {self.seen.error}")
                    await asyncio.sleep(TICK_S)
        except TimeoutError:
            raise TimeoutError(f"{self.name} waited {limit_s:g} s for {what} in vain") from None

    async def more(self, chunks: int, limit_s: float, what: str = "more chunks") -> None:
        """Wait for so many chunks more than are there now."""
        goal = len(self.seen.whole) + chunks
        await self.until(lambda seen: len(seen.whole) >= goal, limit_s, what)

    def new_period(self) -> None:
        """Count gaps from now on."""
        self.seen.gap_s = 0.0

    async def stop(self) -> Seen:
        """Close the session and say what was seen."""
        self._ended.set()
        if self._task is not None:
            await self._task
        return self.seen

    async def _watch(self) -> None:
        try:
            async with contextlib.AsyncExitStack() as stack:
                client = await stack.enter_async_context(cuelight.connect(self._address, timeouts=_TIMEOUTS))
                session = await self._let_in(stack, client)
                self.session_id = session.name.rpartition("/")[2]
                say = asyncio.create_task(self._say(session))
                read = asyncio.create_task(self._read(session))
                play = asyncio.create_task(self._play(session))
                end = asyncio.create_task(self._ended.wait())
                await asyncio.wait({read, end}, return_when=asyncio.FIRST_COMPLETED)
                for task in (say, read, play, end):
                    if task is not read or not read.done():
                        task.cancel()
                await asyncio.gather(say, play, end, return_exceptions=True)
                with contextlib.suppress(asyncio.CancelledError):
                    await read
        except (CuelightError, OSError) as fault:
            self.seen.error = f"{type(fault).__name__}: {fault}"

    async def _let_in(self, stack: contextlib.AsyncExitStack, client: cuelight.Client) -> Session:
        """A session, asked for again when there was no place for as long as a creation may wait. Raises NoCapacity."""
        give_up_at = time.monotonic() + self._patience_s
        while True:
            made = client.create_session(regime="scripted", queue_timeout_s=QUEUE_S)
            try:
                return await stack.enter_async_context(made)
            except NoCapacity:
                if time.monotonic() > give_up_at or self._ended.is_set():
                    raise
                self.refused += 1

    async def _say(self, session: Session) -> None:
        said = 0
        while said < self._words:
            for line in LINES:
                await session.say(line)
                said += len(line.split())

    async def _read(self, session: Session) -> None:
        parts: dict[int, set[Track]] = {}
        async for event in session:
            self.seen.attachments = session.stats.attachments
            if isinstance(event, StateChanged) and event.state.is_final and not self._ended.is_set():
                self.seen.error = f"the session is {event.state}"
            if not isinstance(event, Media):
                continue
            self.seen.came[event.offset] += 1
            self.seen.epochs.add(event.epoch)
            self._chunk_s = max(self._chunk_s, event.duration / event.timescale)
            parts.setdefault(event.position, set()).add(event.track)
            if len(parts[event.position]) == len(Track):
                self.seen.whole[event.position] = time.monotonic()

    async def _play(self, session: Session) -> None:
        position, left_s, still_since, last = 0, 0.0, time.monotonic(), time.monotonic()
        while True:
            await asyncio.sleep(TICK_S)
            now = time.monotonic()
            passed, last = now - last, now
            if left_s > 0:
                left_s -= passed
                self.seen.played_s += passed
                still_since = now + min(0.0, left_s)
            elif self.seen.played_s:
                self.seen.stalled_s += passed
                self.seen.gap_s = max(self.seen.gap_s, now - still_since)
            if left_s <= 0 and position in self.seen.whole:
                position, left_s = position + 1, left_s + self._chunk_s if left_s > -TICK_S else self._chunk_s
            session.report_playhead(self.seen.played_s)
