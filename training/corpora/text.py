"""Text for the synthetic corpus: English words and sentences found on any Debian machine with Python.

Words come from the `wamerican` list crossed with the pronouncing dictionary in the `pocketsphinx` wheel; how common
a word is, and whole sentences, come from the prose inside the standard library's sources and the common licences.
Sentences that share a run of four words with the held-out set are left out, so that the evaluation stays unseen.
It knows nothing of sound.
"""

from __future__ import annotations

import collections
import random
import re
import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

WORD_LIST = Path("/usr/share/dict/words")
LICENCES = Path("/usr/share/common-licenses")
SENTENCE = re.compile(r"(?:^|[.!?] )([A-Z][a-z]*(?:,? [a-z]+){3,13})[.!?]")
RUN = 4


def pronounced_words() -> set[str]:
    """Words of the English dictionary that ships with pocketsphinx."""
    lines = (resources.files("pocketsphinx") / "model/en-us/cmudict-en-us.dict").read_text().splitlines()
    return {line.split()[0] for line in lines if line and "(" not in line.split()[0]}


def word_runs(sentence: str, length: int = RUN) -> set[tuple[str, ...]]:
    """Every run of `length` consecutive words of a sentence."""
    words = re.findall(r"[a-z']+", sentence.lower())
    return {tuple(words[i : i + length]) for i in range(len(words) - length + 1)}


def documents() -> Iterator[str]:
    """Plain text of the sources and licences at hand, at most 300,000 characters each."""
    stdlib = Path(sysconfig.get_path("stdlib"))
    paths = sorted(p for p in stdlib.rglob("*.py") if "site-packages" not in p.parts)
    for path in [*paths, *sorted(LICENCES.glob("*"))]:
        yield path.read_text(errors="ignore")[:300_000]


@dataclass(frozen=True)
class TextSource:
    """Sentences and weighted words to draw passages from."""

    sentences: tuple[str, ...]
    common: tuple[str, ...]
    common_weights: tuple[float, ...]
    rare: tuple[str, ...]

    def sentence(self, rng: random.Random) -> str:
        """One sentence: a third are found in prose, the others strings of words, so that every sound is heard."""
        if rng.random() < 0.35:
            return rng.choice(self.sentences)
        words = [self._word(rng) for _ in range(rng.randint(3, 11))]
        if len(words) > 6 and rng.random() < 0.3:
            words[rng.randint(2, len(words) - 3)] += ","
        return " ".join(words)

    def passage(self, rng: random.Random) -> str:
        """One to four sentences, each ended by a full stop."""
        return " ".join(self.sentence(rng) + "." for _ in range(rng.choice((1, 1, 2, 2, 3, 4))))

    def _word(self, rng: random.Random) -> str:
        draw = rng.random()
        if draw < 0.6:
            return rng.choices(self.common, self.common_weights)[0]
        return rng.choice(self.common if draw < 0.8 else self.rare)


def collect(held_out: Iterable[str]) -> TextSource:
    """Reads the documents once and builds the source, keeping clear of the held-out sentences.

    Raises FileNotFoundError with what to install when the word list is missing.
    """
    if not WORD_LIST.exists():
        raise FileNotFoundError(f"{WORD_LIST} is missing: install the Debian package wamerican")
    listed = {line.strip() for line in WORD_LIST.read_text().splitlines()}
    pronounced = pronounced_words()
    forbidden = {run for sentence in held_out for run in word_runs(sentence)}
    counts: collections.Counter[str] = collections.Counter()
    sentences: set[str] = set()
    for text in documents():
        counts.update(re.findall(r"\b[a-z]+\b", text))
        for paragraph in re.split(r"\n\s*\n", text):
            flat = re.sub(r"\s+", " ", re.sub(r"^\s*#", " ", paragraph, flags=re.MULTILINE))
            for sentence in (found.lower() for found in SENTENCE.findall(flat)):
                words = re.findall(r"[a-z]+", sentence)
                if all(w in pronounced and (w in listed or w == "i") for w in words) and not forbidden & word_runs(
                    sentence
                ):
                    sentences.add(sentence)
    known = sorted(w for w in listed if w.isalpha() and w.islower() and w in pronounced and len(w) > 1)
    vocabulary = [*known, "a", "i"]
    common = [w for w in vocabulary if counts[w] >= 3]
    rare = [w for w in vocabulary if counts[w] < 3]
    return TextSource(
        tuple(sorted(sentences)), tuple(common), tuple((counts[w] + 1) ** 0.5 for w in common), tuple(rare)
    )
