"""What every process knows of a session: plain, frozen dataclasses.

Times are seconds, on the media clock unless a field says otherwise; pointers count from the transcript's beginning.
Knows nothing of Redis, gRPC or models: `services.state` stores these, `services.wire` puts them on the wire.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import sha256
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

Latents: TypeAlias = NDArray[np.float32]

VIDEO_TRACK = 1
AUDIO_TRACK = 2


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
        """True when the session will never be advanced again."""
        return self in (SessionState.CLOSED, SessionState.FAILED)


class Regime(StrEnum):
    """How a session decides what is said; every other regime is refused."""

    SCRIPTED = "scripted"
    """What the client gives is said, word for word; chunks are made while there is something to say."""
    CONVERSATION = "conversation"
    """What the client gives is said, and what the user says is answered by the planner's language model."""
    NARRATOR = "narrator"
    """The language model tells of what happens, as somebody who is not seen."""
    WORLD = "world"
    """The language model lets the world go on as prompts have it; whoever is in it may speak."""
    SPEAKERLESS = "speakerless"
    """The same, and nobody speaks."""

    @property
    def is_endless(self) -> bool:
        """True when chunks are made where nothing is left to say."""
        return self is not Regime.SCRIPTED


class Transition(StrEnum):
    """How a change of what is asked comes into the picture."""

    SOFT = "soft"
    """What is cached stays; the change shows as new chunks attend to it."""
    RECACHE = "recache"
    """What was cached under the old prompt is computed anew: for a cut to another scene."""


class Container(StrEnum):
    """How media bytes are framed for the client."""

    FMP4 = "fmp4"
    ELEMENTARY = "elementary"


class CueKind(StrEnum):
    """What a client asks for with one cue."""

    SAY = "say"
    HEAR = "hear"
    PROMPT = "prompt"
    INTERRUPT = "interrupt"
    PAUSE = "pause"
    RESUME = "resume"
    END = "end"


RENDER_IDS = "render-"
"""Sessions whose ids begin so are renders', and no client can choose such an id."""


def is_render(session_id: str) -> bool:
    """Whether the session is a render's; whoever places sessions knows nothing of them but their ids."""
    return session_id.startswith(RENDER_IDS)


class Priority(StrEnum):
    """Whose work comes first on a worker."""

    WATCHED = "watched"
    """Somebody watches, now."""
    RENDER = "render"
    """Nobody waits for the next chunk: it is made in the room that watched sessions leave."""


@dataclass(frozen=True, slots=True)
class SessionConfig:
    """What the client asked for, with defaults filled in.

    `portrait` and `voice` are large: the store leaves them out of `get` and `list_sessions`, `load_snapshot` has them.
    """

    character: str = ""
    instructions: str = ""
    regime: Regime = Regime.CONVERSATION
    planner: str = ""
    portrait: bytes = field(default=b"", repr=False)
    voice: bytes = field(default=b"", repr=False)
    container: Container = Container.FMP4
    max_ahead_s: float | None = None
    """Generation runs at most this far ahead of the playhead; None leaves it to the regime."""
    seed: int = 0
    is_repeatable: bool = False
    """The client gave the seed, so that it can have the same again: nothing may depend on how busy a device was."""
    labels: Mapping[str, str] = field(default_factory=dict)
    priority: Priority = Priority.WATCHED


STATE_SCHEMA = 1
"""Layout of what the store holds of a session. To be raised by a change that workers of the version before could not go
on from: a session keeps the one it was created under, and only workers that say the same take it."""


class Pin(NamedTuple):
    """What a session was created for; any worker that has it must say the same of itself."""

    bundle: str = ""
    """Digest of the bundle it performs with; empty when any will do."""
    state_schema: int = STATE_SCHEMA


@dataclass(frozen=True, slots=True)
class SessionRecord:
    """One session as the store has it; `create_time_s` and `expire_time_s` are Unix time by the store's clock."""

    session_id: str
    tenant: str
    config: SessionConfig
    state: SessionState
    bundle: str
    """Digest of the bundle it performs with; empty when any will do."""
    create_time_s: float
    expire_time_s: float
    detach_ttl_s: float
    epoch: int
    generation: int
    next_chunk_index: int
    oldest_chunk_index: int
    """First chunk whose media can still be decoded again; equals `next_chunk_index` when there is none."""
    last_client_seq: int
    error: str = ""
    owner: str = ""
    """The worker that holds its epoch; it need not be there any more."""
    version: int = 0
    """Rises with every change: the etag."""
    token_digests: tuple[str, ...] = field(default=(), repr=False)
    """SHA-256 of the attach tokens given out, newest last."""
    state_schema: int = STATE_SCHEMA

    @property
    def pin(self) -> Pin:
        """What a worker must have, to go on with it."""
        return Pin(self.bundle, self.state_schema)

    def accepts_token(self, token: str) -> bool:
        """Say whether `token` is the secret of one of this session's attach tokens."""
        digest = token_digest(token)
        return any(hmac.compare_digest(digest, known) for known in self.token_digests)


