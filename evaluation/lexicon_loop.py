"""Words out of phone scores: a Viterbi search over a loop of all the words of a lexicon, every word as likely as any.

    gap ─▶ [ph ε ph ε ... ph] ─▶ gap or next word      one row of states per reading, all rows at once per moment

No language model helps, so what is found is what was heard. Words that share a reading are one word: a judge can hear
`sea` but not spell it. It knows no sound and no training.
O moments, P phone outputs (0 the blank), N states, R readings.
"""

from __future__ import annotations

import gzip
import pathlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources

import numpy as np

from evaluation.judge import BLANK

NEVER = -1e9
LEAST_WORDS = 5000
Reading = tuple[str, ...]


def common_words(texts: Iterable[str], readable: Mapping[str, object], count: int = LEAST_WORDS) -> list[str]:
    """The `count` most common readable words of some texts, most common first."""
    counts = Counter(word for text in texts for word in words_of(text))
    return sorted((w for w in counts if w in readable), key=lambda w: (-counts[w], w))[:count]


def words_of(text: str) -> list[str]:
    """Lower-case words without punctuation."""
    return ["".join(c for c in word if c.isalpha() or c == "'") for word in text.lower().split()]


def dictionary_readings() -> dict[str, list[Reading]]:
    """Readings of the pronouncing dictionary in the pocketsphinx wheel, in lower-case phones."""
    readings: dict[str, list[Reading]] = {}
    lines = (resources.files("pocketsphinx") / "model/en-us/cmudict-en-us.dict").read_text().splitlines()
    for name, *phones in (line.split() for line in lines if line):
        readings.setdefault(name.split("(")[0], []).append(tuple(phone.lower() for phone in phones))
    return readings


