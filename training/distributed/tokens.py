"""Transcripts as tokens with times: phones as a corpus gives them, or a language model's own tokens.

The pointer is taught on where each token begins and ends, so a tokenizer answers with both. Ids begin after the special
tokens every vocabulary begins with. Knows no latents and no windows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from training.corpora.clip_format import Clip, ClipInvalid
from training.windows import FIRST_PHONE, phone_ids


class TimedTokens(NamedTuple):
    """Ids (P,) of a transcript, and edges (P + 1,) in seconds: token i lasts from edge i to edge i + 1."""

    ids: np.ndarray
    edges: np.ndarray


class Tokens(Protocol):
    """What makes timed tokens of a clip; ClipInvalid for a clip that lacks what it needs."""

    def of(self, clip: Clip) -> TimedTokens: ...


class PhoneTokens:
    """Tokens are the phones of a corpus that has them."""

    def __init__(self, phones: Sequence[str]) -> None:
        self.ids = phone_ids(phones)

    def of(self, clip: Clip) -> TimedTokens:
        """A clip's phones. Raises ClipInvalid when it has none, or one that is not in the bundle's list."""
        unknown = next((p.text for p in clip.phones if p.text not in self.ids), None)
        if unknown is not None:
            raise ClipInvalid(f"phone {unknown!r} is none of this bundle's")
        if not clip.phones and clip.words:
            raise ClipInvalid("the clip has no phones, which this bundle's tokens are")
        edges = [clip.phones[0].begin if clip.phones else 0.0, *(p.end for p in clip.phones)]
        return TimedTokens(np.array([self.ids[p.text] for p in clip.phones], np.int64), np.array(edges))


class SubwordTokens:
    """Tokens of a Hugging Face `tokenizer.json`, timed by the words they are parts of, letter by letter."""

    def __init__(self, path: Path) -> None:
        from tokenizers import Tokenizer

        if not path.is_file():
            raise ClipInvalid(f"{path} is missing: training.init copies the language model's")
        self.tokenizer = Tokenizer.from_file(str(path))

    def of(self, clip: Clip) -> TimedTokens:
        """A transcript's tokens; the silence between two words belongs to the second."""
        if not clip.words:
            return TimedTokens(np.zeros(0, np.int64), np.zeros(1))
        text, letters, times = " ".join(word.text for word in clip.words), [], []
        place = 0
        for word in clip.words:
            letters += [place, place + len(word.text)]
            times += [word.begin, word.end]
            place += len(word.text) + 1
        encoded = self.tokenizer.encode(text, add_special_tokens=False)
        begins = [begin for begin, _ in encoded.offsets]
        edges = np.maximum.accumulate(np.interp([*begins, len(text)], letters, np.maximum.accumulate(times)))
        return TimedTokens(np.array(encoded.ids, np.int64) + FIRST_PHONE, edges)


def tokens_of(text: Mapping[str, Any], folder: Path) -> Tokens:
    """The tokenizer a manifest's `text` names: `phones`, or `tokenizer`, a path beside the manifest."""
    if "phones" in text:
        return PhoneTokens(text["phones"])
    return SubwordTokens(folder / text["tokenizer"])
