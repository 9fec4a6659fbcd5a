"""One scripted performance: a transcript goes in as fast as it is spoken, an MP4 comes out, a bar shows how far it is.

Knows no process of the stack; works against any gateway.
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from cuelight import events
from cuelight.cli.console import err
from cuelight.client import Client
from cuelight.errors import CuelightError
from cuelight.recording import RecordingSummary, write_mp4
from cuelight.session import Session
from cuelight.transcript import count_words, split_transcript

PIECE_BYTES = 8 * 1024
AHEAD_WORDS = 1500
"""A further piece is said when fewer words than this wait to be spoken."""
_QUIET_S = 5.0
"""A piece that yields no words at all must not hold the next one back for longer."""
_QUEUE_TIMEOUT_S = 15.0
_SHOWN_NOTICES = 5


@dataclass(frozen=True, slots=True)
class Cast:
    """Who performs: options of the session."""

    character: str = ""
    seed: int | None = None
    portrait: Path | None = None
    voice: Path | None = None
    prompt: str = ""
    """What is asked of the picture from the first chunk on."""


@dataclass(slots=True)
class Meter:
    """What was measured during one performance."""

    words_spoken: int = 0
    words_total: int = 0
    media_s: float = 0.0
    rtfs: list[float] = field(default_factory=list)
    notices: Counter[str] = field(default_factory=Counter)
    words: list[events.Word] = field(default_factory=list)
    fault: CuelightError | None = None
    words_waiting: int = 0
    """Words said that were not spoken yet, as counted here."""

    def take(self, event: events.Event) -> None:
        """Counts one event."""
        if isinstance(event, events.Progress):
            self.words_waiting -= event.words_spoken - self.words_spoken
            self.words_spoken, self.words_total = event.words_spoken, event.words_total
            self.media_s += event.chunk_s
            self.rtfs.append(event.rtf)
            self.words += event.words
        elif isinstance(event, events.Notice):
            self.notices[event.text] += 1
        elif isinstance(event, events.ResponseEnded):
            self.words_waiting = 0
            self.fault = self.fault or event.error
        elif isinstance(event, events.Fault):
            self.fault = self.fault or event.error


@dataclass(frozen=True, slots=True)
class Performance:
    """A finished performance."""

    recording: RecordingSummary
    wall_s: float
    ttfc_s: float | None
    rtf_p50: float
    rtf_p95: float
    words: tuple[events.Word, ...]
    notices: tuple[tuple[str, int], ...]

    @property
    def speed(self) -> str:
        """How fast it was, for people."""
        ttfc = "" if self.ttfc_s is None else f", TTFC {self.ttfc_s:.2f} s"
        return (
            f"{self.recording.duration_s:.1f} s of media in {self.wall_s:.1f} s "
            f"({self.recording.duration_s / self.wall_s:.1f}x playback), "
            f"RTF p50 {self.rtf_p50:.2f} p95 {self.rtf_p95:.2f}{ttfc}"
        )


async def perform(client: Client, text: str, path: Path, cast: Cast) -> Performance:
    """Has ``text`` performed and writes it to ``path``.

    Raises:
        CuelightError: the session could not be made or broke; what had come is in the file.
    """
    meter = Meter(words_total=count_words(text))
    session_context = client.create_session(
        character=cast.character,
        regime="scripted",
        seed=cast.seed,
        portrait=cast.portrait,
        voice=cast.voice,
        queue_timeout_s=_QUEUE_TIMEOUT_S,
    )
    began = time.monotonic()
    async with session_context as session:
        if cast.prompt.strip():
            await session.prompt(cast.prompt)
        with _bar(meter, count_words(text)) as refresh:
            recording = await _record(session, text, path, meter, refresh)
    return Performance(
        recording=recording,
        wall_s=time.monotonic() - began,
        ttfc_s=session.stats.ttfc_s,
        rtf_p50=statistics.median(meter.rtfs) if meter.rtfs else 0.0,
        rtf_p95=_quantile(meter.rtfs, 0.95),
        words=tuple(meter.words),
        notices=tuple(meter.notices.items()),
    )


def print_notices(performance: Performance) -> None:
    """Shows what the server did with words it could not take literally."""
    for text, count in performance.notices[:_SHOWN_NOTICES]:
        err.print(f"note: {text}" + (f" ({count} times)" if count > 1 else ""), markup=False, soft_wrap=True)
    more = len(performance.notices) - _SHOWN_NOTICES
    if more > 0:
        err.print(f"note: and {more} more of the kind")


async def _record(session: Session, text: str, path: Path, meter: Meter, refresh: asyncio.Event) -> RecordingSummary:
    """Says and writes at the same time; the first that fails ends the other."""

    def take(event: events.Event) -> None:
        meter.take(event)
        refresh.set()
        if meter.fault is not None:
            raise meter.fault

    feeding = asyncio.create_task(_feed(session, split_transcript(text, PIECE_BYTES), meter, refresh))
    writing = asyncio.create_task(write_mp4(session, path, on_event=take))
    try:
        await asyncio.wait({feeding, writing}, return_when=asyncio.FIRST_EXCEPTION)
        if writing.done() and writing.exception() is not None:
            return writing.result()
        if feeding.done() and not writing.done():
            feeding.result()
        return await writing
    finally:
        for task in (feeding, writing):
            if not task.done():
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task


async def _feed(session: Session, pieces: list[str], meter: Meter, refresh: asyncio.Event) -> None:
    """Says piece after piece, each when few words wait, so that a book needs no more memory than a page."""
    for piece in pieces:
        while meter.words_waiting >= AHEAD_WORDS:
            refresh.clear()
            try:
                async with asyncio.timeout(_QUIET_S):
                    await refresh.wait()
            except TimeoutError:
                break
        await session.say(piece)
        meter.words_waiting += count_words(piece)
    await session.end()


@contextmanager
def _bar(meter: Meter, words: int) -> Iterator[asyncio.Event]:
    """A progress bar by words spoken; give it a turn by setting the event it yields."""
    columns = (
        SpinnerColumn(),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TextColumn("words"),
        TextColumn("{task.fields[media]}"),
        TextColumn("RTF {task.fields[rtf]}"),
        TimeElapsedColumn(),
    )
    changed = asyncio.Event()
    with Progress(*columns, console=err, transient=True) as progress:
        task = progress.add_task("", total=words, media="0:00", rtf="...")

        async def follow() -> None:
            while True:
                await asyncio.sleep(0.2)
                progress.update(
                    task,
                    completed=meter.words_spoken,
                    total=max(words, meter.words_total),
                    media=f"{int(meter.media_s) // 60}:{int(meter.media_s) % 60:02d}",
                    rtf=f"{statistics.median(meter.rtfs[-20:]):.2f}" if meter.rtfs else "...",
                )

        following = asyncio.create_task(follow())
        try:
            yield changed
        finally:
            following.cancel()


def _quantile(values: list[float], share: float) -> float:
    if not values:
        return 0.0
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
