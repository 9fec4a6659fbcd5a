"""Writes a session's media to an MP4 without re-encoding, with a caption track. Needs PyAV (extra ``media``).

Knows the elementary framing (H.264 Annex B, bare Opus packets) and no stream: it takes events, wherever they come from.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import AsyncIterable, Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from cuelight.errors import CuelightError
from cuelight.events import Attached, Event, Media, Progress, Retired, Track, TrackInfo, Word


@dataclass(frozen=True, slots=True)
class RecordingSummary:
    """What was written."""

    path: Path
    duration_s: float
    chunks: int
    words: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Piece:
    """Media of one chunk and track, its bytes at ``begin`` of the spool."""

    track: Track
    position: int
    generation: int
    pts: int
    unit_duration: int
    unit_sizes: tuple[int, ...]
    begin: int
    is_keyframe: bool


class Recording:
    """Collects events; ``save`` writes the MP4. Media waits in a temporary file, so length is bounded by the disk.

    What an interrupt takes off the timeline (``Retired``, or media of a later generation) is left out.
    """

    def __init__(self) -> None:
        self._spool: IO[bytes] = tempfile.TemporaryFile(prefix="cuelight-")  # noqa: SIM115 (closed in __exit__)
        self._pieces: list[Piece] = []
        self._progress: list[Progress] = []
        self._tracks: dict[Track, TrackInfo] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._spool.close()

    @property
    def is_empty(self) -> bool:
        """True when there is nothing to save."""
        return not self._pieces

    def add(self, event: Event) -> None:
        """Takes in one event; those that are neither media nor words are passed over."""
        if isinstance(event, Media):
            self._add_media(event)
        elif isinstance(event, Progress):
            self._cut(event.generation, event.position)
            self._progress.append(event)
        elif isinstance(event, Retired):
            self._cut(event.generation, event.first_position)
        elif isinstance(event, Attached):
            self._tracks = {track.track: track for track in event.tracks}

    def save(self, path: str | os.PathLike[str]) -> RecordingSummary:
        """Writes what has been collected; the file appears under its name only when it is whole.

        Raises:
            ValueError: there is no media.
            ModuleNotFoundError: PyAV is not installed.
        """
        from cuelight.mp4 import write  # the one import that needs the extra

        if self.is_empty:
            raise ValueError("there is nothing to write: no media came")
        target = Path(path)
        partial = target.with_name(f".{target.name}.partial")
        try:
            write(partial, self._tracks, self._pieces, self._spool, self._words())
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)
        return RecordingSummary(
            path=target,
            duration_s=max(self._end_of(piece) for piece in self._pieces) - self._start_s(),
            chunks=len({piece.position for piece in self._pieces}),
            words=len(self._words()),
            size_bytes=target.stat().st_size,
        )

    def _add_media(self, media: Media) -> None:
        if media.unit_duration == 0 or not media.unit_sizes:
            raise ValueError("only elementary media can be written: make the session with container='elementary'")
        self._cut(media.generation, media.position)
        begin = self._spool.seek(0, os.SEEK_END)
        self._spool.write(media.data)
        self._pieces.append(
            Piece(
                media.track,
                media.position,
                media.generation,
                media.pts,
                media.unit_duration,
                media.unit_sizes,
                begin,
                media.is_keyframe,
            )
        )

    def _cut(self, generation: int, position: int) -> None:
        """Drops what earlier generations hold from ``position`` on."""
        while self._pieces and self._pieces[-1].generation < generation and self._pieces[-1].position >= position:
            self._pieces.pop()
        while self._progress and self._progress[-1].generation < generation and self._progress[-1].position >= position:
            self._progress.pop()

    def _words(self) -> list[Word]:
        return [word for progress in self._progress for word in progress.words]

    def _start_s(self) -> float:
        return min(piece.pts / self._tracks[piece.track].timescale for piece in self._pieces)

    def _end_of(self, piece: Piece) -> float:
        ticks = piece.pts + len(piece.unit_sizes) * piece.unit_duration
        return ticks / self._tracks[piece.track].timescale


async def write_mp4(
    source: AsyncIterable[Event],
    path: str | os.PathLike[str],
    *,
    on_event: Callable[[Event], None] | None = None,
) -> RecordingSummary:
    """Writes everything ``source`` yields to an MP4: the encoded pictures and sound as they came, and captions.

    Args:
        source: A session, or any stream of its events that begins with ``Attached``, such as
            ``session.events(until=ResponseEnded)``. Writing is done when it ends.
        path: The file; an old one is replaced when the new one is whole.
        on_event: Called with every event, for instance to show progress.

    Raises:
        CuelightError: the session broke. What had come until then is in the file, and the error says so.
        ValueError: no media came, or it is not elementary.
    """
    require_media()
    with Recording() as recording:
        try:
            async for event in source:
                recording.add(event)
                if on_event is not None:
                    on_event(event)
        except (CuelightError, asyncio.CancelledError) as error:
            if not recording.is_empty:
                summary = recording.save(path)
                error.add_note(f"The {summary.duration_s:.1f} s that had come until then are in {summary.path}.")
            raise
        return await asyncio.to_thread(recording.save, path)


def require_media() -> None:
    """Says what to install when PyAV is missing."""
    try:
        import av  # noqa: F401  (only to see whether it is there)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("writing MP4 needs PyAV: pip install 'cuelight[media]'", name="av") from error
