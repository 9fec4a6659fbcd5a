"""What is planned for the coming chunks of one session, and what a language model is to be asked for next.

    brief() ─▶ a model, elsewhere ─▶ write(words) / offer(campaign) ─▶ draw() at the next chunk's beginning

Nothing here waits: a chunk takes what has come and goes on without the rest. Chunks count as slots; an action whose
slot has begun when its campaign comes is late, dropped and counted. In scripted regimes no word of a model ever comes
into the transcript: it is not taken from what was offered. Any thread may call. It knows no model and no network.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from orchestrator_llm.engine.brief import Brief, Ticket, Work
from orchestrator_llm.engine.campaign import Campaign, PlannedAction
from orchestrator_llm.engine.memory import Memory
from orchestrator_llm.engine.pace import SpeakingRate
from orchestrator_llm.engine.syllables import SyllableCounter
from services.session import Notice, Regime

CAMPAIGN_SLOTS = 4
LEAST_LEAD = 1
MOST_LEAD = 8
REST_SLOTS = 2
"""So many chunks are begun after a failure before a campaign is asked for again."""
WORDS_KEPT = 400
WISHES_KEPT = 4
BACKLOG_CHUNKS = 1.0
"""An action with speech waits while more than so many chunks' speech is left to say."""
MAX_REPLY_WORDS = 240


NOTHING = PlannedAction()
NOT_ANSWERED = "HEARD_NOT_ANSWERED"


@dataclass(frozen=True, slots=True)
class AgendaOptions:
    """What does not change in a session's life."""

    regime: Regime = Regime.CONVERSATION
    guidance: str = ""
    chunk_s: float = 1.375


@dataclass(frozen=True, slots=True)
class Drawn:
    """What a chunk takes from the agenda."""

    written: tuple[str, ...] = ()
    action: PlannedAction = NOTHING
    memory: str | None = None
    """None when it has not changed."""
    notices: tuple[Notice, ...] = ()
    """What the client is to be told of the planning."""


