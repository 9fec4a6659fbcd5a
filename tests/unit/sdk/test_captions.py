"""Caption samples from word times."""

from __future__ import annotations

import struct
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from cuelight import Word
from cuelight.captions import LINE_CHARACTERS, LINGER_S, captions


def _words(*texts: str, pace_s: float = 0.4) -> list[Word]:
    return [Word(index, text, index * pace_s, index * pace_s + 0.3) for index, text in enumerate(texts)]


def test_a_line_breaks_after_a_sentence() -> None:
    """The next sentence begins a new line."""
    assert [caption.line for caption in captions(_words("Hello", "there.", "Good", "day."))] == [
        "Hello there.",
        "Hello there.",
        "Good day.",
        "Good day.",
    ]


def test_the_word_that_is_spoken_stands_out() -> None:
    """The lit characters are those of the word, and they are what the style record of the sample names."""
    second = captions(_words("Grüß", "Gott"))[1]
    assert second.line[slice(*second.lit)] == "Gott"
    box = second.tx3g[-22:]
    assert struct.unpack(">I4sHHH", box[:14]) == (22, b"styl", 1, *second.lit)


def test_the_last_word_lingers() -> None:
    """A finished line stays a little, not for ever."""
    last = captions(_words("Hello", "there."))[-1]
    assert last.end_s == 0.7 + LINGER_S


@given(st.lists(st.tuples(st.text("abc.", min_size=1, max_size=12), st.floats(0.05, 3)), max_size=30))
def test_samples_follow_one_another(spoken: list[tuple[str, float]]) -> None:
    """Whatever the words: one sample each, in order, none overlapping, no line too long."""
    words, now = [], 0.0
    for index, (text, pace_s) in enumerate(spoken):
        words.append(Word(index, text, now, now + pace_s / 2))
        now += pace_s
    made = captions(words)
    assert [caption.start_s for caption in made] == [word.start_s for word in words]
    assert all(first.end_s <= second.start_s for first, second in pairwise(made))
    assert all(len(caption.line) <= LINE_CHARACTERS for caption in made)
