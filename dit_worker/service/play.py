"""One session performed under one lease: cues are taken, chunks are planned, performed, committed and handed on.

    stand ─▶ take cues ─▶ plan ─▶ write inputs ─▶ steps ─▶ end ─▶ put latents ─▶ commit ─▶ pipeline ─▶ take cues ...
      ▲          │ interrupt, or a say while idle: cut the timeline in the store
      └──────────┘

All state is the store's: `stand` reads it and makes engine, orchestrator and pipeline stand there, so a redo after any
fault is to stand again. It knows no lease renewal, no readers and no retries.
"""

from __future__ import annotations

import asyncio
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from enum import Enum, auto

from dit_worker.engine.arrays import Floats
from dit_worker.engine.pacing import Pacing
from dit_worker.engine.performance import StepRequest
from dit_worker.service.bridge import Settled
from dit_worker.service.direction import Asking, Direction, Plan
from dit_worker.service.fidelity import ChunkTimer, Fidelity
from dit_worker.service.footing import Footing, Script
from dit_worker.service.inbox import Inbox
from dit_worker.service.lease import LeaseKeeper
from dit_worker.service.ledger import Ledger, Made
from dit_worker.service.pipeline import Cut, MediaPipeline, Take
from dit_worker.service.programme import Programme
from dit_worker.service.station import Station
from services import tracing
from services.errors import CommitConflict, CuelightError
from services.logs import bound, get_logger
from services.session import (
    ChunkCommit,
    ChunkInputs,
    ChunkProgress,
    Cue,
    CueKind,
    Notice,
    Regime,
    Retired,
    SessionSnapshot,
)

log = get_logger(__name__)
WORDS_PER_S = 2.5
"""About how fast is spoken, to tell when a script will have ended."""


class Move(Enum):
    """What a play does next."""

    PERFORM = auto()
    CLOSE = auto()
    LEAVE = auto()
    """Another worker is to go on."""


@dataclass(frozen=True, slots=True)
class Stage:
    """What a play acts on and who watches: made by the performer, outlives faults of the orchestrator."""

    station: Station
    keeper: LeaseKeeper
    pacing: Pacing
    inbox: Inbox
    pipeline: MediaPipeline
    programme: Programme
    changed: asyncio.Event


