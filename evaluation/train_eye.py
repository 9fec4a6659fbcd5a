"""Trains the eye on the corpus's renderer: `python -m evaluation.train_eye --minutes 4`.

Pictures come in pairs of one face in two poses, so that a likeness can be learned; most are spoiled somehow,
so that quality can be: blur, grain, blocks, lost or exaggerated contrast, colour casts, a second pose shining through.
"""

from __future__ import annotations

import argparse
import math
import random
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from evaluation.eye import Eye, EyeConfig, save_config
from training.corpora.faces import Pose, draw, random_identity
from training.loop import Budget, Loop, Losses

PER_FACE = 4
CLEAN_SHARE = 0.25
TEMPERATURE = 0.1
POSE_SCALE = (1, 1, 1, 1, 1, 50, 50, 0.3)
"""What brings the numbers of a pose to about one."""


def random_pose(rng: random.Random) -> Pose:
    """Any pose of a face that talks."""
    shut = rng.choice((0.0, 0.0, 0.0, rng.random()))
    shift, lift, roll = rng.uniform(-0.011, 0.011), rng.uniform(-0.009, 0.009), rng.uniform(-2.4, 2.4)
    opening = rng.random() ** 1.5
    return Pose(opening, rng.uniform(0.3, 1.0), rng.random(), shut, rng.random(), shift, lift, roll)


