"""The rule planner: cuts the transcript into actions under a syllable budget.

It looks ahead only. Where the next chunk starts is said by the pointer, never by a plan, so a plan that is too short
or too long costs no word. It knows nothing of models, chunks made or messages.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from orchestrator_llm.engine.transcript import Transcript, TranscriptWord


@dataclass(frozen=True, slots=True)
class PlannerOptions:
    """How much of the transcript an action looks ahead."""

    syllables_per_second: float = 6.0
    look_ahead_s: float = 2.75
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

    def __init__(self, vowels: AbstractSet[int], options: PlannerOptions | None = None) -> None:
        options = options or PlannerOptions()
        self._vowels = vowels
        self._budget = options.syllables_per_second * options.look_ahead_s
        self._pause_after = self._budget * options.pause_share

    def plan(self, transcript: Transcript, pointer: float) -> Plan:
        """The window of words from the pointer (absolute tokens) on; at least one word while any is left.

        A pause that ends the transcript is idled away: no word is left in it.
        """
        first = transcript.words_spoken(pointer)
        if first >= transcript.words_total:
            return Plan(first, first, "", is_idle=True)
        chosen = self._within_budget(transcript, first)
        return Plan(first, first + len(chosen), " ".join(word.text for word in chosen), is_idle=False)

    def _within_budget(self, transcript: Transcript, first: int) -> list[TranscriptWord]:
        chosen: list[TranscriptWord] = []
        syllables = 0
        for index in range(first, transcript.words_read):
            word = transcript.words(index, index + 1)[0]
            is_after_pause = bool(chosen) and word.begin > chosen[-1].end
            if is_after_pause and syllables >= self._pause_after:
                break
            syllables += sum(token in self._vowels for token in transcript.token_slice(word))
            if chosen and syllables > self._budget:
                break
            chosen.append(word)
        return chosen
