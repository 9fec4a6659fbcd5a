"""Directs one session: what to say next, how each denoising step is conditioned, how far the speech has come.

    open(snapshot) ─▶ begin(k) ─▶ denoise(step) ... ─▶ end(k) ─▶ begin(k+1) ...
                          ▲ replace(snapshot), whenever the session's state is set anew

The pointer is absolute, never falls, and alone says where the next chunk starts. All that decides a condition comes
from the snapshot and the calls since, so that any replica can go on; only the count of chunks in which the pointer
stood still starts anew there. It knows no tensors' library and no messages.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from orchestrator_llm.engine.backend import Backend, ChunkPrefix, Voice
from orchestrator_llm.engine.errors import OutOfTurn
from orchestrator_llm.engine.planner import RulePlanner
from orchestrator_llm.engine.prompts import PromptPlanner
from orchestrator_llm.engine.timing import ChunkClock
from orchestrator_llm.engine.transcript import Transcript
from services.session import Action, ChunkProgress, HistoryChunk, Notice, Snapshot, TimedWord

MAX_ABSOLUTE = 1e4
"""Latents beyond this are no latents: they would overflow the model."""
READ_AHEAD = 4
"""The transcript is read as many text windows ahead of the pointer."""
STALLED_BELOW = 0.5
"""A pointer that moves by fewer tokens in a chunk that has something to say stands still."""
STALLED_CHUNKS = 4
"""After so many such chunks in a row it is set to the end of the present word, so that no session hangs for ever."""
MAX_NOTICES = 8
"""Notices given for one begin; a last one counts the others."""
MAX_PIECE_BYTES = 16 * 1024
"""UTF-8 bytes of one piece of transcript, or of one prompt."""


@dataclass(slots=True)
class _Chunk:
    """The chunk being directed; `offset` is the absolute index of the first token its prefix was given."""

    index: int
    is_idle: bool
    offset: int
    prefix: ChunkPrefix


class Director:
    """State of one session. Calls out of turn raise OutOfTurn, arguments that will not do ValueError."""

    def __init__(self, backend: Backend, planner: RulePlanner, prompts: PromptPlanner | None = None) -> None:
        """`prompts` is None for a bundle that reads none."""
        self._backend = backend
        self._planner = planner
        self._prompts = prompts
        self._asked = ""
        self._geometry = backend.geometry
        self._voice: Voice | None = None
        self._chunk: _Chunk | None = None
        self._last_index = -1
        self._transcript = Transcript(backend.front_end)
        self._pointer = 0.0
        self._stalled_chunks = 0
        self.nudges = 0
        """How often the pointer was moved because it stood still."""
        self._history: deque[HistoryChunk] = deque(maxlen=self._geometry.history_chunks)

    @property
    def pointer(self) -> float:
        """How far the speech has come, in tokens of the whole transcript."""
        return self._pointer

    @property
    def reference_shape(self) -> tuple[int, int]:
        """(R, C) of the latents a voice is given as."""
        return self._geometry.reference_frames, self._geometry.channels

    def open(self, snapshot: Snapshot, reference: NDArray[np.float32]) -> None:
        """Takes the session as committed, to be spoken with the voice whose latents are `reference`, (R, C)."""
        if self._voice is not None:
            raise OutOfTurn("the session is open already; send replace to set its state anew")
        _check_latents(reference, self.reference_shape, "reference")
        ready = self._backend.voice(reference)
        self._restore(snapshot)
        self._voice = ready

    def replace(self, snapshot: Snapshot) -> None:
        """Sets the state anew and lets go of a chunk that was begun."""
        self._opened()
        self._restore(snapshot)
        self._chunk, self._last_index = None, -1

    def begin(self, chunk_index: int, say: Sequence[str], prompts: Sequence[str] = ()) -> Action:
        """Plans a chunk and prepares its prefix. `say` and `prompts` are what was accepted since the last begin."""
        voice = self._opened()
        if self._chunk is not None:
            raise OutOfTurn(f"chunk {self._chunk.index} has not ended")
        if chunk_index <= self._last_index:
            raise ValueError(f"chunk_index {chunk_index} is not above {self._last_index}, which was used before")
        for piece in (*say, *prompts):
            _check_piece(piece)
        prompt, prompt_notices = self._ask(prompts)
        notices = self._accept(say)
        plan = self._planner.plan(self._transcript, self._pointer)
        tokens, offset = self._transcript.retained
        prefix = voice.prefix(tokens, self._pointer - offset, tuple(self._history), offset)
        self._chunk = _Chunk(chunk_index, plan.is_idle, offset, prefix)
        self._last_index = chunk_index
        return Action(
            first_word=plan.first_word,
            end_word=plan.end_word,
            text=plan.text,
            is_idle=plan.is_idle,
            words_total=self._transcript.words_total,
            notices=notices,
            prompt=prompt,
            prompt_notices=prompt_notices,
        )

    def denoise(self, chunk_index: int, timestep: float, noisy: NDArray[np.float32]) -> NDArray[np.float32]:
        """The condition (T, D) of one step, for the noisy latents (T, C) at flow time 1 (noise) to 0 (clean)."""
        chunk = self._begun(chunk_index)
        if not 0.0 <= timestep <= 1.0:
            raise ValueError(f"timestep {timestep} is not between 0 and 1")
        _check_latents(noisy, self._shape, "noisy")
        return chunk.prefix.condition(timestep, noisy)

    def end(self, chunk_index: int, clean: NDArray[np.float32]) -> ChunkProgress:
        """Moves the pointer over what the clean latents (T, C) say and tells the words that began in them."""
        chunk = self._begun(chunk_index)
        _check_latents(clean, self._shape, "clean")
        before = self._pointer
        positions = self._move(chunk, clean)
        words = self._words_begun(before, positions)
        self._history.append(HistoryChunk(pointer_before=before, latents=clean))
        self._transcript.forget_before(self._needed_from())
        self._chunk = None
        return ChunkProgress(
            chunk_index=chunk_index,
            pointer_token=self._pointer,
            pointer_word=self._transcript.words_spoken(self._pointer),
            words=words,
            words_total=self._transcript.words_total,
            is_finished=self._is_finished(),
        )

    def _is_finished(self) -> bool:
        return self._transcript.is_read and self._pointer >= self._transcript.tokens_read

    def _read_until(self, pointer: float) -> float:
        """How far the transcript must be read for a chunk at the pointer, with room to spare."""
        return pointer + READ_AHEAD * self._geometry.text_ahead

    def _accept(self, say: Sequence[str]) -> tuple[str, ...]:
        """Takes pieces into the transcript and reads on; says what was done with words that cannot be spoken."""
        for piece in say:
            self._transcript.extend(piece)
        found = self._transcript.read_on(self._read_until(self._pointer), more_segments=1)
        if len(found) > MAX_NOTICES:
            found[MAX_NOTICES - 1 :] = [f"and {len(found) - MAX_NOTICES + 1} more of the kind"]
        return tuple(found)

    def _ask(self, prompts: Sequence[str]) -> tuple[str | None, tuple[Notice, ...]]:
        """Adds prompts to what is asked of the picture; None when it is the same as before, which is not sent twice."""
        if self._prompts is None:
            if prompts:
                raise ValueError("this bundle reads no prompts")
            return None, ()
        before, (self._asked, notices) = self._asked, self._prompts.add(self._asked, prompts)
        return None if self._asked == before else self._asked, notices

    def _move(self, chunk: _Chunk, clean: NDArray[np.float32]) -> NDArray[np.float64]:
        """Sets the pointer, monotone within [0, N]; returns the positions (T,) in absolute tokens."""
        total = float(self._transcript.tokens_read)
        if chunk.is_idle:
            self._pointer = total
            return np.full(self._geometry.frames, total)
        pointed = chunk.prefix.point(clean)
        end = min(self._moving(chunk.offset + pointed.end), total)
        is_end = self._transcript.is_read and total - end <= self._geometry.end_margin
        self._pointer = total if is_end else end
        return pointed.positions + chunk.offset

    def _moving(self, end: float) -> float:
        """The pointer's new place: never back, and past the present word when it has stood still for too long."""
        self._stalled_chunks = 0 if end - self._pointer >= STALLED_BELOW else self._stalled_chunks + 1
        if self._stalled_chunks < STALLED_CHUNKS:
            return max(end, self._pointer)
        self._stalled_chunks = 0
        self.nudges += 1
        return float(self._transcript.next_border(self._pointer))

    def _words_begun(self, before: float, positions: NDArray[np.float64]) -> tuple[TimedWord, ...]:
        """The words that began in this chunk. That follows from the pointer alone, so each is told exactly once."""
        first, end = self._transcript.words_begun(before), self._transcript.words_begun(self._pointer)
        if first == end:
            return ()
        clock = ChunkClock(positions, before, self._pointer, self._geometry.chunk_seconds)
        is_finished = self._is_finished()
        return tuple(
            TimedWord(
                index=word.index,
                text=word.text,
                start_s=clock.reaches(word.begin),
                end_s=clock.last_heard(word.end) if is_finished else clock.reaches(word.end),
                token_end=word.end,
            )
            for word in self._transcript.words(first, end)
        )

    def _needed_from(self) -> int:
        """First token still needed: history and its transcript are let go together."""
        oldest = self._history[0].pointer_before if self._history else self._pointer
        return max(0, math.floor(oldest) - self._geometry.text_back)

    def _restore(self, snapshot: Snapshot) -> None:
        """Builds the new state aside and takes it only when all of it will do; its notices were given before."""
        transcript = Transcript(self._backend.front_end)
        for piece in snapshot.transcript:
            _check_piece(piece)
            transcript.extend(piece)
        if not 0.0 <= snapshot.pointer_token < math.inf:
            raise ValueError(f"pointer_token {snapshot.pointer_token} is not a place in a transcript")
        transcript.read_on(self._read_until(snapshot.pointer_token), more_segments=1)
        for chunk in snapshot.history:
            _check_latents(chunk.latents, self._shape, "history")
        self._asked = snapshot.prompt
        self._transcript = transcript
        self._pointer = min(snapshot.pointer_token, float(transcript.tokens_read))
        self._history = deque(snapshot.history, maxlen=self._geometry.history_chunks)
        self._transcript.forget_before(self._needed_from())

    @property
    def _shape(self) -> tuple[int, int]:
        """(T, C) of a chunk's latents."""
        return self._geometry.frames, self._geometry.channels

    def _opened(self) -> Voice:
        if self._voice is None:
            raise OutOfTurn("the session is not open; send open first")
        return self._voice

    def _begun(self, chunk_index: int) -> _Chunk:
        self._opened()
        if self._chunk is None:
            raise OutOfTurn("no chunk was begun; send begin first")
        if self._chunk.index != chunk_index:
            raise OutOfTurn(f"chunk {self._chunk.index} was begun, not chunk {chunk_index}")
        return self._chunk


def _check_latents(latents: NDArray[np.float32], shape: tuple[int, ...], name: str) -> None:
    if latents.shape != shape:
        raise ValueError(f"{name} latents have shape {latents.shape}, not {shape}")
    if not (np.abs(latents) <= MAX_ABSOLUTE).all():
        raise ValueError(f"{name} latents hold values that are not finite or beyond {MAX_ABSOLUTE:g}")


def _check_piece(piece: str) -> None:
    size = len(piece.encode(errors="replace"))
    if size > MAX_PIECE_BYTES:
        raise ValueError(f"a piece of text is {size} bytes, at most {MAX_PIECE_BYTES} are allowed")
