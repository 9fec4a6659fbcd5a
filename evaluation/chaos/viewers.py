"""Viewers with the real SDK that watch one session after the other and write down all they are shown.

A viewer plays nothing: it says that its playhead is some chunks behind what it has, however fast that comes, so that
chunks are always made as fast as the machine can, and some always wait to be played. It knows the SDK and no faults.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import cuelight
from cuelight.client import Client
from cuelight.errors import CuelightError, SessionFailed
from cuelight.events import Attached, Media, Progress, Retired
from cuelight.rpc import Timeouts
from cuelight.session import Session
from evaluation.chaos.history import Cut, Ended, Event, Joined, Rendered, Sent, Told

TIMEOUTS = Timeouts(connect_s=30.0, call_s=30.0, attach_s=30.0, silence_s=5.0, recover_s=300.0, recover_tries=200)
AGAIN_S = 0.5
LAG_CHUNKS = {"scripted": 4.0, "conversation": 0.5}
"""Chunks a viewer has that it says it has not played: less than the worker may run ahead, or nothing would be made."""
SENTENCES = (
    "the quiet river bends around the village before it meets the sea.",
    "seven small birds were sitting on the broken fence this morning.",
    "please bring the yellow blanket when you come back tonight.",
    "a warm wind carried the smell of bread across the square.",
    "the captain wrote a short letter and sealed it with wax.",
    "children ran through the narrow streets after the rain stopped.",
    "several people stood near the window and watched the storm.",
    "the last train to the city leaves just before midnight.",
    "the map shows a hidden path between the two mountains.",
    "fresh snow covered the roof of the little church.",
)
PROMPTS = ("smiles", "looks left", "looks right", "raises the head")
Regime = Literal["scripted", "conversation"]


class Act(NamedTuple):
    """What a viewer does next, after so many more pieces of media."""

    after_media: int
    cue: Literal["say", "prompt", "interrupt", "end"]
    text: str = ""
    is_barge_in: bool = False


@dataclass(frozen=True, slots=True)
class Part:
    """What is performed in one session; the same part of a scripted one always has the same latents."""

    regime: Regime
    seed: int
    acts: tuple[Act, ...]

    @property
    def name(self) -> str:
        """Names it among all parts."""
        return f"{self.regime}-{self.seed}"


def scripted_part(seed: int, sentences: int) -> Part:
    """All is said at once: every chunk's inputs follow from the text alone."""
    draw = random.Random(seed)
    text = " ".join(draw.sample(SENTENCES, sentences))
    return Part("scripted", seed, (Act(0, "say", text), Act(0, "end")))


def conversation_part(seed: int, turns: int) -> Part:
    """Says, prompts, interrupts and barge-ins in turns, and a last sentence that is said to its end."""
    draw = random.Random(seed)
    acts = [Act(0, "say", draw.choice(SENTENCES))]
    for _ in range(turns):
        pause = draw.randrange(2, 9)
        kind = draw.choice(("say", "barge-in", "interrupt", "prompt"))
        if kind == "prompt":
            acts.append(Act(pause, "prompt", draw.choice(PROMPTS)))
        elif kind == "interrupt":
            acts += [Act(pause, "interrupt"), Act(draw.randrange(4), "say", draw.choice(SENTENCES))]
        else:
            acts.append(Act(pause, "say", draw.choice(SENTENCES), is_barge_in=kind == "barge-in"))
    return Part("conversation", seed, (*acts, Act(2, "say", draw.choice(SENTENCES)), Act(0, "end")))


def parts_of(seed: str, *, converses: bool, scripts: int, sentences: int) -> Iterator[Part]:
    """What one viewer watches, for ever; there are few scripts, so that as few references do."""
    draw = random.Random(seed)
    while True:
        if converses:
            yield conversation_part(draw.randrange(1 << 30), turns=4)
        else:
            yield scripted_part(1 + draw.randrange(scripts), sentences)


@dataclass
class Viewer:
    """One viewer; `watch` until told to stop."""

    number: int
    address: str
    parts: Iterator[Part]
    note: Callable[[Event], None]
    session: str = ""
    """Id of what is watched now; empty between two."""
    media: int = 0
    """Pieces of media that were shown, over all sessions."""
    finished: int = 0
    refusals: int = 0
    parts_of_sessions: dict[str, str] = field(default_factory=dict)
    """Name of the part that was performed in each session."""
    is_stopping: bool = False

    async def watch(self) -> None:
        """Watch part after part until told to stop, or until there are no more; what is refused is asked for again."""
        part = next(self.parts, None)
        while part is not None and not self.is_stopping:
            try:
                async with cuelight.connect(self.address, timeouts=TIMEOUTS) as client:
                    while part is not None and not self.is_stopping:
                        await self.perform(client, part)
                        part = next(self.parts, None)
            except CuelightError:
                self.refusals += 1
                await asyncio.sleep(AGAIN_S)

    async def perform(self, client: Client, part: Part) -> None:
        """Watch one session. Raises CuelightError when none could be had."""
        async with client.create_session(regime=part.regime, seed=part.seed, queue_timeout_s=20) as session:
            self.session = session.name.rpartition("/")[2]
            self.parts_of_sessions[self.session] = part.name
            state, error = "lost", ""
            try:
                await self._follow(session, part)
                state = session.state.value
            except SessionFailed as fault:
                state, error = "failed", str(fault)
            except CuelightError as fault:
                error = f"{type(fault).__name__}: {fault}"
            finally:
                self.note(Ended(time.monotonic(), self.session, state, error))
                self.session = ""
                self.finished += 1

    async def _follow(self, session: Session, part: Part) -> None:
        acts = iter(part.acts)
        act, waited = next(acts, None), 0
        async for event in session:  # the first is that it stands
            self._write(event, session, part)
            waited += isinstance(event, Media)
            while act is not None and waited >= act.after_media:
                await self._do(session, act)
                act, waited = next(acts, None), 0

    async def _do(self, session: Session, act: Act) -> None:
        if act.cue == "say":
            seq = await session.say(act.text, barge_in=act.is_barge_in)
        elif act.cue == "prompt":
            seq = await session.prompt(act.text)
        elif act.cue == "interrupt":
            seq = await session.interrupt()
        else:
            seq = await session.end()
        words = tuple(act.text.split()) if act.cue == "say" else ()
        is_cut = act.is_barge_in or act.cue == "interrupt"
        self.note(Sent(time.monotonic(), self.session, seq, act.cue, words, is_cut))

    def _write(self, event: cuelight.Event, session: Session, part: Part) -> None:
        now, name = time.monotonic(), self.session
        if isinstance(event, Media):
            self.media += 1
            self.note(_rendered(now, name, event))
            lag_s = LAG_CHUNKS[part.regime] * event.duration / event.timescale
            session.report_playhead(max(session.playhead_s, event.end_s - lag_s))
        elif isinstance(event, Progress):
            first = event.words[0].index if event.words else 0
            words = tuple(word.text for word in event.words)
            self.note(Told(now, name, event.chunk_index, event.position, event.generation, first, words))
        elif isinstance(event, Retired):
            self.note(Cut(now, name, event.generation, event.first_position, event.chunk_indices))
        elif isinstance(event, Attached):
            self.note(Joined(now, name, event.media_offset, event.state_preserved))


def _rendered(now: float, session: str, media: Media) -> Rendered:
    return Rendered(
        at_s=now,
        session=session,
        offset=media.offset,
        track=int(media.track),
        chunk=media.chunk_index,
        position=media.position,
        generation=media.generation,
        epoch=media.epoch,
        pts=media.pts,
        duration=media.duration,
    )
