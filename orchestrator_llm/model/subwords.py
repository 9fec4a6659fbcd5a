"""The full size's text front-end: a language model's own tokens, with the words they belong to.

What white space divides are the words, as for the pocket. Ids follow the special tokens every vocabulary begins with.
It knows no pronunciation: a token counts one syllable if it has a vowel or letters of another script.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_right
from itertools import accumulate
from pathlib import Path
from typing import Any

from orchestrator_llm.model.text import FIRST_PHONE, NAMED_IN_A_NOTICE, Utterance, WordSpan

FIRST_TOKEN = FIRST_PHONE
"""Id of the language model's first token."""
_VOWEL = re.compile(r"[aeiouyAEIOUY]|[^\x00-\x7f\u0120\u010a]")
"""In a vocabulary's own writing, where Ġ and Ċ stand for the space and the end of a line."""


class SubwordFrontEnd:
    """Tokens of a Hugging Face `tokenizer.json`."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.phones: list[str] = []
        """None: tokens are no phones."""
        written = tokenizer.get_vocab().items()
        self.vowels = frozenset(FIRST_TOKEN + index for token, index in written if _VOWEL.search(token))

    @staticmethod
    def load(path: Path) -> SubwordFrontEnd:
        """Reads the file. Raises ImportError without the package `tokenizers`, ValueError for another file."""
        from tokenizers import Tokenizer

        try:
            return SubwordFrontEnd(Tokenizer.from_file(str(path)))
        except Exception as fault:  # the package raises nothing more particular
            raise ValueError(f"{path.name} is not a tokenizer's file: {fault}") from fault

    def tokenize(self, text: str, first_word_index: int = 0) -> Utterance:
        """Tokens of a text; the first word gets `first_word_index`, and a space before it if others came before."""
        pieces = [_plain(piece) for piece in text.split()]
        lead = " " if first_word_index else ""
        encoded = self._tokenizer.encode(lead + " ".join(filter(None, pieces)), add_special_tokens=False)
        lengths = (len(piece) + 1 if piece else 0 for piece in pieces)  # each with its space
        begins = list(accumulate(lengths, initial=len(lead) - 1))
        owners = [bisect_right(begins, max(begin, end - 1)) - 1 for begin, end in encoded.offsets]
        words, notices = [], []
        for position, piece in enumerate(pieces):
            begin, end = (bisect_right(owners, position - 1 + after) for after in (0, 1))
            words.append(WordSpan(first_word_index + position, piece, begin, end))
            if begin == end:
                notices.append(f"cannot be spoken and is passed over: {piece[:NAMED_IN_A_NOTICE]}")
        return Utterance([FIRST_TOKEN + index for index in encoded.ids], words, notices)

    def syllables(self, word: str) -> int | None:  # noqa: ARG002  (as every front-end is asked)
        """None: no pronunciation is known."""
        return None


def _plain(piece: str) -> str:
    """Without control characters; letters stay as they are written, for so the language model has learned them."""
    return "".join(c for c in piece if unicodedata.category(c) != "Cc")