class Agenda:
    """One session's. `count` is told of whatever is dropped, by a word for what it was, and how many."""

    def __init__(
        self,
        options: AgendaOptions,
        counter: SyllableCounter,
        rate: SpeakingRate,
        count: Callable[[str, int], None] | None = None,
    ) -> None:
        self._options = options
        self._counter = counter
        self._rate = rate
        self._count = _forget if count is None else count
        self._lock = threading.Lock()
        self._cut = 0
        self._numbers = 0
        self._notices: list[Notice] = []
        self._memory = Memory()
        self._told = ""
        self._words: list[str] = []
        self._first_word = 0
        self._wishes: deque[str] = deque(maxlen=WISHES_KEPT)
        self._written: deque[str] = deque()
        self._reply_words = 0
        self._open: dict[Work, Ticket] = {}
        self._firsts: dict[Ticket, int] = {}
        self._planned: dict[int, PlannedAction] = {}
        self._slot = 0
        self._rest_until = 0
        self._is_looking_wanted = False
        self.can_ask = True
        """False while the rule planner plans: no model is asked, and nobody answers."""
        self.latency_s = 0.0
        """How long the model takes for a campaign, as last measured."""

    # the chunk's side -------------------------------------------------------------------------------------------------

    def restore(self, pieces: Sequence[str], words_total: int, memory: str, *, is_interrupted: bool = False) -> None:
        """Goes on from a transcript and a memory; all that was planned or is being written is void.

        Raises ValueError for a memory that cannot be read.
        """
        read = Memory.read(memory)
        with self._lock:
            self._cut += 1
            self._told = memory
            self._memory = read.changed(is_answering=False) if is_interrupted else read
            self._words = _last_words(pieces)
            self._first_word = words_total - len(self._words)
            self._count("planned_and_cut", len(self._planned) + len(self._written))
            self._planned.clear()
            self._written.clear()
            self._open.clear()
            self._firsts.clear()
            self._reply_words = 0

    def configure(self, options: AgendaOptions) -> None:
        """Takes what the session was opened with, before anything else."""
        self._options = options

    def hear(self, words: Sequence[str]) -> None:
        """What the user says to the character."""
        with self._lock:
            if words and not self._hears(words):
                self._notices.append(Notice(NOT_ANSWERED, "Nobody answers what was heard: no model writes here."))

    def tell(self, notice: Notice) -> None:
        """Something of the planning that the client is to know."""
        with self._lock:
            self._notices.append(notice)

    def draw(self, say: Sequence[str], wishes: Sequence[str], backlog_s: float) -> Drawn:
        """What the chunk that begins now takes. `backlog_s` is how long what is left to say will take."""
        with self._lock:
            self._accept(say)
            self._wish(wishes)
            written = self._take_written()
            action = self._take_action(backlog_s)
            if action.speech:
                written = (*written, action.speech)
            self._accept(written)
            self._remember(action)
            notices, self._notices = tuple(self._notices), []
            return Drawn(written, action, self._told_memory(), notices)

    def redo(self, say: Sequence[str], memory: str) -> None:
        """A chunk that was planned before is made again: with what it took then. Raises ValueError."""
        read = Memory.read(memory)
        with self._lock:
            self._accept(say)
            self._memory, self._told = read, memory

    @property
    def is_writing(self) -> bool:
        """Whether words are to come that nobody has said yet."""
        with self._lock:
            return bool(self._written) or (self._memory.is_answering and self.can_ask)

    # the model's side -------------------------------------------------------------------------------------------------

    def reply_briefs(self) -> list[Brief]:
        """What to ask a model for at once, since somebody waits: a reply, if one is due."""
        with self._lock:
            return self._due_reply("")

    def briefs(self, asked: str = "", windows: Sequence[str] = ()) -> list[Brief]:
        """What to ask a model for now, each once; `windows` is what the coming chunks will say, from the next on."""
        with self._lock:
            if not self.can_ask:
                return []
            found = self._due_reply(asked)
            if self._wants_campaign(windows):
                found.append(self._campaign_brief(asked, windows))
            return found

    def write(self, ticket: Ticket, words: str) -> bool:
        """Words of a reply, as they come; False when they are not wanted any more."""
        with self._lock:
            is_wanted = ticket.work is Work.REPLY and self._options.regime is Regime.CONVERSATION
            if not is_wanted or self._open.get(Work.REPLY) != ticket:
                self._count("reply_cut", 1)
                return False
            pieces = words.split()[: MAX_REPLY_WORDS - self._reply_words]
            self._reply_words += len(pieces)
            if pieces:
                self._written.append(" ".join(pieces))
            return self._reply_words < MAX_REPLY_WORDS

    def finish(self, ticket: Ticket) -> None:
        """A reply has come to its end."""
        with self._lock:
            if self._open.pop(ticket.work, None) == ticket:
                self._reply_words = 0
                self._memory = self._memory.changed(is_answering=False)

    def offer(self, ticket: Ticket, campaign: Campaign) -> int:
        """A campaign has come. Returns how many of its actions were late, and dropped."""
        with self._lock:
            first = self._firsts.pop(ticket, 0)
            if ticket.work is not Work.CAMPAIGN or self._open.get(Work.CAMPAIGN) != ticket:
                self._count("campaign_cut", 1)
                return 0
            del self._open[Work.CAMPAIGN]
            late = 0
            for slot, action in enumerate(campaign.actions, first):
                if slot < self._slot:
                    late += 1
                else:
                    self._planned[slot] = self._allowed(action)
            if late:
                self._count("action_late", late)
            return late

    def fail(self, ticket: Ticket) -> None:
        """A model gave nothing that could be used: the rules plan alone, and it is asked again after a rest."""
        with self._lock:
            self._firsts.pop(ticket, None)
            if self._open.pop(ticket.work, None) != ticket:
                return
            if ticket.work is Work.REPLY:
                self._reply_words = 0
                self._memory = self._memory.changed(is_answering=False)
                self._notices.append(Notice(NOT_ANSWERED, "The planner's model failed; the answer is left out."))
            else:
                self._rest_until = self._slot + REST_SLOTS

    # below: the lock is held ------------------------------------------------------------------------------------------

    def _accept(self, pieces: Sequence[str]) -> None:
        for piece in pieces:
            self._words += piece.split()
        if (surplus := len(self._words) - WORDS_KEPT) > 0:
            del self._words[:surplus]
            self._first_word += surplus

    def _hears(self, hear: Sequence[str]) -> bool:
        if self._options.regime is not Regime.CONVERSATION:
            return False
        coming = sum(len(piece.split()) for piece in self._written)
        self._memory = self._memory.hearing(hear, self._first_word + len(self._words) + coming)
        if not self.can_ask:
            self._memory = self._memory.changed(is_answering=False)
            return False
        self._is_looking_wanted = True
        if self._open.pop(Work.REPLY, None) is not None:  # what was being written answered less than was said
            self._count("reply_cut", 1)
            self._reply_words = 0
        return True

    def _wish(self, wishes: Sequence[str]) -> None:
        """New wishes: what was planned did not know of them, and is planned anew."""
        if not wishes:
            return
        self._wishes.extend(wishes)
        self._count("planned_and_cut", len(self._planned))
        self._planned.clear()
        self._open.pop(Work.CAMPAIGN, None)

    def _take_written(self) -> tuple[str, ...]:
        written = tuple(self._written)
        self._written.clear()
        return written

    def _take_action(self, backlog_s: float) -> PlannedAction:
        """The action of this slot; one with speech waits, and those behind it, while much is left to say."""
        action = self._planned.get(self._slot, NOTHING)
        if action.speech and backlog_s > BACKLOG_CHUNKS * self._options.chunk_s:
            return NOTHING
        self._planned.pop(self._slot, None)
        self._slot += 1
        return self._changes(action)

    def _changes(self, action: PlannedAction) -> PlannedAction:
        """Without what holds already: nothing is asked for twice."""
        same: dict[str, object] = {}
        if action.ambience == self._memory.ambience:
            same["ambience"] = ""
        if action.music == self._memory.music:
            same["music"] = ""
        return action.model_copy(update=same) if same else action

    def _remember(self, action: PlannedAction) -> None:
        changes: dict[str, str | bool] = {}
        if action.ambience:
            changes["ambience"] = action.ambience
        if action.music:
            changes["music"] = action.music
        if action.speech and action.speaker != self._memory.speaker:
            changes["speaker"] = action.speaker
        if changes:
            self._memory = self._memory.changed(**changes)

    def _told_memory(self) -> str | None:
        text = self._memory.text()
        text = "" if text == "{}" else text
        if text == self._told:
            return None
        self._told = text
        return text

    def _allowed(self, action: PlannedAction) -> PlannedAction:
        """Without speech where the regime has the planner write none, and within the chunk's budget."""
        if not action.speech:
            return action
        if self._options.regime not in (Regime.NARRATOR, Regime.WORLD):
            self._count("speech_not_wanted", 1)
            return action.model_copy(update={"speech": ""})
        words = action.speech.split()
        room, kept = self._budget, 0
        for syllables in self._counter.each(words):
            room -= syllables
            if room < 0 and kept:
                break
            kept += 1
        if kept == len(words):
            return action
        self._count("speech_over_budget", 1)
        return action.model_copy(update={"speech": " ".join(words[:kept])})

    @property
    def _budget(self) -> int:
        """Syllables that fit into one chunk."""
        return max(1, int(self._rate.per_second * self._options.chunk_s))

    def _due_reply(self, asked: str) -> list[Brief]:
        is_due = self.can_ask and self._memory.is_answering and Work.REPLY not in self._open
        return [self._brief(Work.REPLY, asked)] if is_due else []

    def _wants_campaign(self, windows: Sequence[str]) -> bool:
        if Work.CAMPAIGN in self._open or self._slot < self._rest_until:
            return False
        if self._options.regime is Regime.CONVERSATION:
            return self._is_looking_wanted
        if self._options.regime is Regime.SCRIPTED and not windows:
            return False
        return max(self._planned, default=self._slot - 1) < self._slot + CAMPAIGN_SLOTS - 1

    def _campaign_brief(self, asked: str, windows: Sequence[str]) -> Brief:
        lead = min(max(LEAST_LEAD, math.ceil(self.latency_s / self._options.chunk_s)), MOST_LEAD)
        first = max(max(self._planned, default=-1) + 1, self._slot + lead - 1)
        self._is_looking_wanted = False
        skipped = first - self._slot
        return self._brief(Work.CAMPAIGN, asked, first, tuple(windows[skipped : skipped + CAMPAIGN_SLOTS]))

    def _brief(self, work: Work, asked: str, first: int = 0, windows: tuple[str, ...] = ()) -> Brief:
        self._numbers += 1
        ticket = Ticket(self._cut, self._numbers, work)
        self._open[work] = ticket
        if work is Work.CAMPAIGN:
            self._firsts[ticket] = first
        memory = self._memory
        return Brief(
            ticket=ticket,
            regime=self._options.regime,
            guidance=self._options.guidance,
            dialogue=memory.dialogue(self._words, self._first_word),
            wishes=tuple(self._wishes),
            asked=asked,
            ambience=memory.ambience,
            music=memory.music,
            windows=windows,
            first_slot=first,
            slots=CAMPAIGN_SLOTS,
            syllables=self._budget,
        )


def _forget(_what: str, _count: int) -> None:
    """Nobody counts."""


def _last_words(pieces: Sequence[str]) -> list[str]:
    """The last words of a transcript, as many as are kept."""
    words: list[str] = []
    for piece in reversed(pieces):
        words = piece.split()[-WORDS_KEPT:] + words
        if len(words) >= WORDS_KEPT:
            break
    return words[-WORDS_KEPT:]
