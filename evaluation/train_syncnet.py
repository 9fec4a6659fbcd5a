"""Trains the judge of lip sync on true speech and the renderer's mouths: `python -m evaluation.train_syncnet`.

Every voice of the corpus but its last shard, faces nobody else has; each window must find its own sound among those of
the same clip at other moments, and of other clips. Mouths are blurred, dimmed and shifted at random: the score shall be
of time and shape, not of the marks of one renderer.
"""

from __future__ import annotations

import argparse
import math
import random
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from evaluation.syncnet import SyncNet, SyncNetConfig, distances, lips, save_config, score_of, windows
from evaluation.train_judge import dev_shards
from training.corpora.faces import poses, random_identity, render
from training.corpora.shards import Passage, read_shard
from training.loop import Budget, Loop, Losses
from training.make_video import loudness

RATE = 24
SIDE = 96
"""Side of the pictures whose mouths are looked at."""
CLIPS, WINDOWS = 8, 10
"""Clips of a batch, and windows of each."""
APART = 3
"""Windows of one clip in a batch begin at least so many pictures apart."""
LONGEST_S = 12.0

Clip = tuple[np.ndarray, np.ndarray]
"""Mouths uint8 (N, side, side) and log-mel float32 (F, M)."""


def make_clip(passage: Passage, seed: str) -> Clip:
    """Draws a face that says a passage, and keeps its mouth."""
    rng = random.Random(f"syncnet-{seed}")
    frames = int(min(len(passage.log_mel) / 96, LONGEST_S) * RATE)
    loud = loudness(passage.log_mel, frames)
    track = poses(passage.phones, np.concatenate([[0], passage.ends]), loud, frames, rng)
    pictures = render(random_identity(rng), track, SIDE)
    return lips(pictures), passage.log_mel[: 4 * frames].astype(np.float32)


def clips(shards: Sequence[Path], per_shard: int, what: str) -> list[Clip]:
    """The first passages of some shards as clips."""
    made = []
    for shard in tqdm(shards, desc=what, mininterval=5):
        long_enough = (p for p in read_shard(shard) if len(p.log_mel) > 200)
        made += [make_clip(p, f"{shard.stem}-{i}") for i, p in zip(range(per_shard), long_enough, strict=False)]
    return made


def roughen(mouths: np.ndarray, rng: random.Random) -> np.ndarray:
    """The same mouths (N, side, side) as another camera, or a model, might show them."""
    rough = mouths.astype(np.float32)
    if rng.random() < 0.7:
        sigma = rng.uniform(0.3, 1.3)
        rough = np.stack([cv2.GaussianBlur(m, (0, 0), sigma) for m in rough])
    down, right = rng.randint(-1, 1), rng.randint(-1, 1)
    rough = np.roll(rough, (down, right), (1, 2)) * rng.uniform(0.7, 1.2) + rng.uniform(-20, 20)
    return np.clip(rough, 0, 255).astype(np.uint8)


def draw(made: Sequence[Clip], rng: random.Random, config: SyncNetConfig) -> tuple[Tensor, Tensor]:
    """CLIPS x WINDOWS windows: mouths (B, pictures, side, side), sounds (B, mel frames, M)."""
    mouths, sounds = [], []
    for clip in rng.sample(range(len(made)), CLIPS):
        count = len(made[clip][0]) - config.pictures + 1
        begin = rng.randint(0, max(0, count - APART * WINDOWS))
        length = APART * WINDOWS + config.pictures
        seen, log_mel = made[clip][0][begin : begin + length], made[clip][1][4 * begin : 4 * (begin + length)]
        heard = (
            log_mel
            + rng.uniform(-0.5, 0.5)
            + rng.choice((0, 0.1, 0.3)) * np.random.default_rng(begin).normal(size=log_mel.shape)
        )
        seen_windows, heard_windows = windows(roughen(seen, rng), heard, config)
        mouths.append(seen_windows[::APART][:WINDOWS])
        sounds.append(heard_windows[::APART][:WINDOWS])
    return torch.cat(mouths), torch.cat(sounds)


def contrast(net: SyncNet, batch: tuple[Tensor, Tensor]) -> Losses:
    """Each mouth finds its sound, and each sound its mouth."""
    seen, heard = net(*batch)
    scores = seen @ heard.T * net.scale.exp().clamp(max=50)
    wanted = torch.arange(len(seen))
    both = F.cross_entropy(scores, wanted) + F.cross_entropy(scores.T, wanted)
    return {"contrast": both / (2 * math.log(len(seen)))}


def accuracy(net: SyncNet, made: Sequence[Clip]) -> dict[str, float]:
    """On unseen clips: confidence and distance, and the share whose offset is found within a frame."""
    scores = [score_of(distances(net, *clip)) for clip in made]
    return {
        "val_distance": float(np.mean([s.distance for s in scores])),
        "val_confidence": float(np.mean([s.confidence for s in scores])),
        "val_offset_found": float(np.mean([abs(s.offset) <= 1 for s in scores])),
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpus", type=Path, default=Path("data/corpus"))
    parser.add_argument("--out", type=Path, default=Path("data/checkpoints/syncnet"))
    parser.add_argument("--passages", type=int, default=3, help="passages of each shard of the corpus")
    parser.add_argument("--samples", type=int, default=400_000, help="windows to learn from")
    parser.add_argument("--minutes", type=float, default=4.0, help="stop after so long at the latest")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    unseen = dev_shards(options.corpus)
    known = [p for p in sorted(options.corpus.glob("*.npz")) if p not in unseen and ".partial" not in p.name]
    made = clips(known, options.passages, "drawing mouths")
    made = [clip for clip in made if len(clip[0]) >= APART * WINDOWS + SyncNetConfig.pictures]
    held = clips(unseen[:8], 2, "drawing unseen mouths")
    net = SyncNet(SyncNetConfig())
    budget = Budget(options.samples, options.minutes, CLIPS * WINDOWS, rate=2e-3, average_from=0.99)
    loop = Loop(net, options.out, budget, lambda _: False)
    save_config(net.config, options.out)
    loop.resume()
    rng = random.Random(loop.place.step)
    loop.run(lambda: contrast(net, draw(made, rng, net.config)), lambda: accuracy(net, held))


if __name__ == "__main__":
    main()
