"""Cutting text into messages."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cuelight.transcript import MAX_SAY_BYTES, split_transcript


def test_cuts_lie_at_sentence_ends() -> None:
    """Sentences are kept whole where they fit."""
    pieces = split_transcript("One is here. Two is there! And three? Yes.", max_bytes=26)
    assert pieces == ["One is here. Two is there!", "And three? Yes."]


def test_twenty_thousand_words_fit_into_messages() -> None:
    """A long transcript becomes few pieces, none beyond the limit, with every word in order."""
    text = " ".join(f"word{index}{'.' if index % 12 == 11 else ''}" for index in range(20_000))
    pieces = split_transcript(text)
    assert max(len(piece.encode()) for piece in pieces) <= MAX_SAY_BYTES
    assert " ".join(pieces).split() == text.split()
    assert len(pieces) < 20
    assert all(piece.endswith(".") for piece in pieces[:-1])


def test_a_word_without_end_is_cut_between_characters() -> None:
    """Even a single endless word is sent, in pieces that are valid UTF-8."""
    assert "".join(split_transcript("ä" * 50, max_bytes=15)) == "ä" * 50


@given(st.text(alphabet="ab .!\n\té🎭", max_size=400), st.integers(8, 64))
def test_nothing_is_lost_and_nothing_is_too_long(text: str, limit: int) -> None:
    """Whatever the text: the same characters but for white space, and every piece within the limit."""
    pieces = split_transcript(text, max_bytes=limit)
    assert "".join("".join(pieces).split()) == "".join(text.split())
    assert all(piece.strip() and len(piece.encode()) <= limit for piece in pieces)
