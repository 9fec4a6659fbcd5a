"""Counting what was said against what was meant."""

from __future__ import annotations

import pytest

from evaluation.words import compare, total

MEANT = "the quiet river bends around the village".split()


def test_the_same_words_have_no_errors() -> None:
    """What is said as meant counts nothing."""
    errors = compare(MEANT, MEANT)
    assert (errors.rate, errors.lost, errors.added, errors.total) == (0.0, 0, 0, 7)


def test_a_word_left_out_is_lost() -> None:
    """A missing word counts as lost, once, and as nothing else."""
    errors = compare(MEANT, [w for w in MEANT if w != "bends"])
    assert (errors.lost, errors.added, errors.substituted, errors.repeated) == (1, 0, 0, 0)


def test_a_word_said_twice_is_repeated() -> None:
    """A word heard twice in a row counts as added and as repeated."""
    errors = compare(MEANT, "the quiet river river bends around the village".split())
    assert (errors.added, errors.repeated, errors.lost) == (1, 1, 0)


def test_a_phrase_said_twice_is_repeated_word_by_word() -> None:
    """Each word of a short phrase heard twice counts as repeated."""
    errors = compare(MEANT, "the quiet river bends river bends around the village".split())
    assert (errors.added, errors.repeated) == (2, 2)


def test_a_strange_word_is_added_but_not_repeated() -> None:
    """A word that is nowhere near in the text is an addition only."""
    errors = compare(MEANT, "the quiet river bends kettle around the village".split())
    assert (errors.added, errors.repeated) == (1, 0)


def test_another_word_is_substituted() -> None:
    """A word taken for another is neither lost nor added."""
    errors = compare(MEANT, "the quiet winter bends around the village".split())
    assert (errors.substituted, errors.lost, errors.added) == (1, 0, 0)


def test_sums_weigh_by_length() -> None:
    """The rate of a sum is errors over all words, not a mean of rates."""
    both = total([compare(MEANT, MEANT), compare(["sea"], ["c"])])
    assert both.rate == pytest.approx(1 / 8)


def test_nothing_meant_has_rate_zero() -> None:
    """A rate over no words is not a division by zero."""
    assert compare([], ["noise"]).rate == 0.0
