"""Both judges and what they say of a set of utterances: phone and word error rates, words lost and repeated.

The first judge's word penalty is tuned on true speech of the corpus that neither it nor any model has learned from,
never on the held-out sentences. It knows no models of ours.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from dit_worker.model.codec import AudioCodec
from evaluation.judge import PAUSE, Judge, at_level, listen, load_judge
from evaluation.lexicon_loop import LexiconLoop, Reading, all_readings, common_words, dictionary_readings, words_of
from evaluation.sphinx import Sphinx
from evaluation.texts import held_out_sentences, held_out_texts
from evaluation.words import Errors, compare, total

__all__ = ["Panel", "Verdict", "held_out_sentences", "tune"]

PENALTIES = (-1.0, -2.0, -4.0, -6.0, -8.0)
TUNING_PASSAGES = 40
"""Over all voices of the corpus."""
TUNING_FRAMES = 900
"""Passages are shorter than so many log-mel frames."""
TUNING_NOISE = 0.7
"""Deviation of the noise that half of them are heard through, in nepers: generated speech is never quite clean."""
LETTERS_THAT_ARE_WORDS = "ai"
"""Names of other letters are no words of a transcript: `the sea` is not `thus e`."""
PENALTY_FILE = "penalty.json"


@dataclass(frozen=True)
class Verdict:
    """What the panel says of some utterances. `heard` are the first judge's words, utterance by utterance."""

    phones: Errors[int]
    words: Errors[str]
    sphinx_words: Errors[str] | None
    heard: list[list[str]]

    def summary(self) -> dict[str, float | int]:
        """Figures for a report; rates in [0, 1] and above."""
        figures: dict[str, float | int] = {
            "phone_error_rate": round(self.phones.rate, 4),
            "word_error_rate": round(self.words.rate, 4),
            "words": self.words.total,
            "words_lost": self.words.lost,
            "words_substituted": self.words.substituted,
            "words_added": self.words.added,
            "words_repeated": self.words.repeated,
        }
        if self.sphinx_words is not None:
            figures["sphinx_word_error_rate"] = round(self.sphinx_words.rate, 4)
        return figures


@dataclass(frozen=True)
class Panel:
    """The two judges, ready."""

    judge: Judge
    loop: LexiconLoop
    sphinx: Sphinx
    codec: AudioCodec

    @staticmethod
    def convene(folder: Path, codec: AudioCodec, lexicon: Mapping[str, Reading], corpus: Path) -> Panel:
        """Loads the judge and prepares its lexicon; tunes the penalty the first time. Raises FileNotFoundError."""
        judge, dictionary = load_judge(folder), dictionary_readings()
        words = _vocabulary(folder, corpus, lexicon)
        loop = LexiconLoop(
            all_readings(words, lexicon, dictionary), judge.config.phones, judge.config.phones.index(PAUSE) + 1
        )
        loop.penalty = _penalty(folder, judge, loop, corpus)
        return Panel(judge, loop, Sphinx(held_out_texts(), dictionary), codec)

    def hear(
        self,
        utterances: Sequence[np.ndarray],
        texts: Sequence[str],
        phones: Sequence[Sequence[str]],
        with_sphinx: bool = True,
        progress: Callable[[], object] | None = None,
    ) -> Verdict:
        """Judges utterances (S,) at the codec's rate against what they should say."""
        phone_errors, word_errors, sphinx_errors, heard = [], [], [], []
        for samples, text, meant in zip(utterances, texts, phones, strict=True):
            told = listen(self.judge, self.codec, samples)
            words = self.loop.canonical(words_of(text))
            heard.append(self.loop.decode(told.scores))
            phone_errors.append(compare(self.judge.ids(meant), told.phones))
            word_errors.append(compare(words, heard[-1]))
            if with_sphinx:
                found = self.sphinx.recognise(at_level(samples), self.codec.config.sample_rate)
                sphinx_errors.append(compare(words, self.loop.canonical(found)))
            if progress is not None:
                progress()
        return Verdict(total(phone_errors), total(word_errors), total(sphinx_errors) if with_sphinx else None, heard)


def _vocabulary(folder: Path, corpus: Path, lexicon: Mapping[str, Reading]) -> list[str]:
    """The judge's words, kept beside it, so that it can be used without the corpus."""
    stored = folder / "words.txt"
    if stored.exists():
        common = stored.read_text().split()
    else:
        texts = [meta["text"] for path in sorted(corpus.glob("*.json")) for meta in json.loads(path.read_text())]
        common = common_words(texts, lexicon)
        stored.write_text("\n".join(common) + "\n")
    common = [word for word in common if len(word) > 1 or word in LETTERS_THAT_ARE_WORDS]
    return sorted({*common, *(word for text in held_out_texts() for word in words_of(text))})


def _penalty(folder: Path, judge: Judge, loop: LexiconLoop, corpus: Path) -> float:
    """The word penalty kept beside the judge, tuned when there is none; of equals the one that finds fewer words."""
    stored = folder / PENALTY_FILE
    if not stored.exists():
        rates = tune(judge, loop, corpus)
        best = min(rates, key=lambda penalty: (rates[penalty], penalty))
        stored.write_text(
            json.dumps({"penalty": best, "dev_word_error_rates": {str(p): r for p, r in rates.items()}}, indent=1)
            + "\n"
        )
    return float(json.loads(stored.read_text())["penalty"])


@torch.inference_mode()
def tune(judge: Judge, loop: LexiconLoop, corpus: Path) -> dict[float, float]:
    """Word error rate of true dev speech for each penalty tried, as it is and through noise, both together."""
    from evaluation.train_judge import dev_shards
    from training.corpora.shards import read_shard

    scored, generator = [], torch.Generator().manual_seed(3)
    shards = dev_shards(corpus)
    for shard in shards:
        known = [p for p in read_shard(shard) if all(word in loop.classes for word in words_of(p.text))]
        short = [p for p in known if len(p.log_mel) < TUNING_FRAMES]
        for passage in short[: max(1, TUNING_PASSAGES // len(shards))]:
            log_mel = torch.from_numpy(passage.log_mel.astype(np.float32))
            noisy = log_mel + TUNING_NOISE * torch.randn(log_mel.shape, generator=generator)
            words = loop.canonical(words_of(passage.text))
            scored += [(words, judge(heard[None])[0].log_softmax(-1).numpy()) for heard in (log_mel, noisy)]
    if not scored:
        raise FileNotFoundError(f"no passage in {corpus} whose words the judge knows")
    rates = {}
    for penalty in tqdm(PENALTIES, desc="tuning the word penalty"):
        loop.penalty = penalty
        rates[penalty] = round(total(compare(words, loop.decode(scores)) for words, scores in scored).rate, 4)
    return rates
