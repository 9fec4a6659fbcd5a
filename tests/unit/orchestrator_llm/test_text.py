"""The text front-end on whatever clients may write."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator_llm.model.text import TextFrontEnd
from services.bundle import load_bundle

written = st.one_of(
    st.text(max_size=40),
    st.text(alphabet="0123456789.,stndrh%$- ", max_size=24),
    st.text(alphabet="aA'’.,!?\x00\x01\x85😀 \u200d\ufe0f´½²", max_size=24),
)


@pytest.fixture(scope="session")
def front_end(tiny_bundle: Path) -> TextFrontEnd:
    """The front-end of the tiny bundle."""
    return TextFrontEnd.load(tiny_bundle, load_bundle(tiny_bundle).manifest.text)


@settings(deadline=None)
@given(text=written)
def test_words_are_what_white_space_divides(front_end: TextFrontEnd, text: str) -> None:
    """Every word keeps its place and its tokens follow one another, whatever is written."""
    utterance = front_end.tokenize(text, 7)
    assert [word.index for word in utterance.words] == list(range(7, 7 + len(text.split())))
    end = 0
    for word in utterance.words:
        assert end <= word.begin <= word.end <= len(utterance.tokens)
        assert not any(character < " " for character in word.text)
        end = word.end
    silent = [word for word in utterance.words if word.begin == word.end]
    assert len(utterance.notices) == len(silent)


@pytest.mark.parametrize("text", ["1.5th", "12:30", "3rd", "1,000,000th", "0.0000001", "9" * 40, "1e10", "５％", "½"])
def test_numbers_of_any_form_are_spoken(front_end: TextFrontEnd, text: str) -> None:
    """No number is an error and none is passed over."""
    assert front_end.tokenize(text).words[0].end > 0


def test_what_cannot_be_spoken_is_named(front_end: TextFrontEnd) -> None:
    """An emoji keeps its place without a sound, and a notice says so."""
    utterance = front_end.tokenize("hello 😀 there")
    assert [word.end - word.begin for word in utterance.words] == [4, 0, 3]
    assert utterance.notices == ["cannot be spoken and is passed over: 😀"]


def test_words_of_no_lexicon_and_of_other_scripts_are_spelled_by_sound(front_end: TextFrontEnd) -> None:
    """Unknown words are read by their letters."""
    utterance = front_end.tokenize("zxqvbn привет 日本語")
    assert all(word.end > word.begin for word in utterance.words)
    assert utterance.notices == []
