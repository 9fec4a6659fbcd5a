"""Word times to caption samples: a line stays on screen while its words light up one by one. Knows no container."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cuelight.events import Word

LINE_CHARACTERS = 38
"""Longest caption line; about what subtitle guidelines ask for."""
LINE_GAP_S = 1.0
"""A pause between words that begins a new line."""
LINGER_S = 0.6
"""A finished line stays for so long, unless the next one comes first."""

# tx3g style record: font 1, underlined, size 18, amber.
_FONT, _UNDERLINE, _SIZE, _COLOUR = 1, 4, 18, (0xFF, 0xC8, 0x3C, 0xFF)


@dataclass(frozen=True, slots=True)
class Caption:
    """One state of the screen: ``line`` from ``start_s`` to ``end_s``, characters ``lit`` (begin, end) standing out."""

    line: str
    start_s: float
    end_s: float
    lit: tuple[int, int]

    @property
    def tx3g(self) -> bytes:
        """The sample of an MP4 timed-text track (3GPP TS 26.245)."""
        text = self.line.encode()
        sample = struct.pack(">H", len(text)) + text
        style = struct.pack(">HHHHBB4B", 1, *self.lit, _FONT, _UNDERLINE, _SIZE, *_COLOUR)
        return sample + struct.pack(">I4s", 8 + len(style), b"styl") + style


def captions(words: Sequence[Word]) -> list[Caption]:
    """One caption for every word, in order, none overlapping the next; each begins when its word begins."""
    made: list[Caption] = []
    ordered = sorted(words, key=lambda word: (word.start_s, word.index))
    starts = [word.start_s for word in ordered[1:]] + [float("inf")]
    following = iter(starts)
    for line in _lines(ordered):
        text, begin = " ".join(word.text for word in line), 0
        for word in line:
            is_last = word is line[-1]
            next_start = next(following)
            end_s = min(next_start, word.end_s + LINGER_S if is_last else next_start)
            if end_s > word.start_s:
                made.append(Caption(text, word.start_s, end_s, (begin, begin + len(word.text))))
            begin += len(word.text) + 1
    return made


def _lines(words: Sequence[Word]) -> Iterator[list[Word]]:
    line: list[Word] = []
    for word in words:
        if line and _breaks(line, word):
            yield line
            line = []
        line.append(word)
    if line:
        yield line


def _breaks(line: Sequence[Word], word: Word) -> bool:
    last = line[-1]
    length = sum(len(each.text) + 1 for each in line) + len(word.text)
    return length > LINE_CHARACTERS or word.start_s - last.end_s > LINE_GAP_S or last.text.endswith((".", "!", "?"))
