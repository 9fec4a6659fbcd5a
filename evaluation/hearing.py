"""What is heard in one take, as plain figures: words by both judges, where the pointer should have been, the voice.

The truth about times is the first judge's: it hears phones, these are aligned with those that were meant, and between
phones that agree the place in the text is interpolated. Against the synthesiser's own times this is off by what the
report gives as the judge's floor. It knows no models and no pictures.
P phones, F log-mel frames, M mel bands, S samples.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np
from rapidfuzz.distance import Levenshtein

from dit_worker.model.codec import AudioCodec
from evaluation.judge import PAUSE, at_level, listen
from evaluation.lexicon_loop import words_of
from evaluation.panel import Panel
from evaluation.takes import SpokenWord
from evaluation.voices import log_mel_of
from evaluation.words import compare, mistakes

VOICED_SHARE = 0.5
"""An autocorrelation so high, against that at lag 0, makes a frame voiced."""
LOWEST_HZ, HIGHEST_HZ = 60.0, 400.0
PITCH_FRAME_S, PITCH_HOP_S = 0.04, 0.02
QUIET_SHARE = 0.25
"""The quietest quarter of the frames is left out of a voice's mean spectrum: it is pauses."""


@dataclass(frozen=True)
class Reading:
    """A text as phones, pauses left out: P names, and where each begins, in words and shares of a word."""

    phones: tuple[str, ...]
    places: np.ndarray
    words_total: int

    @staticmethod
    def of(words: Sequence[Sequence[str]]) -> Reading:
        """words: the phones of each word."""
        spoken = [[phone for phone in phones if phone != PAUSE] for phones in words]
        places = [i + k / len(phones) for i, phones in enumerate(spoken) for k in range(len(phones))]
        return Reading(tuple(p for phones in spoken for p in phones), np.array(places), len(spoken))

    def until(self, words: int) -> Reading:
        """The reading of the first words alone."""
        count = int((self.places < words).sum())
        return Reading(self.phones[:count], self.places[:count], min(words, self.words_total))


@dataclass(frozen=True)
class Timing:
    """Phones that agree with what was meant: where each begins in the text, and the second it was heard."""

    places: np.ndarray
    seconds: np.ndarray

    @staticmethod
    def of(reading: Reading, heard: Sequence[tuple[str, float]]) -> Timing:
        """heard: phones by name with the second each was first heard, pauses included."""
        spoken = [(name, moment) for name, moment in heard if name != PAUSE]
        pairs = [
            (reading.places[block.src_start + k], spoken[block.dest_start + k][1])
            for block in Levenshtein.opcodes(reading.phones, [name for name, _ in spoken])
            if block.tag == "equal"
            for k in range(block.src_end - block.src_start)
        ]
        places, seconds = np.array(pairs).reshape(-1, 2).T
        return Timing(places, seconds)

    def pointer_errors(self, pointers: Sequence[float], chunk_s: float) -> list[float]:
        """Pointer less the place heard at each chunk's end, in words; ends outside what was heard are left out."""
        ends = chunk_s * (1 + np.arange(len(pointers)))
        return [
            round(float(pointer - np.interp(end, self.seconds, self.places)), 3)
            for pointer, end in zip(pointers, ends, strict=True)
            if len(self.seconds) > 1 and self.seconds[0] < end < self.seconds[-1]
        ]

    def word_errors(self, words: Sequence[SpokenWord]) -> list[float]:
        """Told beginning of each word less the second its first phone was heard, where that phone was."""
        first = {int(place): s for place, s in zip(self.places, self.seconds, strict=True) if float(place).is_integer()}
        return [round(word.start_s - first[word.index], 3) for word in words if word.index in first]


def hear(panel: Panel, samples: np.ndarray, text: str, reading: Reading, with_sphinx: bool = True) -> dict[str, Any]:
    """What both judges hear of samples (S,) that should say a text; counts as `Errors` has them."""
    told = listen(panel.judge, panel.codec, samples)
    meant = panel.loop.canonical(words_of(text))
    heard = panel.loop.decode(told.scores)
    lost, repeated = mistakes(meant, heard)
    figures: dict[str, Any] = {
        "phones": astuple(compare(panel.judge.ids(reading.phones), told.phones)),
        "words": astuple(compare(meant, heard)),
        "lost": sorted(lost),
        "repeated": sorted(repeated),
        "meant": " ".join(meant),
        "heard": " ".join(heard),
        "timed": [(name, round(moment, 3)) for name, moment in told.timed],
    }
    if with_sphinx:
        found = panel.loop.canonical(panel.sphinx.recognise(at_level(samples), panel.codec.config.sample_rate))
        also_lost, also_repeated = mistakes(meant, found)
        figures["sphinx"] = astuple(compare(meant, found))
        figures["lost_by_both"] = sorted(lost & also_lost)
        figures["repeated_by_both"] = sorted(repeated & also_repeated)
    return figures


def edges_of(heard: Sequence[tuple[str, float]]) -> tuple[list[str], np.ndarray]:
    """Phones that were heard and P + 1 seconds between them, as the renderer wants them."""
    timed = list(heard) or [(PAUSE, 0.0)]
    middles = np.array([moment for _, moment in timed])
    first = [max(0.0, middles[0] - 0.05)]
    return [name for name, _ in timed], np.concatenate([first, (middles[1:] + middles[:-1]) / 2, [middles[-1] + 0.05]])


def renderer_mouth(timed: Sequence[tuple[str, float]], loud: np.ndarray) -> np.ndarray:
    """How open the corpus's renderer would draw the mouth for phones heard at these seconds: loud (N,) to (N,)."""
    from training.corpora.faces import poses

    names, edges = edges_of(timed)
    return np.array([pose.open for pose in poses(names, edges, loud, len(loud), random.Random(0))])


def mean_spectrum(codec: AudioCodec, samples: np.ndarray) -> np.ndarray:
    """The mean log-mel (M,) of what is not quiet, its own mean taken away: the colour of a voice without its level."""
    log_mel = log_mel_of(codec, at_level(samples))
    loud = log_mel.mean(1)
    kept = log_mel[loud >= np.quantile(loud, QUIET_SHARE)]
    mean = kept.mean(0)
    return np.asarray(mean - mean.mean())


def median_pitch(samples: np.ndarray, sample_rate: int) -> float:
    """Median fundamental frequency in Hz of the voiced frames, by autocorrelation; 0 where nothing is voiced."""
    size, hop = round(PITCH_FRAME_S * sample_rate), round(PITCH_HOP_S * sample_rate)
    if len(samples) < size:
        return 0.0
    frames = np.lib.stride_tricks.sliding_window_view(samples, size)[::hop] * np.hanning(size)
    loud = np.square(frames).mean(1)
    frames = frames[loud > 0.1 * loud.mean()]
    spectrum = np.abs(np.fft.rfft(frames, 2 * size, axis=1)) ** 2
    own = np.fft.irfft(spectrum, axis=1)[:, :size]
    own = own / (own[:, :1] + 1e-12) / np.linspace(1, 0.3, size)
    shortest, longest = int(sample_rate / HIGHEST_HZ), int(sample_rate / LOWEST_HZ)
    lags = own[:, shortest:longest].argmax(1) + shortest
    voiced = own[np.arange(len(own)), lags] > VOICED_SHARE
    return round(float(np.median(sample_rate / lags[voiced])), 1) if voiced.any() else 0.0
