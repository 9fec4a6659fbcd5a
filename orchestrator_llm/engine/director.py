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
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from orchestrator_llm.engine.agenda import Agenda, Drawn
from orchestrator_llm.engine.backend import Backend, ChunkPrefix, Voice
from orchestrator_llm.engine.brief import Brief
from orchestrator_llm.engine.campaign import PlannedAction
from orchestrator_llm.engine.errors import OutOfTurn
from orchestrator_llm.engine.planner import Plan, RulePlanner
from orchestrator_llm.engine.prompts import PromptPlanner
from orchestrator_llm.engine.staging import describe, visual_prompts
from orchestrator_llm.engine.staging import notices as unperformed
from orchestrator_llm.engine.timing import ChunkClock
from orchestrator_llm.engine.transcript import Transcript
from services.session import Action, ChunkProgress, HistoryChunk, Notice, Snapshot, TimedWord, Transition

MAX_ABSOLUTE = 1e4
"""Latents beyond this are no latents: they would overflow the model."""
READ_AHEAD = 4
"""The transcript is read as many text windows ahead of the pointer."""
STALLED_BELOW = 0.5
"""A pointer that moves by fewer tokens in a chunk that has something to say stands still."""
STALLED_CHUNKS = 4
"""After so many such chunks in a row it is set to the end of the present word, so that no session hangs for ever."""
PLANNED_AHEAD = 12
"""Chunks of a script that a language model is told of."""
VISUAL_NOT_PERFORMED = "VISUAL_NOT_PERFORMED"
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
    begins_at: float
    is_measuring: bool
    """It is one of many that are spoken through, so that it tells how fast the bundle speaks."""


