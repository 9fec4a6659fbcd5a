"""One viewer of a real stack, in a process of its own: the SDK over real sockets, a player, and what it went through.

It talks and listens in turn, plays what it has in real time, stands still where it has no more, and says where it is.
It decodes no media: it knows when they came and for how long they play. Assignments come on standard input, a line of
JSON each, and what came of each goes to standard output likewise; an empty line is answered by an empty line, as a sign
that all is loaded, and the end of the input ends the process.

    python -m evaluation.audience.viewer
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections.abc import Awaitable
from dataclasses import asdict, dataclass, field
from typing import Any

import cuelight
from cuelight.errors import CuelightError, NoCapacity
from cuelight.events import Event, Media, Notice, Progress, ResponseEnded, ResponseStarted, Retired, Track
from cuelight.session import Session
from dit_worker.capacity.audience import Audience, Experience
from dit_worker.engine.playback import Player

REPORT_S = 0.25
"""A client says where it is as often as that."""
WORDS_PER_S = 2.5
WORDS = (
    "good evening and welcome to the theatre every word you hear was made a moment ago and so was every face that "
    "speaks it the play is about to begin please take your seats and let the light go down"
).split()
_LINE_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Assignment:
    """What one viewer is to do."""

    address: str
    """host:port of the gateway."""
    audience: Audience
    enters_s: float
    """Seconds from now until it comes."""
    stays_s: float
    chunk_s: float
    ahead_s: float
    """The worker's run-ahead cap, to tell since when a chunk could be made."""
    seed: int


@dataclass(slots=True)
class Arrival:
    """One chunk, complete at the client."""

    at_s: float
    """Since the viewer came."""
    position: int
    lead_s: float
    """For how long playback could have gone on without it; below 0 for how long it stood still; 0 for the first."""
    rtf: float
    """From when the cap let it begin, or the chunk before was there, until it came; over its length."""
    compute_rtf: float
    """The same as the worker told it."""
    skew_s: float
    """By how much its sound ends before its picture."""
    is_answer: bool


@dataclass(slots=True)
class Asked:
    """Words that were given to be said."""

    at_s: float
    """Since the viewer came."""
    words: int
    chunks: int = 0
    """Of its answer, as far as it came."""
    is_ended: bool = False
    """Whether it came to its end."""


@dataclass(slots=True)
class Seen:
    """What one viewer went through."""

    experience: Experience
    arrivals: list[Arrival] = field(default_factory=list)
    asked: list[Asked] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    retired: int = 0
    refused: bool = False
    retry_after_s: float | None = None
    fault: str = ""
    cpu_s: float = 0.0


