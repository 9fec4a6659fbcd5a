"""The light decoder: what it learns from, and how it comes into a bundle and stays there."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from dit_worker.engine.loader import LIGHT_VIDEO_FILE, load_models
from dit_worker.model.vae import LightVideoDecoder, VideoVAE, VideoVAEConfig
from services.bundle import load_bundle
from tests.fixtures.tiny_bundle import build_tiny_bundle
from training.package_bundle import light_decoder
from training.train_light_decoder import encoded, loss, put_into


def test_it_learns_to_decode_what_the_vae_encodes() -> None:
    """On a few groups, in a few steps, the error falls; its latents are those that the VAE's own decoding takes."""
    torch.manual_seed(0)
    vae, light = VideoVAE(VideoVAEConfig(width=16)), LightVideoDecoder(VideoVAEConfig(width=8))
    vae.mean.fill_(0.3)
    vae.deviation.fill_(2.0)
    groups = torch.randint(0, 255, (3, 1, 3, 1, 1), dtype=torch.uint8).expand(3, 4, 3, 32, 32).contiguous()
    latents, frames = encoded(vae, groups), groups / 127.5 - 1
    raw = latents * 2.0 + 0.3
    assert torch.allclose(raw, vae.encode_groups(frames), atol=1e-5)
    optimizer, errors = torch.optim.AdamW(light.parameters(), lr=1e-2), []
    for _ in range(12):
        total = torch.stack([*loss(light, latents, frames, torch.ones(32, 32)).values()]).sum()
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        errors.append(total.item())
    assert errors[-1] < 0.7 * errors[0]


def test_a_bundle_gets_one_and_keeps_it_with_its_vae(tmp_path: Path) -> None:
    """Loaded as it was saved, in half precision and with a digest; packed anew it stays, but not with another VAE."""
    bundle = build_tiny_bundle(tmp_path / "tiny")
    config = VideoVAEConfig(width=8)
    save_file(LightVideoDecoder(config).state_dict(), tmp_path / "model.safetensors")
    put_into(bundle, config, tmp_path / "model.safetensors")
    loaded = load_bundle(bundle)
    loaded.verify()
    assert load_models(loaded).light_video is not None
    assert light_decoder(bundle) == {"light_video_decoder": loaded.manifest.light_video_decoder}
    vae = load_file(bundle / "video_vae.safetensors")
    save_file({**vae, "mean": vae["mean"] + 1}, bundle / "video_vae.safetensors")
    assert light_decoder(bundle) == {} and not (bundle / LIGHT_VIDEO_FILE).exists()
    assert "light_video_decoder" in json.loads((bundle / "manifest.json").read_text())