class Director:
    """State of one session. Calls out of turn raise OutOfTurn, arguments that will not do ValueError."""

    def __init__(
        self,
        backend: Backend,
        planner: RulePlanner,
        prompts: PromptPlanner | None = None,
        agenda: Agenda | None = None,
        performs: Collection[str] = (),
    ) -> None:
        """`prompts` is None for a bundle that reads none; without an `agenda` the rule planner plans alone.

        `performs` is what the bundle makes of an action beside speech and picture, as its manifest says.
        """
        self._backend = backend
        self._planner = planner
        self._prompts = prompts
        self._agenda = agenda
        self._performs = frozenset(performs)
        self._briefs: list[Brief] = []
        self._reference: NDArray[np.float32] | None = None
        self._asked = ""
        self._description = ""
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
        self._voice, self._reference = ready, reference

    def take_briefs(self) -> list[Brief]:
        """What a language model is to be asked for since this was last called."""
        briefs, self._briefs = self._briefs, []
        return briefs

    def replace(self, snapshot: Snapshot) -> None:
        """Sets the state anew and lets go of a chunk that was begun."""
        self._opened()
        self._restore(snapshot)
        self._briefs.clear()
        self._chunk, self._last_index = None, -1

    def use(self, backend: Backend) -> None:
        """Goes on with other models of the same sizes, between two chunks. Raises ValueError when they have others."""
        if backend is self._backend:
            return
        if self._chunk is not None:
            raise OutOfTurn(f"chunk {self._chunk.index} has not ended")
        if backend.geometry != self._geometry:
            raise ValueError(f"the other conditioner has the sizes {backend.geometry}, this one {self._geometry}")
        if self._reference is not None:
            self._voice = backend.voice(self._reference)
        self._backend = backend

    def begin(
        self, chunk_index: int, say: Sequence[str], prompts: Sequence[str] = (), memory: str | None = None
    ) -> Action:
        """Plans a chunk and prepares its prefix. `say` and `prompts` are what was accepted since the last begin.

        With `memory`, the planner's of then, the chunk was planned before: `say` has what was written for it.
        """
        voice = self._opened()
        if self._chunk is not None:
            raise OutOfTurn(f"chunk {self._chunk.index} has not ended")
        if chunk_index <= self._last_index:
            raise ValueError(f"chunk_index {chunk_index} is not above {self._last_index}, which was used before")
        for piece in (*say, *prompts):
            _check_piece(piece)
        drawn = self._draw(say, prompts, memory)
        prompt, prompt_notices = self._ask(prompts, visual_prompts(drawn.action))
        notices = self._accept((*say, *drawn.written))
        plan = self._planner.plan(self._transcript, self._pointer)
        tokens, offset = self._shown(plan)
        prefix = voice.prefix(tokens, self._pointer - offset, tuple(self._history), offset)
        is_measuring = not plan.is_idle and not self._planner.is_hard and plan.end_word < self._transcript.words_total
        self._chunk = _Chunk(chunk_index, plan.is_idle, offset, prefix, self._pointer, is_measuring)
        self._last_index = chunk_index
        self._plan_on()
        return Action(
            first_word=plan.first_word,
            end_word=plan.end_word,
            text=plan.text,
            is_idle=plan.is_idle,
            words_total=self._transcript.words_total,
            notices=notices,
            prompt=prompt,
            description=self._described(plan.text, drawn.action),
            prompt_notices=(*prompt_notices, *unperformed(drawn.action, self._performs), *drawn.notices),
            written=drawn.written,
            speaker=drawn.action.speaker,
            is_disembodied=drawn.action.presence == "disembodied",
            ambience=drawn.action.ambience,
            music=drawn.action.music,
            transition=Transition(drawn.action.transition),
            memory=drawn.memory,
        )

    def _draw(self, say: Sequence[str], prompts: Sequence[str], memory: str | None) -> Drawn:
        """What a language model has planned for the chunk."""
        if self._agenda is None:
            return Drawn()
        if memory is not None:
            self._agenda.redo(say, memory)
            return Drawn()
        return self._agenda.draw(say, prompts, self._planner.left_s(self._transcript, self._pointer))

    def _plan_on(self) -> None:
        """Notes what a language model is to be asked for, given what the coming chunks will say."""
        if self._agenda is None:
            return
        behind = self._transcript.words_spoken(self._pointer)
        chunk_s = self._geometry.chunk_seconds
        windows = self._planner.windows(self._transcript, behind, chunk_s, PLANNED_AHEAD + 1)[1:]
        self._briefs += self._agenda.briefs(self._asked, windows)

    def _shown(self, plan: Plan) -> tuple[list[int], int]:
        """The tokens the model is shown and the absolute index of the first: all, or none beyond a hard budget."""
        tokens, offset = self._transcript.retained
        if not self._planner.is_hard or plan.is_idle:
            return tokens, offset
        last = self._transcript.words(plan.end_word - 1, plan.end_word)[0]
        return tokens[: last.end - offset], offset

    def _described(self, text: str, action: PlannedAction) -> str:
        """All of a chunk as one text, where a bundle makes its sounds of it; the same is not sent twice."""
        if not self._performs & {"ambience", "music"}:
            return ""
        before, self._description = self._description, describe(text, action, self._asked)
        return self._description if self._description != before else ""

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
        """Nothing is left to say, and nothing is being written."""
        return self._is_all_said() and not (self._agenda is not None and self._agenda.is_writing)

    def _is_all_said(self) -> bool:
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

    def _ask(self, prompts: Sequence[str], planned: Sequence[str]) -> tuple[str | None, tuple[Notice, ...]]:
        """Adds prompts to what is asked of the picture; None when it is the same as before, which is not sent twice.

        What was planned comes first, so that a client's prompt of the same moment holds.
        """
        if self._prompts is None:
            if prompts:
                raise ValueError("this bundle reads no prompts")
            text = f"This bundle has no text-driven picture; this was planned: {', '.join(planned)}"
            return None, (Notice(VISUAL_NOT_PERFORMED, text),) if planned else ()
        before = self._asked
        told: tuple[Notice, ...] = ()
        if planned:
            self._asked, unknown = self._prompts.add(self._asked, planned)
            text = f"The bundle does not know all of what was planned to be seen: {', '.join(planned)}"
            told = (Notice(VISUAL_NOT_PERFORMED, text),) if unknown else ()
        self._asked, notices = self._prompts.add(self._asked, prompts)
        notices = (*told, *notices)
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
        if chunk.is_measuring and not is_end:
            spoken = self._planner.syllables(self._transcript, chunk.begins_at, self._pointer)
            self._planner.rate.add(spoken, self._geometry.chunk_seconds)
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
        is_finished, told = self._is_all_said(), []
        for word in self._transcript.words(first, end):
            start_s = clock.reaches(word.begin)
            end_s = clock.last_heard(word.end) if is_finished else clock.reaches(word.end)
            # A pointer that was moved on is past words that no frame was heard to reach.
            told.append(TimedWord(word.index, word.text, start_s, max(start_s, end_s), word.end))
        return tuple(told)

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
        if self._agenda is not None:
            self._agenda.restore(
                snapshot.transcript,
                transcript.words_total,
                snapshot.memory,
                is_interrupted=snapshot.is_interrupted,
            )
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