class Viewer:
    """One session's client."""

    def __init__(self, session: Session, task: Assignment, seen: Seen, began_at: float) -> None:
        self._session, self._task, self._seen, self._began_at = session, task, seen, began_at
        self._rng = random.Random(task.seed)
        self.player = Player(seen.experience)
        self.player.expects_more = True
        self._tracks: dict[int, dict[Track, Media]] = {}
        self._compute_rtf: dict[int, float] = {}
        self._reports: list[tuple[float, float]] = []
        """Playheads that were reported, and when."""
        self._came_at = time.monotonic()
        self._asked: tuple[int, float] | None = None
        """Number of the cue that is not answered yet, and when it was given."""
        self._answer = ("", 0)
        """The response that comes, and its chunks so far."""
        self._is_answered = asyncio.Event()

    async def watch(self) -> None:
        """Take what comes."""
        async for event in self._session:
            self._take(event, time.monotonic())

    async def report(self) -> None:
        """Say where playback is, again and again."""
        while True:
            now = time.monotonic()
            place_s = self.player.look(now)
            self._reports.append((place_s, now))
            self._session.report_playhead(place_s)
            await asyncio.sleep(REPORT_S)

    async def talk(self) -> None:
        """Say something, hear the answer out, listen, and so on."""
        audience = self._task.audience
        while True:
            await asyncio.sleep(self._rng.expovariate(1 / audience.listen_s))
            count = max(1, round(self._rng.expovariate(1 / audience.talk_s) * WORDS_PER_S))
            self._is_answered.clear()
            asked_at = time.monotonic()
            self._seen.asked.append(Asked(asked_at - self._began_at, count))
            self._asked = (await self._session.say(" ".join(self._rng.choices(WORDS, k=count)) + "."), asked_at)
            await self._is_answered.wait()
            now = time.monotonic()
            await asyncio.sleep(max(0.0, self.player.has_s - self.player.look(now)))

    def leave(self, now: float) -> None:
        """Go. A cue that was not answered counts with the time it waited."""
        self.player.leave(now)
        waited_from = self._asked[1] if self._asked is not None else self._began_at
        if self._asked is not None or self._seen.experience.opening_s is None:
            self._seen.experience.ttfcs_s.append(now - waited_from)

    def _take(self, event: Event, now: float) -> None:
        if isinstance(event, Progress):
            self._compute_rtf[event.chunk_index] = event.rtf
        elif isinstance(event, Media):
            tracks = self._tracks.setdefault(event.chunk_index, {})
            tracks[event.track] = event
            if len(tracks) == len(Track):
                self._receive(self._tracks.pop(event.chunk_index), now)
        elif isinstance(event, Retired):
            self._seen.retired += len(event.chunk_indices)
            self.player.retire(event.first_position * self._task.chunk_s, now)
        elif isinstance(event, ResponseStarted):
            self._answer = (event.response_id, 0)
        elif isinstance(event, ResponseEnded):
            for asked in self._seen.asked[-1:]:
                asked.is_ended = True
            self._is_answered.set()
        elif isinstance(event, Notice):
            self._seen.notices.append(event.code)

    def _receive(self, tracks: dict[Track, Media], now: float) -> None:
        """A chunk is complete."""
        video, audio = tracks[Track.VIDEO], tracks[Track.AUDIO]
        position, chunk_s = video.position, self._task.chunk_s
        is_first = bool(video.response_id) and self._asked is not None and self._answer[1] == 0
        began_at = self._could_begin_at(position)
        if is_first and self._asked is not None:
            self._seen.experience.ttfcs_s.append(now - self._asked[1])
            began_at, self._asked = self._asked[1], None
        if video.response_id == self._answer[0]:
            self._answer = (self._answer[0], self._answer[1] + 1)
        for asked in self._seen.asked[-1:] if video.response_id else ():
            asked.chunks += 1
        lead_s = self.player.lead_s(position * chunk_s, now)
        if self._seen.experience.opening_s is None:
            self._seen.experience.opening_s, lead_s = now - self._began_at, 0.0
        arrival = Arrival(
            at_s=now - self._began_at,
            position=position,
            lead_s=lead_s,
            rtf=(now - began_at) / chunk_s,
            compute_rtf=self._compute_rtf.pop(video.chunk_index, 0.0),
            skew_s=video.end_s - audio.end_s,
            is_answer=is_first,
        )
        self._seen.arrivals.append(arrival)
        self.player.receive((position + 1) * chunk_s, now)
        self._came_at = now

    def _could_begin_at(self, position: int) -> float:
        """Since when the chunk at this position could be made: the cap by what was reported, and the chunk before."""
        needed_s = (position + 1) * self._task.chunk_s - self._task.ahead_s
        allowed = next((at for place_s, at in self._reports if place_s >= needed_s - 1e-6), self._came_at)
        return max(allowed, self._came_at)


async def perform(task: Assignment) -> Seen:
    """Come, watch for as long as was asked, and go."""
    seen, began_cpu_s = Seen(Experience()), time.process_time()
    await asyncio.sleep(task.enters_s)
    began_at = time.monotonic()
    try:
        async with cuelight.connect(task.address) as client, client.create_session() as session:
            viewer = Viewer(session, task, seen, began_at)
            await _for_a_while(task.stays_s, viewer.watch(), viewer.report(), viewer.talk())
            viewer.leave(time.monotonic())
    except NoCapacity as refusal:
        seen.refused, seen.retry_after_s = True, refusal.retry_after_s
    except CuelightError as fault:
        seen.fault = f"{type(fault).__name__}: {fault}"
    seen.experience.life_s = time.monotonic() - began_at
    seen.cpu_s = time.process_time() - began_cpu_s
    return seen


async def _for_a_while(seconds: float, *parts: Awaitable[None]) -> None:
    """Run all until the time is up, or until one fails."""
    tasks = [asyncio.ensure_future(part) for part in parts]
    try:
        done, _ = await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_EXCEPTION)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def assignment_of(line: str) -> Assignment:
    """An assignment as it was written."""
    values: dict[str, Any] = json.loads(line)
    return Assignment(**{**values, "audience": Audience(**values["audience"])})


def seen_of(line: str) -> Seen:
    """What a viewer wrote."""
    values: dict[str, Any] = json.loads(line)
    experience = Experience(**values["experience"])
    arrivals, asked = [Arrival(**each) for each in values["arrivals"]], [Asked(**each) for each in values["asked"]]
    return Seen(**{**values, "experience": experience, "arrivals": arrivals, "asked": asked})


async def main() -> None:
    """Take assignments until there are no more."""
    lines = asyncio.StreamReader(limit=_LINE_BYTES)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    while line := await lines.readline():
        text = line.decode().strip()
        sys.stdout.write((json.dumps(asdict(await perform(assignment_of(text)))) if text else "") + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main())
