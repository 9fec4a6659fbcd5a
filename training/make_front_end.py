"""Stage 1c: lexicon and letter-to-sound net, both made from flite's readings: `python -m training.make_front_end`."""

from __future__ import annotations

import argparse
import gzip
import random
import string
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from orchestrator_llm.model.letter_to_sound import LETTERS, LetterToSound, LetterToSoundConfig
from orchestrator_llm.model.text import PAUSE
from training.corpora.shards import read_corpus
from training.corpora.speech import phones_of
from training.corpora.text import WORD_LIST, pronounced_words
from training.loop import Budget, Loop, Losses

AT_ONCE = 40
LONGEST = 24


def read_words(words: list[str]) -> dict[str, tuple[str, ...]]:
    """Phones of each word alone; words whose reading has a pause of its own are left out."""
    readings: dict[str, tuple[str, ...]] = {}
    for i in range(0, len(words), AT_ONCE):
        some = words[i : i + AT_ONCE]
        spoken = " ".join(phones_of(", ".join(some))).split(PAUSE)
        parts = [tuple(part.split()) for part in spoken if part.strip()]
        if len(parts) == len(some):
            readings |= dict(zip(some, parts, strict=True))
    return readings


def letter_names() -> dict[str, tuple[str, ...]]:
    """Names of letters under `a.` to `z.`, for acronyms."""
    names = read_words(list(string.ascii_lowercase[1:]))
    return {f"{letter}.": phones for letter, phones in names.items()} | {"a.": ("ey",)}


def batch(
    rng: random.Random, words: list[str], readings: dict[str, tuple[str, ...]], ids: dict[str, int], count: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Letters (B, L), phones (sum,), phone counts (B,)."""
    some = rng.choices(words, k=count)
    letters = torch.zeros(count, LONGEST, dtype=torch.long)
    for row, word in enumerate(some):
        letters[row, : len(word)] = torch.tensor([1 + LETTERS.index(c) for c in word])
    phones = [ids[p] + 1 for word in some for p in readings[word]]
    return letters, torch.tensor(phones), torch.tensor([len(readings[w]) for w in some])


def ctc(net: LetterToSound, drawn: tuple[Tensor, Tensor, Tensor]) -> Losses:
    """CTC of the phones given the letters."""
    letters, phones, counts = drawn
    scores = net(letters).float().log_softmax(-1).transpose(0, 1)
    lengths = 2 * (letters > 0).sum(1)
    return {"ctc": F.ctc_loss(scores, phones, lengths, counts, zero_infinity=True)}


def accuracy(
    net: LetterToSound, words: list[str], readings: dict[str, tuple[str, ...]], phones: list[str]
) -> dict[str, float]:
    """Share of unseen words read exactly."""
    right = sum(tuple(phones[i] for i in net.read(word)) == readings[word] for word in words)
    return {"val_words_right": right / len(words)}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpus", type=Path, default=Path("data/corpus"))
    parser.add_argument("--checkpoints", type=Path, default=Path("data/checkpoints"))
    parser.add_argument("--samples", type=int, default=500_000)
    parser.add_argument("--minutes", type=float, default=600.0)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    phones = sorted({name for p in read_corpus(options.corpus) for name in p.phones})
    ids = {name: i for i, name in enumerate(phones)}
    listed = sorted({w.strip() for w in WORD_LIST.open()} & {*pronounced_words(), "i", "a"} | {"i", "a"})
    plain = [w for w in listed if len(w) <= LONGEST and set(w) <= set(LETTERS)]
    readings = {w: r for w, r in read_words(plain).items() if set(r) <= set(phones) and len(r) <= 2 * len(w)}
    with gzip.GzipFile(options.checkpoints / "lexicon.txt.gz", "wb", mtime=0) as file:
        for word, reading in sorted((readings | letter_names()).items()):
            file.write(f"{word} {' '.join(reading)}\n".encode())
    shuffled = sorted(readings)
    random.Random(0).shuffle(shuffled)
    unseen, seen = shuffled[:1000], shuffled[1000:]
    net, rng = LetterToSound(LetterToSoundConfig(phones=len(phones))), random.Random(1)
    loop = Loop(
        net,
        options.checkpoints / "letters",
        Budget(options.samples, options.minutes, 64, rate=2e-3),
        lambda _: False,
    )
    loop.resume()
    loop.run(lambda: ctc(net, batch(rng, seen, readings, ids, 64)), lambda: accuracy(net, unseen, readings, phones))


if __name__ == "__main__":
    main()
