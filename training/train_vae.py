"""Stage 1b: the video VAE on procedural faces: `python -m training.train_vae`."""

from __future__ import annotations

import argparse
import random
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from dit_worker.model.vae import VideoVAE, VideoVAEConfig
from training.corpora.faces import GALLERY, VISEMES, Identity, blend, poses, random_identity, render
from training.loop import Budget, Loop, Losses

SIZE = 128
MOUTH = (slice(68, 106), slice(38, 90))
"""Rows and columns the mouth moves in; counted three times in the loss."""
CLIP = 40


def any_identity(rng: random.Random) -> Identity:
    """A gallery face, one near it, or one nobody has seen."""
    named = rng.choice(list(GALLERY.values()))[2]
    chance = rng.random()
    if chance < 0.35:
        return named
    return blend(named, random_identity(rng), rng.uniform(0.05, 0.5)) if chance < 0.6 else random_identity(rng)


def random_clip(rng: random.Random, identity: Identity) -> np.ndarray:
    """Frames of a face babbling: uint8 (CLIP, SIZE, SIZE, 3)."""
    phones = [rng.choice(list(VISEMES)) for _ in range(24)]
    edges = np.concatenate([[0], np.cumsum([rng.uniform(0.04, 0.16) for _ in phones])])
    track = poses(phones, edges, np.full(CLIP, rng.uniform(0.3, 1.0)), CLIP, rng)
    return render(identity, track, SIZE)


def to_groups(clip: np.ndarray) -> Tensor:
    """uint8 (N, H, W, 3) to uint8 groups of four frames (N // 4, 4, 3, H, W)."""
    groups: Tensor = torch.from_numpy(clip).permute(0, 3, 1, 2).unflatten(0, (-1, 4))
    return groups


def normalise(groups: Tensor) -> Tensor:
    """uint8 to [-1, 1]."""
    return groups.float().div(127.5).sub(1)


def peak_ratio(a: Tensor, b: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of pictures in [-1, 1]."""
    return float(10 * torch.log10(4 / (a - b).square().mean()))


def reconstruction(vae: VideoVAE, groups: Tensor, weight: Tensor) -> Losses:
    """Absolute and squared error, the mouth weighted, latents kept small and jittered so that the decoder forgives."""
    with torch.autocast("cpu", torch.bfloat16):
        latents = vae.encode_groups(groups)
        frames = vae.decode_groups(latents + 0.05 * torch.randn_like(latents)).float()
    error = frames - groups
    return {
        "absolute": (error.abs() * weight).mean(),
        "squared": 2 * (error.square() * weight).mean(),
        "size": 1e-3 * latents.float().square().mean(),
    }


def quality(vae: VideoVAE, groups: Tensor) -> dict[str, float]:
    """PSNR over the whole picture and the mouth."""
    with torch.autocast("cpu", torch.bfloat16):
        frames = vae.decode_groups(vae.encode_groups(groups)).float().clamp(-1, 1)
    mouth = (..., *MOUTH)
    return {"val_psnr": peak_ratio(frames, groups), "val_psnr_mouth": peak_ratio(frames[mouth], groups[mouth])}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoints", type=Path, default=Path("data/checkpoints"))
    parser.add_argument("--samples", type=int, default=90_000, help="groups of four frames to train on")
    parser.add_argument("--minutes", type=float, default=600.0, help="stop after so long at the latest")
    parser.add_argument("--clips", type=int, default=700, help="clips to render")
    parser.add_argument("--batch", type=int, default=12)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    rng = random.Random(0)
    clips = [random_clip(rng, any_identity(rng)) for _ in tqdm(range(options.clips), unit="clip", desc="rendering")]
    data = torch.cat([to_groups(c) for c in clips])
    unseen = random.Random("held out")
    held_out = normalise(torch.cat([to_groups(random_clip(unseen, random_identity(unseen)))[::3] for _ in range(24)]))
    weight = torch.ones(SIZE, SIZE)
    weight[MOUTH] = 3
    vae = VideoVAE(VideoVAEConfig())
    budget = Budget(options.samples, options.minutes, options.batch, rate=2e-3, warmup_steps=50, hold=0.2)
    loop = Loop(vae, options.checkpoints / "vae", budget, lambda _: False)
    loop.resume()
    loop.run(
        lambda: reconstruction(vae, normalise(data[torch.randint(len(data), (options.batch,))]), weight),
        lambda: quality(vae, held_out),
    )
    finish(vae, loop, normalise(data[:400]))


@torch.no_grad()
def finish(vae: VideoVAE, loop: Loop, sample: Tensor) -> None:
    """Measures the latents' mean and deviation and saves them with the weights."""
    vae.load_state_dict(loop.average)
    latents = vae.encode_groups(sample)
    loop.average["mean"] = latents.mean((0, 2, 3))
    loop.average["deviation"] = latents.std((0, 2, 3))
    loop.checkpoint()


if __name__ == "__main__":
    main()
