"""What a session tells its client, as plain immutable values. Knows no protobuf and no gRPC.

All times ending in ``_s`` are seconds; those of words and media are on the media clock, which starts with the session.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, StrEnum
from itertools import pairwise

from cuelight.errors import CuelightError


class Track(IntEnum):
    """Number of a media track."""

    VIDEO = 1
    AUDIO = 2


class SessionState(StrEnum):
    """A session's place in its life."""

    PENDING = "pending"
    READY = "ready"
    ACTIVE = "active"
    RECOVERING = "recovering"
    CLOSED = "closed"
    FAILED = "failed"

    @property
    def is_final(self) -> bool:
        """True when nothing follows."""
        return self in (SessionState.CLOSED, SessionState.FAILED)


class EndReason(StrEnum):
    """Why a response ended."""

    COMPLETED = "completed"
    INTERRUPTED = "interrupted"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class TrackInfo:
    """Start of a track: RFC 6381 codec, ticks a second, and what a decoder needs first."""

    track: Track
    codec: str
    timescale: int
    init_data: bytes


@dataclass(frozen=True, slots=True)
class Attached:
    """The stream stands, for the first time (``is_first``) or again after it broke."""

    tracks: tuple[TrackInfo, ...]
    media_offset: int
    state_preserved: bool
    is_first: bool


class ResumeCause(StrEnum):
    """What the performance was taken up again after."""

    CONNECTION_LOST = "connection_lost"
    """The stream broke, and was opened again."""
    GATEWAY_LEFT = "gateway_left"
    """The gateway was shutting down; another one carries the stream, which was not without one meanwhile."""
    WORKER_LOST = "worker_lost"
    """What performs the session was lost or out of reach, and was replaced or reached again."""
    WORKER_MOVED = "worker_moved"
    """Another worker performs the session, as was planned: nothing stood still."""


@dataclass(frozen=True, slots=True)
class Resumed:
    """The performance goes on after something happened. Every media offset and every input still counts once."""

    cause: ResumeCause
    state_preserved: bool
    """False when the session began again from its configuration: what was said before is forgotten."""
    gap_ms: float
    """How long nothing could come, as seen from here; 0 when something always could."""
    attempts: int
    """Times that attaching was tried; 0 where the stream itself stood."""
    epoch: int
    """Of whoever performs the session now; it only rises."""


@dataclass(frozen=True, slots=True)
class Media:
    """Media of one chunk and one track: encoded access units back to back."""

    offset: int
    track: Track
    chunk_index: int
    position: int
    pts: int
    duration: int
    unit_duration: int
    timescale: int
    unit_sizes: tuple[int, ...]
    is_keyframe: bool
    is_discontinuity: bool
    generation: int
    epoch: int
    response_id: str
    data: bytes
    crc32c: int

    @property
    def start_s(self) -> float:
        """When it begins."""
        return self.pts / self.timescale

    @property
    def end_s(self) -> float:
        """When it ends."""
        return (self.pts + self.duration) / self.timescale

    @property
    def units(self) -> tuple[bytes, ...]:
        """The access units, in order."""
        cuts = [0]
        for size in self.unit_sizes:
            cuts.append(cuts[-1] + size)
        return tuple(self.data[begin:end] for begin, end in pairwise(cuts))


@dataclass(frozen=True, slots=True)
class Word:
    """One spoken word of the transcript, counted from 0, with its place on the media clock."""

    index: int
    text: str
    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True)
class Progress:
    """How far one chunk has come in the transcript; its words are the captions."""

    chunk_index: int
    position: int
    generation: int
    words_spoken: int
    words_total: int
    words: tuple[Word, ...]
    compute_s: float
    chunk_s: float
    prompt: str = ""
    """All that was asked of the chunk's picture; empty when nothing was."""

    @property
    def rtf(self) -> float:
        """Real-time factor: time to make the chunk over its length; below 1 is faster than playback."""
        return self.compute_s / self.chunk_s if self.chunk_s else 0.0

    @property
    def caption(self) -> str:
        """The words of this chunk as one line."""
        return " ".join(word.text for word in self.words)


@dataclass(frozen=True, slots=True)
class Retired:
    """Chunks taken off the timeline: drop all media and words held from ``first_position`` on."""

    generation: int
    first_position: int
    chunk_indices: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Notice:
    """Something about an input that is no fault, for instance that a word was spelled out."""

    code: str
    text: str
    client_seq: int


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault that did not end the stream, for instance an input the server refused."""

    error: CuelightError
    client_seq: int


@dataclass(frozen=True, slots=True)
class StateChanged:
    """The session changed state."""

    state: SessionState
    epoch: int
    reason: str
    checkpoint_offset: int | None = None
    """On a recovery: media offset that the state which was kept stands at."""


@dataclass(frozen=True, slots=True)
class ResponseStarted:
    """A response to the input ``client_seq`` began."""

    response_id: str
    client_seq: int
    generation: int


@dataclass(frozen=True, slots=True)
class ResponseEnded:
    """A response ended after ``generated_s`` seconds of media."""

    response_id: str
    reason: EndReason
    generated_s: float
    error: CuelightError | None


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """A session as the server lists it."""

    name: str
    state: SessionState
    character: str
    regime: str
    next_media_offset: int
    created_at_s: float
    expires_at_s: float
    epoch: int


Event = (
    Attached | Resumed | Media | Progress | Retired | Notice | Fault | StateChanged | ResponseStarted | ResponseEnded
)
