"""The second judge: pocketsphinx, which this project did not train, with every held-out word as likely as any.

The closed vocabulary makes its task easier than the first judge's, its ear for human voices makes it harder; it is a
cross-check, not a second opinion on the same scale.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from pocketsphinx import Decoder
from scipy.signal import resample_poly

from evaluation.lexicon_loop import Reading, words_of

RATE = 16_000
QUIET_S = 0.25
"""Silence put around an utterance, which the decoder needs to settle."""


def write_unigram(words: Sequence[str], path: Path) -> None:
    """An ARPA language model in which each word, and the end, is equally likely."""
    likely = math.log10(1 / (len(words) + 1))
    lines = [
        "\\data\\",
        f"ngram 1={len(words) + 2}",
        "",
        "\\1-grams:",
        "-99 <s>",
        f"{likely:.4f} </s>",
        *(f"{likely:.4f} {word}" for word in words),
        "",
        "\\end\\",
        "",
    ]
    path.write_text("\n".join(lines))


def write_dictionary(words: Iterable[str], readings: Mapping[str, Sequence[Reading]], path: Path) -> None:
    """A pronouncing dictionary of some words. Raises KeyError for one without a reading."""
    lines = []
    for word in words:
        for number, reading in enumerate(readings[word], 1):
            lines.append(f"{word if number == 1 else f'{word}({number})'} {' '.join(reading).upper()}")
    path.write_text("\n".join(lines) + "\n")


class Sphinx:
    """Recognises utterances made of the words of some texts."""

    def __init__(self, texts: Iterable[str], readings: Mapping[str, Sequence[Reading]]) -> None:
        words = sorted({word for text in texts for word in words_of(text)})
        with tempfile.TemporaryDirectory(prefix="cuelight-sphinx-") as folder:
            model, dictionary = (Path(folder) / name for name in ("words.arpa", "words.dict"))
            write_unigram(words, model)
            write_dictionary(words, readings, dictionary)
            self._decoder = Decoder(lm=str(model), dict=str(dictionary), samprate=RATE, loglevel="FATAL")

    def recognise(self, samples: np.ndarray, sample_rate: int) -> list[str]:
        """Words of an utterance (S,)."""
        divisor = math.gcd(RATE, sample_rate)
        heard = resample_poly(samples, RATE // divisor, sample_rate // divisor)
        padded = np.pad(heard, round(QUIET_S * RATE))
        pcm = (np.clip(padded, -1, 1) * 32767).astype("<i2").tobytes()
        self._decoder.start_utt()
        self._decoder.process_raw(pcm, full_utt=True)
        self._decoder.end_utt()
        hypothesis = self._decoder.hyp()
        found = hypothesis.hypstr.split() if hypothesis else []
        return [word.split("(")[0] for word in found if not word.startswith("<")]
