"""Stage 1b: the video VAE on procedural faces in every state: `python -m training.train_vae`."""

from __future__ import annotations

import argparse
import json
import random
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor
from tqdm import tqdm

from dit_worker.model.vae import VideoVAE, VideoVAEConfig
from training.corpora.faces import VISEMES, poses, render
from training.corpora.identities import GALLERY, Identity, blend, random_identity
from training.corpora.states import State, any_state, change, looks
from training.loop import Budget, Loop, Losses

SIZE = 128
MOUTH = (slice(68, 106), slice(38, 90))
"""Rows and columns the mouth moves in."""
EYES = (slice(46, 78), slice(32, 96))
"""Rows and columns of eyes and brows."""
MOUTH_WEIGHT, EYES_WEIGHT = 8.0, 3.0
"""How often mouth and eyes count in the loss against the rest of the picture."""
CLIP = 40
NEW_CLIPS = 1
"""Clips rendered anew at each step, in place of old ones."""


def any_identity(rng: random.Random) -> Identity:
    """A gallery face, one near it, or one nobody has seen."""
    named = rng.choice(list(GALLERY.values()))[2]
    chance = rng.random()
    if chance < 0.35:
        return named
    return blend(named, random_identity(rng), rng.uniform(0.05, 0.5)) if chance < 0.6 else random_identity(rng)


def states_of_clip(rng: random.Random) -> tuple[State, State]:
    """The state in the first and in the second half of a clip."""
    first = any_state(rng, rng.choice((0, 1, 1, 2, 3)))
    return first, change(rng, first, 1) if rng.random() < 0.5 else first