class Play:
    """The loop of one session."""

    def __init__(self, script: Script, stage: Stage, footing: Footing) -> None:
        self._script = script
        self._stage = self.stage = stage
        self.footing = footing
        self._station = stage.station
        self._ledger = Ledger(stage.station.store, stage.keeper)
        self._fidelity = Fidelity(stage.station, script.config, stage.programme)
        self._timer = ChunkTimer(stage.station.now)
        self._lines: list[Cue] = []
        self._prompts: list[str] = []
        self._heard: list[str] = []
        self._memory = ""
        self._prompt_seq = 0
        self._asked = self._cause = ""
        self._cursor = 0
        self._is_ending = False
        self._is_finished = True
        self._pending: ChunkInputs | None = None
        self._parent: ChunkCommit | None = None
        self._generation = 0
        self._media_position: int | None = None
        self._handed_over = -1
        self._steps_begun = 0
        """Steps of the present chunk that have been made."""
        self._response = 0, 0.0
        self._asked_at = self._station.now()
        self.is_leaving = False
        """Set where another worker is to go on; ends `run` at the next chunk boundary."""
        self.stood_still_at = self._asked_at
        """When `run` ended last."""
        self.next_chunk_index = 0
        self.next_position = 0

    async def run(self) -> Move:
        """Perform until the session is to be closed or left. `stand` comes first."""
        while (move := await self._next_move()) is Move.PERFORM:
            with bound(chunk_index=self.next_chunk_index), self._traced():
                await self._perform()
        self.stood_still_at = self._station.now()
        return move

    def follow(self, next_chunk_index: int, response: tuple[int, float]) -> None:
        """Another worker sends the media of all chunks before this one; that is how far its response had come there."""
        self._handed_over, self._response = next_chunk_index - 1, response

    @property
    def is_listening(self) -> bool:
        """Whether nothing is made now, because it is paused or because there is nothing to make."""
        return self._stage.pacing.is_paused or not (self._has_lines or self._is_filling)

    @property
    def expected_end_s(self) -> float | None:
        """Seconds until all is said that was asked for, when the session ends with that; None when it goes on."""
        if not self._is_ending:
            return None
        waiting = sum(len(cue.text.split()) for cue in self._lines)
        progress = self._parent.progress if self._parent else None
        left = waiting + (progress.words_total - progress.pointer_word if progress else 0)
        pacing = self._stage.pacing
        return left / WORDS_PER_S + max(0.0, pacing.delivered_s - pacing.playhead_s)

    @property
    def response(self) -> tuple[int, float]:
        """The cue that is being answered, 0 when none is, and the seconds of media handed over for it."""
        return (0, 0.0) if self._is_finished else self._response

    # where the session stands -----------------------------------------------------------------------------------------

    async def stand(self) -> SessionSnapshot:
        """Read where the session stands, and stand there: after a start, a fault of any kind, or a cut."""
        self._lines.clear()
        self._prompts.clear()
        self._is_ending = False
        snapshot = await self._stand()
        await self._stage.inbox.mend(snapshot.record.last_client_seq)
        self._heard = list(snapshot.heard)
        self._tell_cut(snapshot)
        self._stage.pacing.pause(snapshot.is_paused)  # a later pause is among the cues that are taken again
        self._cursor = snapshot.pending.cue_cursor if snapshot.pending else snapshot.cue_cursor
        self._stage.inbox.reset(self._cursor)
        await self._stage.inbox.fetch()
        return snapshot

    async def _stand(self) -> SessionSnapshot:
        snapshot = await self._ledger.mend(await self._station.store.load_snapshot(self._script.session_id))
        self._pending = snapshot.pending
        self._parent = snapshot.parent
        self._generation = snapshot.generation
        self._asked, self._memory = snapshot.prompt, snapshot.memory
        self._is_finished = _is_all_said(snapshot)
        self.next_chunk_index, self.next_position = snapshot.next_chunk_index, snapshot.next_position
        await self.footing.stand(snapshot)
        await self._hand_over_missing(snapshot)
        return snapshot

    async def _hand_over_missing(self, snapshot: SessionSnapshot) -> None:
        """Publish committed chunks that this process has not, and let the sound go on where the timeline does."""
        for chunk in snapshot.chunks:
            if chunk.commit.chunk_index > self._handed_over and chunk.video is not None and chunk.audio is not None:
                await self._hand_over(Take(chunk.commit, chunk.video, chunk.audio))
        if self._media_position != snapshot.next_position:
            parent = snapshot.chunks[-1] if snapshot.chunks else None
            is_heard = parent is not None and parent.heard_s is None
            await self._stage.pipeline.put(Cut(snapshot.next_position, parent.audio if parent and is_heard else None))
            self._media_position = snapshot.next_position

    def _tell_cut(self, snapshot: SessionSnapshot) -> None:
        """Tell of a cut that was made and not told: whoever made it was lost, or the store's answer was."""
        cut, programme = snapshot.last_cut, self._stage.programme
        if cut is not None and cut.generation > programme.generation:
            self._stage.pipeline.retire(cut.chunk_indices)
            programme.cut(cut, is_interrupt=snapshot.is_interrupted, before_offset=2 * snapshot.next_chunk_index)

    async def _hand_over(self, take: Take) -> None:
        commit = take.commit
        if commit.chunk_index <= self._handed_over:  # made anew, as the store had lost it: the audience has the first
            self._station.figures.dropped("chunk_known")
            return
        if self._media_position != commit.position:
            await self._stage.pipeline.put(Cut(commit.position, None))
        await self._stage.pipeline.put(take)
        self._media_position = commit.position + 1
        self._handed_over = commit.chunk_index
        before = self._response[1] if self._response[0] == commit.response_seq else 0.0
        self._response = commit.response_seq, before + self._station.chunk_s

    # cues -------------------------------------------------------------------------------------------------------------

    async def _next_move(self) -> Move:
        """Take cues until there is a chunk to perform or nothing left to wait for."""
        while True:
            self._stage.changed.clear()
            await self._take_cues()
            if self._is_ending and not self._has_lines:
                return Move.CLOSE
            if self.is_leaving:
                return Move.LEAVE
            if self._can_perform():
                return Move.PERFORM
            await self._stage.changed.wait()

    @property
    def _has_lines(self) -> bool:
        return bool(self._lines) or self._pending is not None or not self._is_finished

    @property
    def _is_filling(self) -> bool:
        """Whether idle chunks are made when there is nothing to say."""
        return self._script.config.regime.is_endless and not self._is_ending

    def _can_perform(self) -> bool:
        is_answer = self._is_finished and bool(self._lines)
        can_begin = self._stage.pacing.can_begin(self.next_position, is_answer=is_answer)
        return (self._has_lines or self._is_filling) and can_begin

    async def _take_cues(self) -> None:
        while (cue := self._stage.inbox.take()) is not None:
            await self._take_cue(cue)
            if not self._is_ending:  # an end must be found again by whoever takes over, so the cursor stays before it
                self._cursor = cue.client_seq

    async def _take_cue(self, cue: Cue) -> None:
        if cue.kind is CueKind.INTERRUPT or cue.barge_in:
            await self._interrupt(cue)
        self._cause = self._cause or cue.trace
        if cue.kind is CueKind.SAY:
            await self._say(cue)
        elif cue.kind in (CueKind.PAUSE, CueKind.RESUME):
            self._stage.pacing.pause(cue.kind is CueKind.PAUSE)
        elif cue.kind is CueKind.END:
            self._is_ending = True
        elif cue.kind is CueKind.PROMPT:
            await self._prompt(cue)
        elif cue.kind is CueKind.HEAR:
            await self._hear(cue)

    async def _say(self, cue: Cue) -> None:
        """Words to speak."""
        if self._is_idling:
            self._asked_at = self._station.now()
            await self._make_way()
        self._lines.append(cue)

    async def _hear(self, cue: Cue) -> None:
        """Words of the user, which the planner answers."""
        if self._is_idling:
            self._asked_at = self._station.now()
            await self._make_way()
        self._heard.append(cue.text)
        self._prompt_seq = cue.client_seq

    async def _prompt(self, cue: Cue) -> None:
        """A change of what is asked of the picture."""
        if self._station.models.prompts is None:
            text = "This bundle has no text-driven picture; the prompt changes nothing."
            self._stage.programme.notice(Notice("PROMPT_NOT_SUPPORTED", text, cue.client_seq))
            return
        if self._is_idling:
            await self._make_way()
        self._prompts.append(cue.text)
        self._prompt_seq = cue.client_seq

    @property
    def _is_idling(self) -> bool:
        """Whether what was made last, or is being made, says nothing."""
        return not self._has_lines or (self._pending is not None and self._pending.action.is_idle)

    async def _make_way(self) -> None:
        """Idle chunks that will not be on when the next one can be, are taken back."""
        pacing = self._stage.pacing
        playhead_s = pacing.playhead_in(pacing.limits.first_chunk_target_s)
        lease, committed = self._stage.keeper.lease, self.next_chunk_index
        cut = await self._station.store.discard_idle(lease, playhead_s, committed=committed)
        if cut is not None:
            await self._cut(cut, is_interrupt=False)

    async def _interrupt(self, cue: Cue) -> None:
        """Stop where the client heard it stop; what was to be said is settled with that, prompts go on holding."""
        pacing = self._stage.pacing
        playhead_s = pacing.acknowledged_s if cue.playhead_s is None else min(cue.playhead_s, pacing.delivered_s)
        settled = cue.client_seq - 1 if cue.kind in (CueKind.SAY, CueKind.PROMPT, CueKind.HEAR) else cue.client_seq
        self._asked_at = self._station.now()
        cut = await self._station.store.interrupt(
            self._stage.keeper.lease,
            playhead_s,
            cue_cursor=max(settled, self._cursor),
            prompt=", ".join([self._asked, *waiting]) if (waiting := self._waiting_prompts) else "",
            is_paused=pacing.is_paused,
            hear=tuple(self._waiting_words),
            committed=self.next_chunk_index,
        )
        self._lines.clear()
        await self._cut(cut, is_interrupt=True)

    async def _cut(self, cut: Retired, *, is_interrupt: bool) -> None:
        log.info("timeline_cut", generation=cut.generation, retired=len(cut.chunk_indices), interrupt=is_interrupt)
        self._stage.pipeline.retire(cut.chunk_indices)
        self._stage.programme.cut(cut, is_interrupt=is_interrupt)
        self._stage.pacing.retire(cut.first_position * self._station.chunk_s)
        self._prompts = self._waiting_prompts
        self._heard = self._waiting_words
        await self._stand()

    @property
    def _waiting_prompts(self) -> list[str]:
        """Prompts that were taken and that no committed chunk has: what is cut off must not take them along."""
        return [*(self._pending.prompts if self._pending else ()), *self._prompts]

    @property
    def _waiting_words(self) -> list[str]:
        """What the user said that was taken and that no committed chunk has."""
        return [*(self._pending.hear if self._pending else ()), *self._heard]

    # one chunk --------------------------------------------------------------------------------------------------------

    def _traced(self) -> AbstractContextManager[None]:
        """The next chunk as a trace: as part of that of the cue which it is the first to answer, if there is one."""
        cause, self._cause = self._cause, ""
        return tracing.trace("chunk", cause, session_id=self._script.session_id, chunk_index=self.next_chunk_index)

    async def _perform(self) -> None:
        """Perform the next chunk, or leave it undone when a cue makes it worthless."""
        began_at = self._station.now()
        self._timer = ChunkTimer(self._station.now)
        with tracing.span("plan"):
            inputs = await self._plan()
        if inputs is None:
            return
        self._steps_begun = 0
        try:
            await self._make(inputs, began_at)
        except CuelightError:  # whoever goes on makes them again: this process, or the next owner
            self._station.figures.dropped("step", self._steps_begun)
            raise

    async def _make(self, inputs: ChunkInputs, began_at: float) -> None:
        """Its steps, its commit, and its way to the audience."""
        with self._station.figures.metrics.stage("steps"), tracing.span("steps"):
            settled = await self._steps(inputs)
        if settled is None:
            self._pending = inputs
            return
        is_answer = self._is_answer(inputs.response_seq)
        with self._station.figures.metrics.stage("commit"), tracing.span("commit"):
            commit = await self._commit(inputs, settled)
        self._steps_begun = 0
        self._station.figures.chunk_performed(slack_s=settled.slack_s, is_idle=commit.is_idle, steps=inputs.steps)
        asked_at = self._asked_at if is_answer else None
        self._asked_at = self._station.now()
        compute_s = self._station.now() - began_at
        cost = self._timer.cost(inputs.steps, settled.spent, is_light=self._fidelity.is_light)
        video, audio = settled.latents.video, settled.latents.audio
        await self._hand_over(Take(commit, video, audio, compute_s, asked_at, cost, settled.slack_s, tracing.current()))
        if asked_at is not None:  # somebody waits for this one: the next chunk must not take its processor
            await self._stage.pipeline.drain()

    async def _plan(self) -> ChunkInputs | None:
        """The chunk's inputs, written down; None when it turns out that there is nothing to say."""
        pending = self._pending
        if pending is not None:  # what came since belongs to the chunk after it
            with self._timer.direction():
                asking = Asking(pending.say, pending.prompts, pending.hear, pending.memory)
                await self._directed.begin(self.next_chunk_index, asking)
            self._pending = None
            return pending
        lines, asking = tuple(self._lines), self._asking()
        with self._timer.direction(is_counted=not asking.patience_s):
            plan = await self._directed.begin(self.next_chunk_index, asking)
        if plan.action.is_idle and not lines and self._script.config.regime is Regime.SCRIPTED:
            self._is_finished = True
            await self._stand()
            return None
        inputs = self._inputs(plan, lines, asking)
        written = await self._ledger.write_inputs(inputs)
        if written != inputs:
            raise CommitConflict("other inputs of this chunk were written before")
        self._remark(plan, lines)
        del self._lines[: len(lines)]
        del self._prompts[: len(asking.prompts)]
        del self._heard[: len(asking.hear)]
        return inputs

    def _asking(self) -> Asking:
        is_awaited = bool(self._heard) or (self._parent is not None and self._parent.is_idle and not self._is_finished)
        patience_s = self._fidelity.patience_s(self._due_at(self.next_position, 0)) if is_awaited else 0.0
        say = tuple(cue.text for cue in self._lines)
        return Asking(say, tuple(self._prompts), tuple(self._heard), patience_s=patience_s)

    def _inputs(self, plan: Plan, lines: tuple[Cue, ...], asking: Asking) -> ChunkInputs:
        response_seq = self._response_seq(plan, lines)
        return ChunkInputs(
            chunk_index=self.next_chunk_index,
            parent=self._parent.chunk_index if self._parent else None,
            position=self.next_position,
            generation=self._generation,
            cue_cursor=self._cursor,
            say=(*asking.say, *plan.action.written),
            action=replace(plan.action, memory=None),
            steps=self._fidelity.steps(self._due_at(self.next_position, response_seq)),
            response_seq=response_seq,
            prompts=asking.prompts,
            prompt=self._asked if plan.action.prompt is None else plan.action.prompt,
            hear=asking.hear,
            memory=self._memory if plan.action.memory is None else plan.action.memory,
        )

    def _response_seq(self, plan: Plan, lines: tuple[Cue, ...]) -> int:
        """Which cue the chunk answers: the one being answered, else the first of the new ones; 0 when idle."""
        if not self._is_finished and self._parent is not None and self._parent.response_seq:
            return self._parent.response_seq
        if lines:
            return lines[0].client_seq
        return 0 if plan.action.is_idle else max(1, self._cursor)

    def _remark(self, plan: Plan, lines: tuple[Cue, ...]) -> None:
        newest = lines[-1].client_seq if lines else 0
        for told in plan.notices:
            client_seq = self._prompt_seq if told in plan.action.prompt_notices else newest
            self._stage.programme.notice(replace(told, client_seq=told.client_seq or client_seq))

    def _is_answer(self, response_seq: int) -> bool:
        """Whether somebody waits for the chunk: the first of a response, or of the session."""
        return self._parent is None or response_seq not in (0, self._parent.response_seq)

    def _due_at(self, position: int, response_seq: int) -> float:
        is_answer = self._is_answer(response_seq)
        return self._stage.pacing.deadline(position, self._asked_at, is_answer=is_answer)

    async def _steps(self, inputs: ChunkInputs) -> Settled | None:
        """Run the steps; None when a cue came that makes the chunk worthless."""
        bridge, session_id = self._station.bridge, self._script.session_id
        deadline = self._due_at(inputs.position, inputs.response_seq)
        self._timer.take_off()
        request = await bridge.begin(session_id, inputs.chunk_index, inputs.steps, deadline, inputs.prompt)
        while True:
            with self._timer.condition(), tracing.span("condition", step=request.step):
                condition = await self._directed.denoise(request)
            with tracing.span("step", step=request.step):
                result = await self._step(request.step, condition, inputs)
            if result is None or self._is_worthless(inputs):
                self._station.figures.dropped("chunk_in_flight")
                await bridge.abort(session_id)
                return None
            if isinstance(result, Settled):
                self._steps_begun = inputs.steps
                self._station.pace.add(inputs.steps, self._timer.flight_s)
                return result
            request, self._steps_begun = result, result.step

    async def _step(self, step: int, condition: Floats, inputs: ChunkInputs) -> StepRequest | Settled | None:
        """Run a step, in its turn; None when the chunk becomes worthless while it waits."""
        changed = self._stage.changed
        running = asyncio.ensure_future(self._station.bridge.supply(self._script.session_id, step, condition))
        try:
            while True:
                changed.clear()
                if self._is_worthless(inputs):
                    return None
                waking = asyncio.ensure_future(changed.wait())
                try:
                    await asyncio.wait({running, waking}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    waking.cancel()
                if running.done():
                    return running.result()
        finally:
            running.cancel()

    def _is_worthless(self, inputs: ChunkInputs) -> bool:
        inbox = self._stage.inbox
        return inbox.has_interrupt or (inputs.action.is_idle and not inputs.say and inbox.has_say)

    async def _commit(self, inputs: ChunkInputs, settled: Settled) -> ChunkCommit:
        latents = settled.latents
        progress, _ = await asyncio.gather(
            self._end(inputs.chunk_index, latents.audio),
            self._ledger.lay(inputs.chunk_index, latents.video, latents.audio),
        )
        commit = ChunkCommit(
            chunk_index=inputs.chunk_index,
            parent=inputs.parent,
            position=inputs.position,
            generation=inputs.generation,
            progress=progress,
            is_idle=inputs.action.is_idle,
            cue_cursor=inputs.cue_cursor,
            say=inputs.say,
            response_seq=inputs.response_seq,
            prompt=inputs.prompt,
            memory=inputs.memory,
        )
        await self._ledger.commit(Made(commit, latents.video, latents.audio))
        await self._station.bridge.commit(self._script.session_id)
        self._parent, self._is_finished = commit, progress.is_finished
        self._asked, self._memory = commit.prompt, commit.memory
        self.next_chunk_index, self.next_position = commit.chunk_index + 1, commit.position + 1
        return commit

    async def _end(self, chunk_index: int, audio: Floats) -> ChunkProgress:
        with self._timer.direction():
            return await self._directed.end(chunk_index, audio)

    @property
    def _directed(self) -> Direction:
        return self.footing.direction


def _is_all_said(snapshot: SessionSnapshot) -> bool:
    """Whether nothing of the accepted transcript is left to say."""
    parent = snapshot.parent
    if parent is not None and parent.generation == snapshot.generation:
        return parent.progress.is_finished
    return sum(len(piece.split()) for piece in snapshot.transcript) <= snapshot.pointer_word
