"""Words of a prompt: how text becomes words, and words the ids that a bundle's prompt encoder reads.

Two processes must agree on it, as must the training: the orchestrator says which words a bundle does not know, the
worker encodes those it does. Knows no models and no sessions.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["PromptIds", "PromptWords", "split_words"]

_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*")


def split_words(text: str) -> list[str]:
    """The words of a text in lower case; punctuation is dropped, an apostrophe inside a word is not."""
    return _WORD.findall(text.lower().replace("\u2019", "'"))


class PromptIds(NamedTuple):
    """A prompt as its encoder reads it, and the words that were left out because the bundle does not know them."""

    ids: tuple[int, ...]
    unknown: tuple[str, ...]


class PromptWords:
    """A bundle's word list: a word's id is its place in the list. An empty list is one of every word, without ids."""

    def __init__(self, words: Sequence[str]) -> None:
        self._words = tuple(words)
        self._ids = {word: index for index, word in enumerate(words)}

    def __contains__(self, word: str) -> bool:
        return not self._ids or word in self._ids

    def text(self, ids: Sequence[int]) -> str:
        """The words of ids, which must be of this list."""
        return " ".join(self._words[index] for index in ids)

    def read(self, text: str) -> PromptIds:
        """Ids of the words that are known, in order; the others once each, as first met."""
        words = split_words(text)
        unknown = dict.fromkeys(word for word in words if word not in self._ids)
        return PromptIds(tuple(self._ids[word] for word in words if word in self._ids), tuple(unknown))
