"""A light decoder of a bundle's pictures, taught by its VAE: `python -m training.train_light_decoder --bundle DIR`.

The VAE encodes faces; the light decoder learns to make them of those latents. It is written into the bundle with its
section of the manifest and its digest, for workers to use where chunks have no time. Latents stay what they are.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from dit_worker.engine.loader import LIGHT_VIDEO_FILE, VIDEO_VAE_FILE
from dit_worker.model.vae import LightVideoDecoder, VideoVAE, VideoVAEConfig
from services.bundle import MANIFEST_NAME, load_bundle
from training.loop import Budget, Loop, Losses
from training.package_bundle import digest, halved
from training.train_vae import EYES, EYES_WEIGHT, MOUTH, MOUTH_WEIGHT, SIZE, Pool, held_out, normalise, peak_ratio

JITTER = 0.05
"""Noise on the latents while it learns, in units of their deviation: what a transformer makes is not exact either."""


@torch.no_grad()
def encoded(vae: VideoVAE, groups: Tensor) -> Tensor:
    """Latents (N, C, h, w) of groups of frames (N, 4, 3, H, W), normalised as the transformer makes them."""
    frames = (normalise(part) if part.dtype == torch.uint8 else part for part in groups.split(16))
    raw = torch.cat([vae.encode_groups(part) for part in frames])
    return (raw - vae.mean[:, None, None]) / vae.deviation[:, None, None]


def loss(decoder: LightVideoDecoder, latents: Tensor, groups: Tensor, weight: Tensor) -> Losses:
    """Absolute and squared error, the mouth weighted."""
    with torch.autocast("cpu", torch.bfloat16):
        frames = decoder.decode_groups(latents + JITTER * torch.randn_like(latents)).float()
    error = frames - groups
    return {"absolute": (error.abs() * weight).mean(), "squared": 8 * (error.square() * weight).mean()}


@torch.no_grad()
def quality(decode: Callable[[Tensor], Tensor], latents: Tensor, groups: Tensor) -> dict[str, float]:
    """PSNR over the whole picture and the mouth."""
    frames = torch.cat([decode(part).float() for part in latents.split(16)]).clamp(-1, 1)
    mouth = (..., *MOUTH)
    return {"psnr": peak_ratio(frames, groups), "psnr_mouth": peak_ratio(frames[mouth], groups[mouth])}


def put_into(bundle: Path, config: VideoVAEConfig, weights: Path) -> None:
    """The decoder in half precision, its section and its digest."""
    file, path = bundle / LIGHT_VIDEO_FILE, bundle / MANIFEST_NAME
    save_file(halved(load_file(weights)), file)
    file.chmod(0o644)
    manifest = json.loads(path.read_text())
    manifest["light_video_decoder"] = asdict(config)
    manifest["files"] = dict(sorted({**manifest["files"], file.name: digest(file)}.items()))
    path.write_text(json.dumps(manifest, indent=2) + "\n")


def train(vae: VideoVAE, light: LightVideoDecoder, options: argparse.Namespace) -> Path:
    """Teach it. Returns where its weights are."""
    seen, unseen = Pool(options.clips, 0).groups.flatten(0, 1), held_out(True)
    weight = torch.ones(SIZE, SIZE)
    weight[EYES], weight[MOUTH] = EYES_WEIGHT, MOUTH_WEIGHT
    weight /= weight.mean()
    latents, known = (encoded(vae, groups) for groups in (unseen, seen))
    raw = latents * vae.deviation[:, None, None] + vae.mean[:, None, None]
    print("by the VAE's own decoder", quality(vae.decode_groups, raw, unseen))

    def losses() -> Losses:
        drawn = torch.randint(len(seen), (options.batch,))
        return loss(light, known[drawn], normalise(seen[drawn]), weight)

    budget = Budget(options.samples, options.minutes, options.batch, rate=options.rate, warmup_steps=50, hold=0.3)
    loop = Loop(light, options.out, budget, lambda _: False)
    loop.resume()
    loop.run(losses, lambda: quality(light.decode_groups, latents, unseen))
    return loop.folder / "model.safetensors"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path, default=Path("bundles/pocket"), help="whose VAE teaches")
    parser.add_argument("--out", type=Path, default=Path("out/light_decoder"), help="folder of this run")
    parser.add_argument("--width", type=int, default=16, help="a third of the VAE's takes a sixth of its time")
    parser.add_argument("--samples", type=int, default=200_000, help="groups of four frames to train on")
    parser.add_argument("--minutes", type=float, default=20.0, help="stop after so long at the latest")
    parser.add_argument("--clips", type=int, default=120, help="clips to learn from")
    parser.add_argument("--batch", type=int, default=24)
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--weights", type=Path, help="put these weights into the bundle and train nothing")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    manifest = load_bundle(options.bundle).manifest
    vae = VideoVAE(VideoVAEConfig(**manifest.video_vae))
    vae.load_state_dict(load_file(options.bundle / VIDEO_VAE_FILE))
    vae.float().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    vae.eval().requires_grad_(requires_grad=False)
    config = VideoVAEConfig(channels=vae.config.channels, width=options.width)
    light = LightVideoDecoder(config).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    put_into(options.bundle, config, options.weights or train(vae, light, options))
    print(options.bundle / LIGHT_VIDEO_FILE)


if __name__ == "__main__":
    main()