def random_clip(rng: random.Random, identity: Identity, has_states: bool = True) -> np.ndarray:
    """Frames of a face babbling, in random states unless it stays as in its portrait: uint8 (CLIP, SIZE, SIZE, 3)."""
    phones = [rng.choice(list(VISEMES)) for _ in range(24)]
    edges = np.concatenate([[0], np.cumsum([rng.uniform(0.04, 0.16) for _ in phones])])
    track = poses(phones, edges, np.full(CLIP, rng.uniform(0.3, 1.0)), CLIP, rng)
    return render(identity, track, SIZE, looks(states_of_clip(rng), CLIP // 2) if has_states else None)


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


class Pool:
    """Rendered groups to draw batches from; some are replaced at each draw, so that none is learned by heart."""

    def __init__(self, clips: int, seed: int) -> None:
        self.rng = random.Random(seed)
        self.groups = torch.stack([self._clip() for _ in tqdm(range(clips), unit="clip", desc="rendering")])
        self.oldest = 0

    def _clip(self) -> Tensor:
        return to_groups(random_clip(self.rng, any_identity(self.rng)))

    def draw(self, count: int) -> Tensor:
        """uint8 groups (count, 4, 3, H, W)."""
        for _ in range(NEW_CLIPS):
            self.groups[self.oldest] = self._clip()
            self.oldest = (self.oldest + 1) % len(self.groups)
        flat: Tensor = self.groups.flatten(0, 1)
        return flat[torch.randint(len(flat), (count,))]


def reconstruction(vae: VideoVAE, groups: Tensor, weight: Tensor) -> Losses:
    """Absolute and squared error, the mouth weighted, latents kept small and jittered so that the decoder forgives."""
    with torch.autocast("cpu", torch.bfloat16):
        latents = vae.encode_groups(groups)
        frames = vae.decode_groups(latents + 0.05 * torch.randn_like(latents)).float()
    error = frames - groups
    return {
        "absolute": (error.abs() * weight).mean(),
        "squared": 8 * (error.square() * weight).mean(),
        "size": 1e-3 * latents.float().square().mean(),
    }


@torch.no_grad()
def quality(vae: VideoVAE, groups: Tensor) -> dict[str, float]:
    """PSNR over the whole picture and the mouth."""
    with torch.autocast("cpu", torch.bfloat16):
        frames = torch.cat([vae.decode_groups(vae.encode_groups(part)).float() for part in groups.split(16)])
    frames = frames.clamp(-1, 1)
    mouth = (..., *MOUTH)
    return {"psnr": peak_ratio(frames, groups), "psnr_mouth": peak_ratio(frames[mouth], groups[mouth])}


def held_out(has_states: bool) -> Tensor:
    """Groups of 24 faces that no training sees: (N, 4, 3, H, W) in [-1, 1]."""
    rng = random.Random("held out")
    clips = [random_clip(rng, random_identity(rng), has_states) for _ in range(24)]
    return normalise(torch.cat([to_groups(clip)[::3] for clip in clips]))


def warm_start(vae: VideoVAE, path: Path) -> None:
    """Begins with the weights of a VAE that may have fewer residual blocks; those it lacks begin as the identity."""
    own, old = vae.state_dict(), load_file(path)
    for name in own:
        if name in old:
            own[name] = old[name]
            continue
        part, index, block, *rest = name.split(".")
        if block == "0":
            own[name] = old[".".join((part, index, *rest))]
        elif rest[0] == "mix":
            own[name].zero_()
    vae.load_state_dict(own)


def load_vae(weights: Path) -> VideoVAE:
    """A VAE for use: its weights, and its sizes from the config.json beside them where they are not the usual ones."""
    config = weights.with_name("config.json")
    vae = VideoVAE(VideoVAEConfig(**json.loads(config.read_text())) if config.exists() else VideoVAEConfig())
    vae.load_state_dict(load_file(weights))
    vae.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return vae.eval().requires_grad_(requires_grad=False)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoints", type=Path, default=Path("data/checkpoints"))
    parser.add_argument("--name", default="vae", help="folder of this run under the checkpoints")
    parser.add_argument("--start", type=Path, help="weights to begin with")
    parser.add_argument("--samples", type=int, default=90_000, help="groups of four frames to train on")
    parser.add_argument("--minutes", type=float, default=600.0, help="stop after so long at the latest")
    parser.add_argument("--clips", type=int, default=700, help="clips to hold")
    parser.add_argument("--batch", type=int, default=12)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--decoder-only", action="store_true", help="leave the latents as they are")
    parser.add_argument("--encoder-depth", type=int, default=3)
    parser.add_argument("--decoder-extra", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    pool = Pool(options.clips, 0)
    unseen = {"val": held_out(False), "val_states": held_out(True)}
    weight = torch.ones(SIZE, SIZE)
    weight[EYES], weight[MOUTH] = EYES_WEIGHT, MOUTH_WEIGHT
    weight /= weight.mean()
    config = VideoVAEConfig(encoder_depth=options.encoder_depth, decoder_extra=options.decoder_extra)
    vae = VideoVAE(config)
    if options.start:
        warm_start(vae, options.start)
    vae.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    vae.encoder.requires_grad_(not options.decoder_only)
    budget = Budget(options.samples, options.minutes, options.batch, rate=options.rate, warmup_steps=50, hold=0.2)
    loop = Loop(vae, options.checkpoints / options.name, budget, lambda _: False)
    (loop.folder / "config.json").write_text(json.dumps(asdict(config)))
    loop.resume()
    loop.run(
        lambda: reconstruction(vae, normalise(pool.draw(options.batch)), weight),
        lambda: {f"{kind}_{n}": v for kind, groups in unseen.items() for n, v in quality(vae, groups).items()},
    )
    if not options.decoder_only:
        finish(vae, loop, normalise(pool.draw(400)))


@torch.no_grad()
def finish(vae: VideoVAE, loop: Loop, sample: Tensor) -> None:
    """Measures the latents' mean and deviation and saves them with the weights."""
    vae.load_state_dict(loop.average)
    latents = torch.cat([vae.encode_groups(part) for part in sample.split(16)])
    loop.average["mean"] = latents.mean((0, 2, 3))
    loop.average["deviation"] = latents.std((0, 2, 3))
    loop.checkpoint()


if __name__ == "__main__":
    main()
