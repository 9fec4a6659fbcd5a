"""The transcript of one session as tokens and words, both counted from the session's beginning.

Text comes in piece by piece and is turned into tokens once, when it comes; what lies far behind the pointer is
forgotten, so that a session may go on for days. It knows nothing of models, plans or messages.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

FORGET_AT_LEAST = 4096
"""Tokens forgotten at once: forgetting moves the rest, so it is done seldom."""


class Word(Protocol):
    """A word of an utterance; begin and end are token offsets inside the utterance, end exclusive."""

    index: int
    text: str
    begin: int
    end: int


class Spoken(Protocol):
    """What a text front-end makes of one piece of text."""

    @property
    def tokens(self) -> Sequence[int]:
        """Phone and pause ids."""

    @property
    def words(self) -> Sequence[Word]:
        """Words in order, each with its tokens."""

    @property
    def notices(self) -> Sequence[str]:
        """Sentences for the client, for instance on words that had to be spelled out."""


class FrontEnd(Protocol):
    """Turns text into phones."""

    def tokenize(self, text: str, first_word_index: int) -> Spoken:
        """One piece of text; its first word gets the given index."""


@dataclass(frozen=True, slots=True)
class TranscriptWord:
    """A word with its tokens [begin, end), counted from the session's beginning."""

    index: int
    text: str
    begin: int
    end: int


class Transcript:
    """Grows at the end, is forgotten at the start; every index is absolute."""

    def __init__(self, front_end: FrontEnd) -> None:
        self._front_end = front_end
        self._tokens: list[int] = []
        self._words: list[TranscriptWord] = []
        self._word_begins: list[int] = []
        self._word_ends: list[int] = []
        self._first_token = 0
        self._first_word = 0

    @property
    def tokens_total(self) -> int:
        """Tokens accepted so far, N of eq. 5."""
        return self._first_token + len(self._tokens)

    @property
    def words_total(self) -> int:
        """Words accepted so far."""
        return self._first_word + len(self._words)

    @property
    def retained(self) -> tuple[list[int], int]:
        """The tokens still held, not to be changed, and the absolute index of the first."""
        return self._tokens, self._first_token

    def extend(self, piece: str) -> Sequence[str]:
        """Appends a piece of text; returns the front-end's notices."""
        utterance = self._front_end.tokenize(piece, self.words_total)
        base = self.tokens_total
        self._tokens.extend(utterance.tokens)
        for word in utterance.words:
            self._words.append(TranscriptWord(word.index, word.text, base + word.begin, base + word.end))
            self._word_begins.append(base + word.begin)
            self._word_ends.append(base + word.end)
        return utterance.notices

    def words_spoken(self, pointer: float) -> int:
        """How many words lie wholly before the pointer, counted from the session's beginning."""
        return self._first_word + bisect_right(self._word_ends, pointer)

    def words_begun(self, pointer: float) -> int:
        """How many words begin before the pointer, counted likewise."""
        return self._first_word + bisect_left(self._word_begins, pointer)

    def next_border(self, pointer: float) -> int:
        """The first end of a word behind the pointer, the transcript's end when there is none."""
        place = bisect_right(self._word_ends, pointer)
        return self._word_ends[place] if place < len(self._word_ends) else self.tokens_total

    def words(self, first: int, end: int) -> list[TranscriptWord]:
        """Words [first, end) by absolute index; `first` must not be forgotten."""
        assert first >= self._first_word, "the word asked for has been forgotten"
        return self._words[first - self._first_word : end - self._first_word]

    def token_slice(self, word: TranscriptWord) -> list[int]:
        """The tokens of one retained word."""
        return self._tokens[word.begin - self._first_token : word.end - self._first_token]

    def forget_before(self, token: int) -> None:
        """Lets go of tokens before an absolute index and of the words that end there or earlier, in large steps."""
        count = min(token, self.tokens_total) - self._first_token
        if count < FORGET_AT_LEAST:
            return
        words = bisect_right(self._word_ends, self._first_token + count)
        del self._tokens[:count]
        del self._words[:words]
        del self._word_begins[:words]
        del self._word_ends[:words]
        self._first_token += count
        self._first_word += words
