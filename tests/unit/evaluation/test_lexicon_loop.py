"""The word loop finds the words that phone scores spell, and no others."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from evaluation.judge import BLANK, collapse
from evaluation.lexicon_loop import LexiconLoop, all_readings, common_words, homophones, words_of

PHONES = ["ae", "ax", "b", "dh", "iy", "k", "l", "n", "ow", "pau", "s", "t"]
PAUSE = PHONES.index("pau") + 1
LEXICON = {"cat": ("k", "ae", "t"), "black": ("b", "l", "ae", "k"), "at": ("ae", "t"), "sea": ("s", "iy"),
           "see": ("s", "iy"), "no": ("n", "ow"), "know": ("n", "ow"), "tea": ("t", "iy")}  # fmt: skip


def make_loop(penalty: float = -2.0) -> LexiconLoop:
    """A loop over eight words."""
    return LexiconLoop(all_readings(LEXICON, LEXICON, {}), PHONES, PAUSE, penalty)


def scores_of(outputs: Sequence[int], sure: float = 0.97) -> np.ndarray:
    """Log-probabilities that favour one output at each moment."""
    scores = np.full((len(outputs), len(PHONES) + 1), (1 - sure) / len(PHONES))
    scores[np.arange(len(outputs)), outputs] = sure
    return np.log(scores)


def spell(*phones: str, between: int = 1) -> list[int]:
    """Each phone for two moments, blanks between; an empty name is a longer gap."""
    outputs: list[int] = []
    for phone in phones:
        outputs += [PHONES.index(phone) + 1] * 2 if phone else [BLANK] * 3
        outputs += [BLANK] * between
    return outputs


def test_words_are_found_in_order() -> None:
    """Two words with a gap between are heard as these two."""
    assert make_loop().decode(scores_of(spell("k", "ae", "t", "", "t", "iy"))) == ["cat", "tea"]


def test_pauses_separate_words() -> None:
    """The pause phone is as good as silence between words."""
    assert make_loop().decode(scores_of(spell("k", "ae", "t", "pau", "pau", "n", "ow"))) == ["cat", "know"]


def test_words_without_a_gap_are_found() -> None:
    """Words may follow one another at once, without blanks between unlike phones."""
    assert make_loop().decode(scores_of(spell("n", "ow", "k", "ae", "t", between=0))) == ["know", "cat"]


def test_equal_phones_across_words_need_two_sounds() -> None:
    """One long k is not enough for `black cat`; with a blank between two k's it is."""
    separate = [PHONES.index(p) + 1 for p in ("b", "l", "ae", "k")] + [
        BLANK,
        *(PHONES.index(p) + 1 for p in ("k", "ae", "t")),
    ]
    joined = [PHONES.index(p) + 1 for p in ("b", "l", "ae", "k", "k", "ae", "t")]
    assert make_loop().decode(scores_of(separate)) == ["black", "cat"]
    assert make_loop().decode(scores_of(joined)) == ["black", "at"]


def test_words_that_sound_alike_are_one_word() -> None:
    """Homophones share a spelling, so that hearing `sea` as `see` is no error."""
    loop = make_loop()
    assert loop.canonical(["sea", "see", "no", "cat"]) == ["sea", "sea", "know", "cat"]
    assert loop.decode(scores_of(spell("s", "iy"))) == ["sea"]


def test_a_heavy_penalty_silences() -> None:
    """Starting a word costs the penalty: at a prohibitive one only gaps are left."""
    assert make_loop(-1000.0).decode(scores_of(spell("k", "ae", "t"), 0.6)) == []


def test_silence_says_nothing() -> None:
    """Nothing but blanks is no word."""
    assert make_loop().decode(scores_of([BLANK] * 20)) == []


def test_the_search_is_as_good_as_trying_every_pair() -> None:
    """On random scores no sequence of up to two words scores better than the one that is found."""
    rng, loop = np.random.default_rng(3), make_loop(-1.0)
    readings = {word: LEXICON[word] for word in sorted(set(loop.classes.values()))}
    for _ in range(20):
        scores = np.log(rng.dirichlet(np.full(len(PHONES) + 1, 0.3), 7) + 1e-6)
        said = loop.decode(scores)
        tried = [[], *([w] for w in readings), *([v, w] for v in readings for w in readings)]
        best = max(best_path(scores, [readings[w] for w in words], loop.penalty) for words in tried)
        assert best_path(scores, [readings[w] for w in said], loop.penalty) >= best - 1e-4


def best_path(scores: np.ndarray, words: Sequence[Sequence[str]], penalty: float) -> float:
    """The Viterbi score of one sequence of words, computed plainly, state by state."""
    gap = np.logaddexp(scores[:, BLANK], scores[:, PAUSE])
    labels: list[int] = [-1]
    for word in words:
        for i, phone in enumerate(word):
            labels += [PHONES.index(phone) + 1, BLANK if i < len(word) - 1 else -1]
    best = np.full(len(labels), -np.inf)
    for moment, row in enumerate(scores):
        came = best.copy()
        came[1:] = np.maximum(came[1:], best[:-1])
        for i in range(2, len(labels)):
            if labels[i] > 0 and labels[i] != labels[i - 2]:
                came[i] = max(came[i], best[i - 2])
        if moment == 0:
            came[:2] = 0.0
        best = came + np.array([gap[moment] if label == -1 else row[label] for label in labels])
    return float(best[-2:].max()) + penalty * len(words)


def test_collapse_drops_repeats_and_blanks() -> None:
    """CTC's rule: a repeat counts once unless a blank stands between."""
    assert collapse([0, 3, 3, 0, 3, 5, 5, 0]) == [(3, 1), (3, 4), (5, 5)]


def test_common_words_come_from_the_texts_alone() -> None:
    """Most common first, readable ones only."""
    assert common_words(["a cat. a cat, sat", "a dog"], {"a": (), "cat": (), "dog": ()}, 2) == ["a", "cat"]


def test_a_word_nobody_reads_is_refused() -> None:
    """A word without a reading is named."""
    with pytest.raises(KeyError, match="xyzzy"):
        all_readings(["xyzzy"], LEXICON, {})


def test_weak_vowels_are_other_readings() -> None:
    """`ah` may be said as `ax`, and articles both ways."""
    readings = all_readings(["but", "the"], {"but": ("b", "ah", "t"), "the": ("dh", "ax")}, {})
    assert readings["but"] == {("b", "ah", "t"), ("b", "ax", "t")}
    assert readings["the"] == {("dh", "ax"), ("dh", "iy")}


def test_homophones_are_joined_through_others() -> None:
    """If a sounds like b and b like c, all three are one."""
    assert set(homophones({"a": [("x",)], "b": [("x",), ("y",)], "c": [("y",)]}).values()) == {"a"}


def test_words_lose_punctuation_and_capitals() -> None:
    """Only letters and apostrophes count."""
    assert words_of("The Sea, isn't it?") == ["the", "sea", "isn't", "it"]