def read_lexicon(path: pathlib.Path) -> dict[str, Reading]:
    """Readings by word, from a bundle's lexicon: a word and its phones a line."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return {word: tuple(phones) for word, *phones in (line.split() for line in file) if phones}


def all_readings(
    words: Iterable[str], lexicon: Mapping[str, Reading], dictionary: Mapping[str, Sequence[Reading]]
) -> dict[str, set[Reading]]:
    """Every way each word may be said: as the bundle reads it (the dictionary, where it does not), and with `ah` weak.

    More readings would only make more words sound alike. Raises KeyError for a word that nobody reads.
    """
    weak: dict[str, set[Reading]] = {
        "a": {("ax",), ("ey",)},
        "the": {("dh", "ax"), ("dh", "iy")},
        "to": {("t", "ax"), ("t", "uw")},
        "and": {("ax", "n", "d"), ("ae", "n", "d")},
    }
    found = {}
    for word in words:
        readings = {lexicon[word]} if word in lexicon else set(dictionary.get(word, ()))
        readings |= {tuple("ax" if p == "ah" else p for p in reading) for reading in readings}
        readings |= weak.get(word, set())
        if not readings:
            raise KeyError(f"no reading of {word!r}")
        found[word] = readings
    return found


@dataclass
class Path:
    """Where the best path into each state came from: an index into the list of word ends."""

    score: np.ndarray
    origin: np.ndarray


class LexiconLoop:
    """Decodes phone scores into words."""

    def __init__(
        self, readings: Mapping[str, Iterable[Reading]], phones: Sequence[str], pause: int, penalty: float = -3.0
    ) -> None:
        """phones: names, output i + 1 is phone i; pause: its output; penalty: log score of starting a word."""
        ids = {name: i + 1 for i, name in enumerate(phones)}
        spoken = {w: sorted(r for r in rs if r and all(p in ids for p in r)) for w, rs in readings.items()}
        self.classes = homophones({w: rs for w, rs in spoken.items() if rs})
        self._pause, self.penalty = pause, penalty
        rows: dict[tuple[str, Reading], None] = {(self.classes[w], r): None for w, rs in spoken.items() for r in rs}
        self.words = [word for word, _ in rows]
        labels: list[int] = []
        begins, ends = [], []
        for _, reading in rows:
            begins.append(len(labels))
            labels += [x for phone in reading for x in (ids[phone], BLANK)][:-1]
            ends.append(len(labels) - 1)
        self._labels, self._begins, self._ends = np.array(labels), np.array(begins), np.array(ends)
        is_first = np.isin(np.arange(len(labels)), self._begins)
        twice = np.concatenate([[BLANK, BLANK], self._labels[:-2]])
        can_skip = (self._labels != BLANK) & (twice != self._labels) & ~is_first
        self._step_barrier = np.where(is_first, NEVER, 0.0).astype(np.float32)
        self._skip_barrier = np.where(can_skip, 0.0, NEVER).astype(np.float32)

    def canonical(self, words: Iterable[str]) -> list[str]:
        """Words as this judge can tell them apart."""
        return [self.classes.get(word, word) for word in words]

    def decode(self, scores: np.ndarray) -> list[str]:
        """Log-probabilities (O, P) to words, spelled as `canonical` spells them."""
        scores = scores.astype(np.float32)
        gap_scores = np.logaddexp(scores[:, BLANK], scores[:, self._pause])
        path = Path(np.full(len(self._labels), NEVER, np.float32), np.zeros(len(self._labels), np.int32))
        said: list[tuple[int, int]] = [(-1, -1)]
        gap, gap_origin = 0.0, 0
        for moment in range(len(scores)):
            entry_score, entry_origin, gap_next = self._enter(path, gap, gap_origin, said)
            path = self._advance(path, entry_score, entry_origin)
            path.score += scores[moment, self._labels]
            gap, gap_origin = gap_next[0] + gap_scores[moment], gap_next[1]
        best, origin = self._best_end(path, gap, gap_origin, said)
        assert best > NEVER / 2, "some path must exist: the gap always goes on"
        return self._trace(origin, said)

    def _enter(
        self, path: Path, gap: float, gap_origin: int, said: list[tuple[int, int]]
    ) -> tuple[np.ndarray, np.ndarray, tuple[float, int]]:
        """What entering each reading now would score, and from where; and the gap's own best past.

        Two equal phones in a row need a blank between them, across words as inside them.
        """
        ended = path.score[self._ends]
        best = int(ended.argmax())
        label = self._labels[self._ends[best]]
        others = np.where(self._labels[self._ends] == label, NEVER, ended)
        second = int(others.argmax())
        nexts = [(gap, gap_origin)]
        for reading, score in ((best, float(ended[best])), (second, float(others[second]))):
            said.append((reading, int(path.origin[self._ends[reading]])))
            nexts.append((score, len(said) - 1))
        any_next, other_next = max(nexts), max(nexts[0], nexts[2])
        same = self._labels[self._begins] == label
        entry = np.where(same, other_next[0], any_next[0]) + self.penalty
        return entry, np.where(same, other_next[1], any_next[1]), any_next

    def _advance(self, path: Path, entry: np.ndarray, entry_origin: np.ndarray) -> Path:
        """Stay, step to the next state, or skip a blank; or enter a reading."""
        score, origin = path.score.copy(), path.origin.copy()
        for distance, barrier in ((1, self._step_barrier), (2, self._skip_barrier)):
            came = path.score[:-distance] + barrier[distance:]
            better = came > score[distance:]
            np.copyto(score[distance:], came, where=better)
            np.copyto(origin[distance:], path.origin[:-distance], where=better)
        better = entry > score[self._begins]
        score[self._begins[better]] = entry[better]
        origin[self._begins[better]] = entry_origin[better]
        return Path(score, origin)

    def _best_end(self, path: Path, gap: float, gap_origin: int, said: list[tuple[int, int]]) -> tuple[float, int]:
        ended = path.score[self._ends]
        best = int(ended.argmax())
        said.append((best, int(path.origin[self._ends[best]])))
        return max((gap, gap_origin), (float(ended[best]), len(said) - 1))

    def _trace(self, origin: int, said: Sequence[tuple[int, int]]) -> list[str]:
        words = []
        while origin > 0:
            reading, origin = said[origin]
            words.append(self.words[reading])
        return words[::-1]


def homophones(readings: Mapping[str, Sequence[Reading]]) -> dict[str, str]:
    """The word that stands for each: the first in the alphabet of those that share a reading, directly or by others."""
    leader = {word: word for word in readings}

    def find(word: str) -> str:
        while leader[word] != word:
            word = leader[word]
        return word

    owner: dict[Reading, str] = {}
    for word in sorted(readings):
        for reading in readings[word]:
            first, second = sorted((find(owner.setdefault(reading, word)), find(word)))
            leader[second] = first
    return {word: find(word) for word in readings}
