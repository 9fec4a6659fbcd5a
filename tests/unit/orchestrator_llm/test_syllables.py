"""Counting syllables, and how fast a bundle speaks."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from orchestrator_llm.engine.pace import ENOUGH_CHUNKS, SpeakingRate
from orchestrator_llm.engine.syllables import SyllableCounter, by_rule
from orchestrator_llm.model.text import VOWELS
from services.bundle import load_bundle

POCKET = Path(__file__).resolve().parents[3] / "bundles" / "pocket"


@pytest.mark.parametrize(
    ("word", "syllables"),
    [
        ("cake", 1), ("table", 2), ("wanted", 2), ("baked", 1), ("boxes", 2), ("cakes", 1), ("settled", 2),
        ("lighthouse", 2), ("nation", 2), ("theory", 3), ("rhythm", 2), ("the", 1), ("über", 2),
        ("I'm", 1), ("7", 1), ("1984", 5), ("...", 0), ("こんにちは", 5), ("안녕하세요", 5), ("你好", 2), ("привет", 2),
        ("NBC", 3), ("—", 0), ("", 0),
    ],
)  # fmt: skip
def test_words_of_many_scripts_have_syllables(word: str, syllables: int) -> None:
    """The rules know English best, and read other scripts by their vowels or blocks."""
    assert by_rule(word) == syllables


def test_the_rules_agree_with_the_lexicon() -> None:
    """Of every eighth word of the pocket's lexicon nine in ten have as many syllables as phones have vowels."""
    right = words = ours = theirs = 0
    with gzip.open(load_bundle(POCKET).file("lexicon.txt.gz"), "rt") as file:
        for word, *phones in (line.split() for line in list(file)[::8]):
            if word.isalpha() and phones:
                known, found = sum(phone in VOWELS for phone in phones), by_rule(word)
                right, words = right + (known == found), words + 1
                ours, theirs = ours + found, theirs + known
    assert right / words > 0.9
    assert abs(ours / theirs - 1) < 0.02, "over a text the errors cancel"


def test_known_phones_come_before_rules() -> None:
    """A word of the front-end's lexicon counts by its phones, any other by rule."""
    counter = SyllableCounter({"chocolate": 2}.get)
    assert counter.of("chocolate banana") == 5
    assert counter.each(["chocolate", "banana"]) == [2, 3]


def test_the_rate_is_measured_once_there_is_enough() -> None:
    """A guess holds until a few chunks were heard; then their median, within what a voice can do."""
    rate = SpeakingRate(4.5)
    for _ in range(ENOUGH_CHUNKS - 1):
        rate.add(6.0, 2.0)
    assert rate.per_second == 4.5
    rate.add(6.0, 2.0)
    assert rate.per_second == 3.0
    for _ in range(200):
        rate.add(100.0, 1.0)
    assert rate.per_second == 12.0