def token_digest(token: str) -> str:
    """Return what the store keeps of an attach token."""
    return sha256(token.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Cue:
    """One thing the client sent. `client_seq` is its identity, its place in the order and the cursor behind it."""

    client_seq: int
    kind: CueKind
    text: str = ""
    playhead_s: float | None = None
    """What the client had played when it sent an interrupt or a barge-in; None means unknown."""
    barge_in: bool = False
    trace: str = ""
    """W3C trace context of how it came; empty when it is not traced."""


@dataclass(frozen=True, slots=True)
class Notice:
    """What was done with an input that could not be taken literally. No fault."""

    code: str
    """UPPER_SNAKE word, for instance WORD_SPELLED_OUT."""
    text: str
    client_seq: int = 0
    """Cue it speaks of; 0 when it speaks of none."""


@dataclass(frozen=True, slots=True)
class Action:
    """The orchestrator's plan for one chunk: the words meant for it, which the pointer may overrule."""

    first_word: int = 0
    end_word: int = 0
    """One past the last word planned."""
    text: str = ""
    is_idle: bool = False
    words_total: int = 0
    notices: tuple[str, ...] = ()
    """Sentences for the client, for instance on words that had to be spelled out."""
    prompt: str | None = None
    """All that is asked of the picture from this chunk on; None when it is what was asked of the chunk before."""
    prompt_notices: tuple[Notice, ...] = ()
    """What was done with prompts, and with what was planned, that could not be taken literally."""
    written: tuple[str, ...] = ()
    """Pieces of transcript the planner wrote for this chunk on; they follow those the client gave."""
    speaker: str = ""
    """Who speaks; empty is the session's character."""
    is_disembodied: bool = False
    """Whoever speaks is not seen: a narrator."""
    ambience: str = ""
    """What changes in the sounds around; empty when nothing does."""
    music: str = ""
    """What changes in the music; empty when nothing does."""
    transition: Transition = Transition.SOFT
    description: str = ""
    """All of the chunk as one text, speech first, for a bundle whose sounds are made from text; empty when nothing in
    it has changed, and for any other bundle."""
    memory: str | None = None
    """What the planner remembers from this chunk on; None when that has not changed."""
    planner: str = ""
    """Name of the planner that planned it."""


@dataclass(frozen=True, slots=True)
class ChunkInputs:
    """All that decides chunk `chunk_index`, written down before its first step so that a redo never plans again."""

    chunk_index: int
    parent: int | None
    """Chunk before it on the timeline; None for the first."""
    position: int
    generation: int
    cue_cursor: int
    """Highest client_seq whose cue is part of this chunk or of an earlier one."""
    say: tuple[str, ...]
    """Transcript pieces that this chunk accepts."""
    action: Action
    steps: int
    response_seq: int = 0
    """client_seq of the cue that the response it belongs to answers; 0 when nothing is said."""
    prompts: tuple[str, ...] = ()
    """Prompts that this chunk accepts."""
    prompt: str = ""
    """All that is asked of its picture."""
    hear: tuple[str, ...] = ()
    """What the user said, to be answered from this chunk on."""
    memory: str = ""
    """What the planner remembers from it on."""


@dataclass(frozen=True, slots=True)
class TimedWord:
    """One spoken word; `start_s` and `end_s` count from the start of its chunk."""

    index: int
    text: str
    start_s: float
    end_s: float
    token_end: int
    """Absolute transcript token one past the word."""


@dataclass(frozen=True, slots=True)
class ChunkProgress:
    """How far into the transcript the sound of one chunk came."""

    chunk_index: int
    pointer_token: float
    pointer_word: int
    """Words spoken to their end since the beginning."""
    words: tuple[TimedWord, ...]
    words_total: int
    is_finished: bool


@dataclass(frozen=True, slots=True)
class ChunkCommit:
    """What makes a chunk exist."""

    chunk_index: int
    parent: int | None
    position: int
    generation: int
    progress: ChunkProgress
    is_idle: bool
    cue_cursor: int
    say: tuple[str, ...]
    response_seq: int = 0
    """As in its inputs."""
    prompt: str = ""
    """As in its inputs: it holds until another chunk is committed, whatever is cut off the timeline."""
    memory: str = ""
    """As in its inputs, and as long."""


@dataclass(frozen=True, slots=True)
class HistoryChunk:
    """One chunk of audio history, for the conditioner."""

    pointer_before: float
    latents: Latents  # (T_a, C_a)
    heard_s: float | None = None
    """Seconds of it that were heard before an interrupt; None means all. What follows counts as silence."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All an orchestrator replica needs to go on with a session."""

    transcript: tuple[str, ...]
    pointer_token: float
    pointer_word: int
    history: tuple[HistoryChunk, ...]
    """Oldest first."""
    prompt: str = ""
    """What was asked of the picture and still holds."""
    memory: str = ""
    """What the planner remembers."""
    is_interrupted: bool = False
    """An interrupt came since: what the planner was about to say is not wanted any more."""


@dataclass(frozen=True, slots=True)
class StoredChunk:
    """One committed chunk of the timeline, with the latents that are still kept."""

    commit: ChunkCommit
    epoch: int
    """Epoch it was committed under."""
    pointer_before: float
    video: Latents | None = None  # (C_v, T_v, H, W)
    audio: Latents | None = None  # (T_a, C_a)
    heard_s: float | None = None
    """Seconds of it that were heard before an interrupt; None means all."""


@dataclass(frozen=True, slots=True)
class SessionSnapshot:
    """All a worker needs to go on with a session, read in one atomic look."""

    record: SessionRecord
    epoch: int
    generation: int
    next_chunk_index: int
    next_position: int
    parent: ChunkCommit | None
    transcript: tuple[str, ...]
    pointer_token: float
    pointer_word: int
    cue_cursor: int
    sink_video: Latents | None  # (C_v, T_v, H, W)
    motion_video: Latents | None  # (C_v, T_v, H, W)
    history: tuple[HistoryChunk, ...]
    """Oldest first, at most the policy's `history_chunks`."""
    chunks: tuple[StoredChunk, ...]
    """The end of the timeline, oldest first: what can be decoded again."""
    pending: ChunkInputs | None
    """Inputs of the next chunk, when a worker wrote them and did not come to commit."""
    prompt: str = ""
    """What was asked of the picture and still holds."""
    memory: str = ""
    """What the planner remembers."""
    is_interrupted: bool = False
    """An interrupt came since that memory was committed."""
    is_paused: bool = False
    """It was paused when the cue at the cursor was taken."""
    heard: tuple[str, ...] = ()
    """What users said before the newest interrupt that no chunk has taken, not even the pending one."""
    last_cut: Retired | None = None
    """The newest cut: whoever made it may have died before the audience was told."""

    def for_orchestrator(self) -> Snapshot:
        """Return the part the orchestrator opens a session from."""
        return Snapshot(
            self.transcript,
            self.pointer_token,
            self.pointer_word,
            self.history,
            self.prompt,
            self.memory,
            self.is_interrupted,
        )


@dataclass(frozen=True, slots=True)
class Retired:
    """What an interrupt or a discard took off the timeline; `generation` is the one that holds from now on."""

    generation: int
    first_position: int
    """Position the next chunk will have."""
    chunk_indices: tuple[int, ...]
    words_heard: int
    """Words of the transcript that are kept."""


@dataclass(frozen=True, slots=True)
class ChunkPolicy:
    """What the store must know of a bundle and a regime to keep and retire chunks."""

    chunk_seconds: float
    history_chunks: int
    """Chunks of audio history that the conditioner reads."""
    run_ahead_chunks: int
    """Chunks that may exist beyond the one under the playhead."""

    def __post_init__(self) -> None:
        if self.chunk_seconds <= 0 or self.history_chunks < 0 or self.run_ahead_chunks < 0:
            raise ValueError(f"impossible chunk policy: {self}")


@dataclass(frozen=True, slots=True)
class MediaUnits:
    """The access units of one chunk and track. Times are ticks of the track's timescale."""

    track: int
    chunk_index: int
    position: int
    pts: int
    unit_duration: int
    unit_sizes: tuple[int, ...]
    """Bytes of each access unit in `data`, in order."""
    data: bytes = field(repr=False)
    keyframe: bool
    generation: int
    epoch: int

    @property
    def offset(self) -> int:
        """Media offset: the resume key of this chunk and track."""
        return media_offset(self.chunk_index, self.track)


def media_offset(chunk_index: int, track: int) -> int:
    """Return the media offset of one chunk and track; there are two for each chunk, video first."""
    assert track in (VIDEO_TRACK, AUDIO_TRACK), track
    return 2 * chunk_index + track - VIDEO_TRACK
