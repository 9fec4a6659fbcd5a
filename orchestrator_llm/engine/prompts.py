"""What is asked of the picture: prompts are changes, and their sum is kept as text.

    "smiles, the wall is blue"  and then  "looks left and frowns"  make  "frowns, looks left, the wall is blue"

A prompt is cut into phrases, and the bundle's table says which slots a phrase speaks of. Of one slot only the newest
phrase holds; a phrase of no slot stays until it is said again or is crowded out. Phrases stand in the table's order of
slots, so that what is asked has one text, however it came about. Knows no models, sessions or chunks.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from services.bundle import Prompts
from services.prompts import PromptWords, split_words
from services.session import Notice

WORDS_UNKNOWN = "PROMPT_WORDS_UNKNOWN"
SHORTENED = "PROMPT_SHORTENED"
MAX_NAMED = 12
"""Words named in one notice."""
MAX_NAMED_LETTERS = 32
MAX_LETTERS = 16 * 1024
"""Of what comes at one time only the newest so many letters are read, so that no client holds the others up."""

_STOPS = re.compile(r"[.,;:!?\n]+")
_JOINS = frozenset({"and", "then", "while", "but"})


class Phrase(NamedTuple):
    """Known words that belong together, and the slots they speak of."""

    words: tuple[str, ...]
    slots: frozenset[str]


class Asked(NamedTuple):
    """All that is asked of the picture, and what could not be taken literally of what came last."""

    text: str
    notices: tuple[Notice, ...]


class PromptPlanner:
    """Adds prompts to what is asked already, as a bundle's words and slots have it."""

    def __init__(self, prompts: Prompts) -> None:
        self._words = PromptWords(prompts.words)
        self._slots = {tuple(key.split()): slot for key, slot in prompts.slots.items()}
        self._longest = max(map(len, self._slots), default=0)
        self._order = {slot: place for place, slot in enumerate(dict.fromkeys(prompts.slots.values()))}
        self._max_words = prompts.max_words

    def add(self, asked: str, prompts: Sequence[str]) -> Asked:
        """What is asked once `prompts` have come, oldest first, after what was `asked`."""
        read = _newest_texts((asked, *prompts))
        kept, lost = self._bounded(_newest([phrase for text in read for phrase in self._phrases(text)]))
        kept.sort(key=self._place)
        notices = self._unknown(read[-len(prompts) :] if prompts else ())
        if len(read) <= len(prompts):
            notices = (*notices, Notice(SHORTENED, "Too much was asked of the picture at once; the oldest was let go."))
        if lost:
            text = f"At most {self._max_words} words can be asked of the picture; these were let go: {_named(lost)}."
            notices = (*notices, Notice(SHORTENED, text))
        return Asked(", ".join(" ".join(phrase.words) for phrase in kept), notices)

    def _phrases(self, text: str) -> list[Phrase]:
        return [phrase for part in _STOPS.split(text) for phrase in self._joined(split_words(part)) if phrase.words]

    def _joined(self, words: Sequence[str]) -> list[Phrase]:
        """Cuts at "and" and its like where both sides speak of something, and nowhere else: "blue and green walls"."""
        borders = [place for place, word in enumerate(words) if word in _JOINS]
        found: list[Phrase] = []
        begin, has_slots = 0, False
        for border, following in pairwise([-1, *borders, len(words)]):
            part_has_slots = bool(self._phrase(words[border + 1 : following]).slots)
            if has_slots and part_has_slots:
                found.append(self._phrase(words[begin:border]))
                begin = border + 1
            has_slots |= part_has_slots
        return [*found, self._phrase(words[begin:])]

    def _phrase(self, words: Sequence[str]) -> Phrase:
        """The known words, and the slots of the longest keys that are found in them from left to right."""
        known = [word for word in words if word in self._words]
        while known and known[0] in _JOINS:
            known.pop(0)
        while known and known[-1] in _JOINS:
            known.pop()
        slots: set[str] = set()
        place = 0
        while place < len(known):
            lengths = range(min(self._longest, len(known) - place), 0, -1)
            length = next((n for n in lengths if tuple(known[place : place + n]) in self._slots), 0)
            if length:
                slots.add(self._slots[tuple(known[place : place + length])])
            place += max(1, length)
        return Phrase(tuple(known), frozenset(slots))

    def _bounded(self, phrases: list[Phrase]) -> tuple[list[Phrase], list[str]]:
        """The newest phrases that fit, oldest first, and the words of those that do not."""
        room, kept = self._max_words, len(phrases)
        while kept and len(phrases[kept - 1].words) <= room:
            kept -= 1
            room -= len(phrases[kept].words)
        lost, fitting = phrases[:kept], phrases[kept:]
        if lost and not fitting:  # one phrase that is too long: its beginning says most
            newest = lost.pop()
            begin = newest.words[: self._max_words]
            return [self._phrase(begin)], [*_words(lost), *newest.words[self._max_words :]]
        return fitting, _words(lost)

    def _place(self, phrase: Phrase) -> int:
        return min((self._order[slot] for slot in phrase.slots), default=-1)

    def _unknown(self, prompts: Sequence[str]) -> tuple[Notice, ...]:
        words = [word for text in prompts for word in split_words(text) if word not in self._words]
        unknown = [word for word in dict.fromkeys(words) if word not in _JOINS]
        if unknown:
            return (Notice(WORDS_UNKNOWN, f"The bundle does not know these words of the prompt: {_named(unknown)}."),)
        if prompts and not any(map(split_words, prompts)):
            return (Notice(WORDS_UNKNOWN, "There are no words in the prompt."),)
        return ()


def _newest(phrases: Sequence[Phrase]) -> list[Phrase]:
    """Of each slot the newest phrase, of equal ones the last; oldest first."""
    kept: list[Phrase] = []
    slots: set[str] = set()
    said: set[tuple[str, ...]] = set()
    for phrase in reversed(phrases):
        if slots.isdisjoint(phrase.slots) and phrase.words not in said:
            kept.append(phrase)
        slots |= phrase.slots
        said.add(phrase.words)
    return kept[::-1]


def _newest_texts(texts: Sequence[str]) -> list[str]:
    """The newest texts of MAX_LETTERS together, oldest first; of the very newest at least its end."""
    room, kept = MAX_LETTERS, list[str]()
    for text in reversed(texts):
        if len(text) > room:
            return kept[::-1] or [text[-room:]]
        kept.append(text)
        room -= len(text)
    return kept[::-1]


def _words(phrases: Sequence[Phrase]) -> list[str]:
    return [word for phrase in phrases for word in phrase.words]


def _named(words: Sequence[str]) -> str:
    named = ", ".join(word[:MAX_NAMED_LETTERS] for word in words[:MAX_NAMED])
    return named if len(words) <= MAX_NAMED else f"{named} and {len(words) - MAX_NAMED} more"
