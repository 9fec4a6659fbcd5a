"""Words nothing was trained on: short sentences, and scripts of some four hundred words each.

The corpus leaves out whatever shares four words in a row with the sentences (`training.make_corpus`); a test holds both
files to that. It knows no sound.
"""

from __future__ import annotations

import re
from pathlib import Path

SENTENCES = Path(__file__).parent / "sentences.txt"
SCRIPTS = Path(__file__).parent / "scripts.txt"
SENTENCE_END = re.compile(r"(?<=[.!?])\s+")


def held_out_sentences() -> list[str]:
    """Short sentences, in lower case and without a full stop."""
    return SENTENCES.read_text().splitlines()


def held_out_scripts() -> list[str]:
    """Pieces of plain prose, one a line."""
    return SCRIPTS.read_text().splitlines()


def sentences_of(text: str) -> list[str]:
    """The sentences of a piece of prose, each with its mark at the end."""
    return [sentence for sentence in SENTENCE_END.split(text.strip()) if sentence]


def written(sentence: str) -> str:
    """A short sentence as one would write it."""
    return f"{sentence[0].upper()}{sentence[1:]}."


def held_out_texts() -> list[str]:
    """All of it, sentence by sentence."""
    return [*held_out_sentences(), *(s for script in held_out_scripts() for s in sentences_of(script))]
