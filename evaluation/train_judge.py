"""Trains the first judge on true speech of the corpus: `python -m evaluation.train_judge --minutes 8`.

Every voice of the corpus is heard, through noise, at many levels and with parts of the spectrum missing, so that the
judge hears words rather than the marks of one recording. The last shard of each voice is kept for measuring.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from rapidfuzz.distance import Levenshtein
from torch import Tensor

from dit_worker.model.codec import FLOOR
from evaluation.judge import FRAMES_PER_OUTPUT, PAUSE, Judge, JudgeConfig, collapse, save_config
from training.corpora.shards import Passage, read_shard
from training.loop import Budget, Loop, Losses

FRAME_RATE = 96
SILENCE = float(np.log(FLOOR))


def dev_shards(corpus: Path) -> list[Path]:
    """The last shard of each voice, which the judge never learns from."""
    voices: dict[str, Path] = {}
    for path in sorted(corpus.glob("*.npz")):
        if not path.name.endswith(".partial.npz"):
            voices[path.stem.rsplit("-", 1)[0]] = path
    if not voices:
        raise FileNotFoundError(f"no shards in {corpus}: run `python -m training.make_corpus` first")
    return list(voices.values())


def train_passages(corpus: Path) -> list[Passage]:
    """Every passage but those of the dev shards."""
    kept = set(dev_shards(corpus))
    paths = [p for p in sorted(corpus.glob("*.npz")) if p not in kept and not p.name.endswith(".partial.npz")]
    return [passage for path in paths for passage in read_shard(path)]


def cut(passage: Passage, rng: random.Random, seconds: float) -> tuple[np.ndarray, tuple[str, ...]]:
    """A stretch of about `seconds` between two phone borders: log-mel (F, M) and its phones."""
    edges = np.concatenate([[0.0], passage.ends])
    first = rng.randrange(max(1, int(np.searchsorted(edges, edges[-1] - seconds))))
    last = max(first + 1, int(np.searchsorted(edges, edges[first] + seconds)))
    begin, end = (int(edges[min(i, len(edges) - 1)] * FRAME_RATE) for i in (first, last))
    return passage.log_mel[begin:end].astype(np.float32), passage.phones[first:last]


def roughen(log_mel: np.ndarray, rng: random.Random) -> Tensor:
    """The same stretch at another level, through noise, with bands missing: (F, M)."""
    loud = torch.from_numpy(np.exp(log_mel)) * float(np.exp(rng.uniform(-0.5, 0.5)))
    hiss = rng.choice((0.0, 0.0, 0.002, 0.01)) * torch.rand_like(loud)
    rough = torch.log(loud + hiss + FLOOR)
    rough = rough + rng.choice((0.0, 0.1, 0.3, 0.6)) * torch.randn_like(rough)
    for _ in range(2):
        band = rng.randint(0, 70)
        rough[:, band : band + rng.randint(1, 8)] -= rng.uniform(0, 1.5)
    return rough


def draw(passages: Sequence[Passage], rng: random.Random, count: int, judge: Judge) -> tuple[Tensor, ...]:
    """Log-mel (B, F, M), output lengths (B,), phones (sum,), phone counts (B,)."""
    names = {name: i + 1 for i, name in enumerate(judge.config.phones)}
    drawn = [cut(rng.choice(passages), rng, rng.uniform(1.5, 4.5)) for _ in range(count)]
    mels = [roughen(mel, rng) for mel, _ in drawn]
    longest = max(len(mel) for mel in mels)
    batch = torch.stack([F.pad(mel, (0, 0, 0, longest - len(mel)), value=SILENCE) for mel in mels])
    outputs = torch.tensor([-(-len(mel) // FRAMES_PER_OUTPUT) for mel in mels])
    phones = torch.tensor([names[p] for _, phones in drawn for p in phones])
    return batch, outputs, phones, torch.tensor([len(phones) for _, phones in drawn])


def ctc(judge: Judge, batch: tuple[Tensor, ...]) -> Losses:
    """CTC of the phones given the sound."""
    log_mel, outputs, phones, counts = batch
    with torch.autocast("cpu", torch.bfloat16):
        logits = judge(log_mel)
    scores = logits.float().log_softmax(-1).transpose(0, 1)
    return {"ctc": F.ctc_loss(scores, phones, outputs, counts, zero_infinity=True)}


def phone_errors(judge: Judge, passages: Sequence[Passage]) -> dict[str, float]:
    """Phone error rate on unseen passages of each voice."""
    measured = {}
    for voice in sorted({p.voice for p in passages}):
        wrong = total = 0
        for passage in [p for p in passages if p.voice == voice]:
            best = judge(torch.from_numpy(passage.log_mel.astype(np.float32))[None])[0].argmax(-1).tolist()
            pause = judge.config.phones.index(PAUSE) + 1
            heard = [output for output, _ in collapse(best) if output != pause]
            true = judge.ids(passage.phones)
            wrong, total = wrong + Levenshtein.distance(heard, true), total + len(true)
        measured[f"val_per_{voice}"] = wrong / total
    return measured


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpus", type=Path, default=Path("data/corpus"))
    parser.add_argument("--out", type=Path, default=Path("data/checkpoints/judge"))
    parser.add_argument("--samples", type=int, default=100_000, help="stretches of speech to learn from")
    parser.add_argument("--minutes", type=float, default=8.0, help="stop after so long at the latest")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    passages = train_passages(options.corpus)
    unseen = [p for path in dev_shards(options.corpus) for p in list(read_shard(path))[:25]]
    judge = Judge(JudgeConfig(tuple(sorted({name for p in passages for name in p.phones}))))
    print(f"{sum(p.numel() for p in judge.parameters()) / 1e6:.2f} M parameters, {len(passages)} passages")
    budget = Budget(options.samples, options.minutes, options.batch, rate=3e-3, average_from=0.995)
    loop = Loop(judge, options.out, budget, lambda _: False)
    save_config(judge.config, options.out)
    loop.resume()
    rng = random.Random(loop.place.step)
    loop.run(lambda: ctc(judge, draw(passages, rng, options.batch, judge)), lambda: phone_errors(judge, unseen))


if __name__ == "__main__":
    main()
