"""The transcript of one session as tokens and words, both counted from the session's beginning.

Text comes in piece by piece. It is read, that is turned into tokens, once and segment by segment as the pointer comes
near, so that a long text holds nobody up; what lies far behind the pointer is forgotten, so that a session may go on
for days. It knows nothing of models, plans or messages.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

FORGET_AT_LEAST = 4096
"""Tokens forgotten at once: forgetting moves the rest, so it is done seldom."""
SEGMENT_WORDS = 64
"""Words read at once at most."""
SENTENCE_ENDS = (".", "!", "?", "…")


class Word(Protocol):
    """A word of an utterance."""

    @property
    def index(self) -> int:
        """Index in the transcript."""

    @property
    def text(self) -> str:
        """The word as written."""

    @property
    def begin(self) -> int:
        """Its first token, counted from the utterance's."""

    @property
    def end(self) -> int:
        """The token after its last."""


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
    """Turns text into phones. What white space divides are the words, none left out; one may have no tokens."""

    def tokenize(self, text: str, first_word_index: int) -> Spoken:
        """One piece of text; its first word gets the given index."""

    def syllables(self, word: str) -> int | None:
        """Syllables of one word by its phones; None for a word that is not known."""


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
        self._unread: deque[list[str]] = deque()
        self._unread_words = 0

    @property
    def is_read(self) -> bool:
        """True when all accepted text is read; only then is the transcript's end in tokens known."""
        return not self._unread

    @property
    def tokens_read(self) -> int:
        """Tokens read so far: N of eq. 5 once all is read."""
        return self._first_token + len(self._tokens)

    @property
    def words_read(self) -> int:
        """Words read so far."""
        return self._first_word + len(self._words)

    @property
    def words_total(self) -> int:
        """Words accepted so far."""
        return self.words_read + self._unread_words

    @property
    def retained(self) -> tuple[list[int], int]:
        """The tokens still held, not to be changed, and the absolute index of the first."""
        return self._tokens, self._first_token

    def extend(self, piece: str) -> None:
        """Accepts a piece of text, to be read later."""
        words = piece.split()
        self._unread_words += len(words)
        while words:
            count = _segment_length(words)
            self._unread.append(words[:count])
            words = words[count:]

    def read_on(self, token: float, more_segments: int = 0) -> list[str]:
        """Reads until `token` is read, then some more segments; returns the front-end's notices."""
        notices: list[str] = []
        while self._unread and (self.tokens_read < token or more_segments > 0):
            if self.tokens_read >= token:
                more_segments -= 1
            notices.extend(self._read(self._unread.popleft()))
        return notices

    def _read(self, segment: list[str]) -> Sequence[str]:
        utterance = self._front_end.tokenize(" ".join(segment), self.words_read)
        assert len(utterance.words) == len(segment), "the front-end counts other words than white space divides"
        base = self.tokens_read
        self._tokens.extend(utterance.tokens)
        for word in utterance.words:
            self._words.append(TranscriptWord(word.index, word.text, base + word.begin, base + word.end))
            self._word_begins.append(base + word.begin)
            self._word_ends.append(base + word.end)
        self._unread_words -= len(segment)
        return utterance.notices

    def words_spoken(self, pointer: float) -> int:
        """How many words lie wholly before the pointer, counted from the session's beginning."""
        return self._first_word + bisect_right(self._word_ends, pointer)

    def words_begun(self, pointer: float) -> int:
        """How many words begin before the pointer, counted likewise."""
        return self._first_word + bisect_left(self._word_begins, pointer)

    def next_border(self, pointer: float) -> int:
        """The first end of a word behind the pointer, the end of what is read when there is none."""
        place = bisect_right(self._word_ends, pointer)
        return self._word_ends[place] if place < len(self._word_ends) else self.tokens_read

    def words(self, first: int, end: int) -> list[TranscriptWord]:
        """Words [first, end) by absolute index, read and not forgotten."""
        assert first >= self._first_word, "the word asked for has been forgotten"
        return self._words[first - self._first_word : end - self._first_word]

    def token_slice(self, word: TranscriptWord) -> list[int]:
        """The tokens of one retained word."""
        return self._tokens[word.begin - self._first_token : word.end - self._first_token]

    def forget_before(self, token: int) -> None:
        """Lets go of tokens before an absolute index and of the words that end there or earlier, in large steps."""
        count = min(token, self.tokens_read) - self._first_token
        if count < FORGET_AT_LEAST:
            return
        words = bisect_right(self._word_ends, self._first_token + count)
        del self._tokens[:count]
        del self._words[:words]
        del self._word_begins[:words]
        del self._word_ends[:words]
        self._first_token += count
        self._first_word += words


def _segment_length(words: Sequence[str]) -> int:
    """How many words the next segment takes: all if they fit, else up to the last sentence end that does."""
    if len(words) <= SEGMENT_WORDS:
        return len(words)
    ends = (count for count in range(SEGMENT_WORDS, 0, -1) if words[count - 1].endswith(SENTENCE_ENDS))
    return next(ends, SEGMENT_WORDS)