def draw_faces(count: int, side: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Pictures uint8 (count, PER_FACE, side, side, 3) and their poses (count, PER_FACE, 8)."""
    cv2.setNumThreads(1)
    rng = random.Random(f"eye-{seed}")
    pictures, poses = [], []
    for _ in tqdm(range(count), desc="drawing faces", mininterval=5):
        identity = random_identity(rng)
        chosen = [random_pose(rng) for _ in range(PER_FACE)]
        pictures.append([draw(identity, pose, side) for pose in chosen])
        poses.append([tuple(pose)[:8] for pose in chosen])
    return np.array(pictures), np.array(poses, np.float32)


def blur(x: np.ndarray, much: float, _: np.ndarray) -> np.ndarray:
    """Soft edges."""
    return np.asarray(cv2.GaussianBlur(x, (0, 0), 0.2 + 2.0 * much))


def grain(x: np.ndarray, much: float, _: np.ndarray) -> np.ndarray:
    """Noise in every pixel."""
    noise = np.random.default_rng(int(much * 1e6)).normal(0, 0.25 * much, x.shape)
    return np.asarray(x + noise.astype(np.float32))


def blocks(x: np.ndarray, much: float, _: np.ndarray) -> np.ndarray:
    """Fewer pixels than there should be."""
    side = x.shape[0]
    small = max(8, round(side / (1 + 4 * much)))
    return np.asarray(cv2.resize(cv2.resize(x, (small, small)), (side, side), interpolation=cv2.INTER_NEAREST))


def contrast(x: np.ndarray, much: float, _: np.ndarray) -> np.ndarray:
    """Greyer, or harsher."""
    gain = 1 - 0.7 * much if int(much * 1000) % 2 else 1 + 1.5 * much
    return np.asarray((x - 0.5) * gain + 0.5)


def cast(x: np.ndarray, much: float, _: np.ndarray) -> np.ndarray:
    """Everything towards one colour."""
    tint = np.random.default_rng(int(much * 1e6)).random(3).astype(np.float32)
    return np.asarray(x * (1 - 0.6 * much) + 0.6 * much * tint)


def ghost(x: np.ndarray, much: float, other: np.ndarray) -> np.ndarray:
    """Another picture of the face shining through, out of place."""
    moved = np.roll(other, (round(4 * much), -round(4 * much)), (0, 1))
    return np.asarray(x * (1 - 0.5 * much) + 0.5 * much * moved)


SPOILERS: tuple[Callable[[np.ndarray, float, np.ndarray], np.ndarray], ...] = (
    blur, grain, blocks, contrast, cast, ghost,
)  # fmt: skip


def spoil(picture: np.ndarray, other: np.ndarray, rng: random.Random) -> tuple[np.ndarray, float]:
    """A picture uint8 (H, W, 3) spoiled in up to three ways, in [0, 1], and the quality that is left, 1 for all."""
    x, there, left = picture.astype(np.float32) / 255, other.astype(np.float32) / 255, 1.0
    if rng.random() > CLEAN_SHARE:
        for way in rng.sample(SPOILERS, rng.choice((1, 1, 2, 3))):
            much = rng.random() ** 1.5
            x, left = way(x, much, there), left * (1 - much)
    return np.clip(x, 0, 1).astype(np.float32), left


def batch_of(pictures: np.ndarray, poses: np.ndarray, rng: random.Random, count: int) -> tuple[Tensor, ...]:
    """Pairs of `count` faces: pictures (2 count, 3, side, side), qualities (2 count,), poses (2 count, 8)."""
    faces = rng.sample(range(len(pictures)), count)
    views = [rng.sample(range(PER_FACE), 3) for _ in faces]
    drawn, qualities, told = [], [], []
    for side in (0, 1):
        for face, view in zip(faces, views, strict=True):
            picture, quality = spoil(pictures[face, view[side]], pictures[face, view[2]], rng)
            drawn.append(picture)
            qualities.append(quality)
            told.append(poses[face, view[side]])
    scaled = torch.from_numpy(np.array(told)) * torch.tensor(POSE_SCALE)
    return torch.from_numpy(np.stack(drawn)).permute(0, 3, 1, 2), torch.tensor(qualities), scaled


def losses(eye: Eye, batch: tuple[Tensor, ...]) -> Losses:
    """Quality by cross-entropy, likeness by telling each face's pair among all, poses by their distance."""
    pictures, qualities, poses = batch
    sight = eye(pictures)
    first, second = sight.likeness.chunk(2)
    scores = first @ second.T / TEMPERATURE
    wanted = torch.arange(len(first))
    return {
        "quality": F.binary_cross_entropy_with_logits(sight.quality, qualities),
        "likeness": 0.5 * (F.cross_entropy(scores, wanted) + F.cross_entropy(scores.T, wanted)) / math.log(len(first)),
        "poses": F.smooth_l1_loss(sight.poses, poses),
    }


def accuracy(eye: Eye, batch: tuple[Tensor, ...]) -> dict[str, float]:
    """On unseen faces: mean error of the quality, its rank correlation, and the share of pairs that are found."""
    pictures, qualities, _ = batch
    sight = eye(pictures)
    told = sight.quality.sigmoid()
    ranks = torch.stack([told.argsort().argsort(), qualities.argsort().argsort()]).float()
    first, second = sight.likeness.chunk(2)
    return {
        "val_quality_error": float((told - qualities).abs().mean()),
        "val_quality_rank": float(torch.corrcoef(ranks)[0, 1]),
        "val_pairs_found": float(((first @ second.T).argmax(1) == torch.arange(len(first))).float().mean()),
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("data/checkpoints/eye"))
    parser.add_argument("--faces", type=int, default=2500)
    parser.add_argument("--samples", type=int, default=80_000, help="pairs to learn from")
    parser.add_argument("--minutes", type=float, default=4.0, help="stop after so long at the latest")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    eye = Eye(EyeConfig())
    pictures, poses = draw_faces(options.faces, eye.config.side, 0)
    unseen = batch_of(*draw_faces(120, eye.config.side, 1), random.Random(1), 100)
    loop = Loop(
        eye, options.out, Budget(options.samples, options.minutes, 32, rate=2e-3, average_from=0.99), lambda _: False
    )
    save_config(eye.config, options.out)
    loop.resume()
    rng = random.Random(loop.place.step)
    loop.run(lambda: losses(eye, batch_of(pictures, poses, rng, 32)), lambda: accuracy(eye, unseen))


if __name__ == "__main__":
    main()
