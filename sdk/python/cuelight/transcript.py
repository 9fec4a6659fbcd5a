"""Cuts text into messages the server takes. Knows no session and no network."""

from __future__ import annotations

import re
from collections.abc import Iterator

MAX_SAY_BYTES = 16 * 1024
"""The most one ``say`` message may hold (``UserInput.say``)."""

_SENTENCE_END = re.compile(r"(?<=[.!?;:…。！？])[\"'”’)\]]*\s+|\n\s*\n\s*")


def count_words(text: str) -> int:
    """The number of words, cut at white space."""
    return len(text.split())


def split_transcript(text: str, max_bytes: int = MAX_SAY_BYTES) -> list[str]:
    """Cuts ``text`` into pieces of at most ``max_bytes`` bytes of UTF-8, at sentence ends where there are any.

    A sentence that is too long is cut between words, a word that is too long between characters. Blank text gives no
    piece, and no word is lost, split in two pieces that fit, or given twice.
    """
    pieces: list[str] = []
    current = ""
    for part in _parts(text, max_bytes):
        joined = f"{current} {part}" if current else part
        if len(joined.encode()) <= max_bytes:
            current = joined
            continue
        pieces.append(current)
        current = part
    if current:
        pieces.append(current)
    return pieces


def _parts(text: str, max_bytes: int) -> Iterator[str]:
    """Sentences, and words of sentences that do not fit, none longer than ``max_bytes``."""
    for sentence in _sentences(text):
        if len(sentence.encode()) <= max_bytes:
            yield sentence
            continue
        for word in sentence.split():
            yield from _slices(word, max_bytes)


def _sentences(text: str) -> Iterator[str]:
    begin = 0
    for match in _SENTENCE_END.finditer(text):
        if sentence := text[begin : match.end()].strip():
            yield sentence
        begin = match.end()
    if rest := text[begin:].strip():
        yield rest


def _slices(word: str, max_bytes: int) -> Iterator[str]:
    while len(word.encode()) > max_bytes:
        head = word.encode()[:max_bytes].decode(errors="ignore")
        yield head
        word = word[len(head) :]
    yield word
