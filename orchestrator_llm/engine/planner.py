"""The rule planner: cuts the transcript into actions under a syllable budget.

It looks ahead only. Where the next chunk starts is said by the pointer, never by a plan, so a plan that is too short
or too long costs no word. It knows nothing of models, chunks made or messages.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from orchestrator_llm.engine.pace import SpeakingRate
from orchestrator_llm.engine.transcript import Transcript, TranscriptWord


@dataclass(frozen=True, slots=True)
class PlannerOptions:
    """How much of the transcript an action looks ahead."""

    syllables_per_second: float = 6.0
    """As fast as the bundle may speak: an action's text follows from the session alone, whichever replica plans it."""
    look_ahead_s: float = 2.75
    is_hard: bool = False
    """The model is shown no word beyond the action: speech must fit into each chunk. `look_ahead_s` is then a chunk."""
    pause_share: float = 0.5
    """From this share of the budget on, an action ends at a pause if it meets one."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The words [first_word, end_word) the next chunk works towards; none of them when idle."""

    first_word: int
    end_word: int
    text: str
    is_idle: bool


class RulePlanner:
    """Plans without a language model. `vowels` are the token ids that make a syllable each."""

    def __init__(
        self, vowels: AbstractSet[int], options: PlannerOptions | None = None, rate: SpeakingRate | None = None
    ) -> None:
        """`rate` is how fast this process has heard the bundle speak; estimates of what is to come go by it."""
        self._options = options or PlannerOptions()
        self._vowels = vowels
        self.rate = rate or SpeakingRate(self._options.syllables_per_second)
        self.is_hard = self._options.is_hard

    @property
    def _budget(self) -> float:
        """Syllables of one action at most."""
        return self._options.syllables_per_second * self._options.look_ahead_s

    def plan(self, transcript: Transcript, pointer: float) -> Plan:
        """The window of words from the pointer (absolute tokens) on; at least one word while any is left.

        A pause that ends the transcript is idled away: no word is left in it.
        """
        first = transcript.words_spoken(pointer)
        if first >= transcript.words_total:
            return Plan(first, first, "", is_idle=True)
        chosen = self._within_budget(transcript, first, self._budget)
        return Plan(first, first + len(chosen), " ".join(word.text for word in chosen), is_idle=False)

    def windows(self, transcript: Transcript, first_word: int, chunk_s: float, count: int) -> list[str]:
        """What the chunks will say that begin at `first_word`, about, as far as the transcript is read."""
        found: list[str] = []
        while len(found) < count and first_word < transcript.words_read:
            chosen = self._within_budget(transcript, first_word, self.rate.per_second * chunk_s)
            found.append(" ".join(word.text for word in chosen))
            first_word += len(chosen)
        return found

    def left_s(self, transcript: Transcript, pointer: float) -> float:
        """About how long what is left to say will take."""
        return self.syllables(transcript, pointer, transcript.tokens_read) / self.rate.per_second

    def syllables(self, transcript: Transcript, begin: float, end: float) -> int:
        """Syllables of the tokens from `begin` to `end`, absolute and still held."""
        tokens, offset = transcript.retained
        return sum(token in self._vowels for token in tokens[max(0, round(begin) - offset) : round(end) - offset])

    def _within_budget(self, transcript: Transcript, first: int, budget: float) -> list[TranscriptWord]:
        chosen: list[TranscriptWord] = []
        syllables = 0
        for index in range(first, transcript.words_read):
            word = transcript.words(index, index + 1)[0]
            is_after_pause = bool(chosen) and word.begin > chosen[-1].end
            if is_after_pause and syllables >= budget * self._options.pause_share:
                break
            syllables += sum(token in self._vowels for token in transcript.token_slice(word))
            if chosen and syllables > budget:
                break
            chosen.append(word)
        return chosen
