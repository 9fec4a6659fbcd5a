"""A scripted model backend for directors: words are made of letters, the pointer goes where the test says."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from orchestrator_llm.engine.backend import Geometry, Pointed
from orchestrator_llm.engine.transcript import TranscriptWord
from services.session import HistoryChunk

PAUSE = 3
VOWELS = frozenset(ord(letter) for letter in "aeiou")
GEOMETRY = Geometry(
    frames=33,
    channels=24,
    reference_frames=24,
    chunk_seconds=1.375,
    history_chunks=1,
    text_back=4,
    text_ahead=28,
    end_margin=0.6,
)


@dataclass(frozen=True)
class LetterUtterance:
    """One piece of text as letters."""

    tokens: list[int]
    words: list[TranscriptWord]
    notices: list[str]


class LetterFrontEnd:
    """One token a letter, a pause after a word that ends in a full stop or comma; counts the letters it was given."""

    def __init__(self) -> None:
        self.letters_read = 0

    def tokenize(self, text: str, first_word_index: int) -> LetterUtterance:
        """Words are what white space divides; one without letters has no tokens."""
        self.letters_read += len(text)
        tokens: list[int] = []
        words: list[TranscriptWord] = []
        for text_of_word in text.split():
            letters = [ord(letter) for letter in text_of_word if letter.isalpha()]
            index = first_word_index + len(words)
            words.append(TranscriptWord(index, text_of_word, len(tokens), len(tokens) + len(letters)))
            tokens += letters
            if text_of_word[-1] in ".,":
                tokens.append(PAUSE)
        return LetterUtterance(tokens, words, [])

    def syllables(self, word: str) -> int | None:
        """Its vowels."""
        return sum(ord(letter) in VOWELS for letter in word.lower())


class ScriptedPrefix:
    """Answers with the noisy latents themselves and the next scripted advance of the pointer."""

    def __init__(self, pointer: float, advance: float) -> None:
        self._pointer = pointer
        self._advance = advance

    def condition(self, timestep: float, noisy: NDArray[np.float32]) -> NDArray[np.float32]:
        """The latents, scaled by the time: enough to tell two steps apart."""
        return noisy * np.float32(timestep)

    def point(self, clean: NDArray[np.float32]) -> Pointed:
        """Positions that rise evenly to the scripted end."""
        end = self._pointer + self._advance
        return Pointed(np.linspace(self._pointer, end, len(clean)), end)


@dataclass
class ScriptedBackend:
    """Backend and voice in one; the pointer advances by `advances`, then by the last of them for ever."""

    advances: deque[float]
    geometry: Geometry = GEOMETRY
    front_end: LetterFrontEnd = field(default_factory=LetterFrontEnd)
    vowels: frozenset[int] = VOWELS
    windows: list[list[int]] = field(default_factory=list)
    histories: list[Sequence[HistoryChunk]] = field(default_factory=list)
    writer: None = None
    why_no_writer: str = "the scripted backend has no language model"

    @classmethod
    def walking(cls, advances: Iterable[float], geometry: Geometry = GEOMETRY) -> ScriptedBackend:
        """A backend whose pointer moves by these amounts, chunk by chunk."""
        return cls(deque(advances), geometry)

    def voice(self, reference: NDArray[np.float32]) -> ScriptedBackend:
        """Any voice will do."""
        return self

    def prefix(
        self, tokens: list[int], pointer: float, history: Sequence[HistoryChunk], offset: int = 0
    ) -> ScriptedPrefix:
        """Notes what the model would have been shown."""
        start = int(pointer)
        self.windows.append(tokens[max(0, start - self.geometry.text_back) : start + 28])
        self.histories.append(history)
        advance = self.advances.popleft() if len(self.advances) > 1 else self.advances[0]
        return ScriptedPrefix(pointer, advance)
