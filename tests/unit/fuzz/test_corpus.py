"""What fuzzing once broke, and what it reaches most code with, does not break anything any more."""

from __future__ import annotations

import warnings

import pytest

from tests.fuzz.targets import CORPUS, TARGETS


@pytest.mark.parametrize("name", TARGETS)
def test_the_saved_corpus_breaks_nothing(name: str) -> None:
    """Each saved input holds what its target claims for all bytes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, of pictures that are broken on purpose
        for saved in TARGETS[name].corpus:
            TARGETS[name].take(saved.read_bytes())


def test_each_target_has_a_corpus_that_stays_small() -> None:
    """A file of a few kilobytes each, and no folder that nothing reads."""
    assert {folder.name for folder in CORPUS.iterdir()} == set(TARGETS)
    sizes = [saved.stat().st_size for target in TARGETS.values() for saved in target.corpus]
    assert sizes and max(sizes) <= 16_384 and sum(sizes) <= 512 * 1024
