"""The video VAE's training: where it begins, what it draws from, and how its weights are read back."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from dit_worker.model.vae import VideoVAE, VideoVAEConfig
from training.train_vae import Pool, held_out, load_vae, quality, warm_start

SMALL = VideoVAEConfig(width=16)
DEEP = VideoVAEConfig(width=16, encoder_depth=3, decoder_extra=2)


def test_a_deeper_vae_begins_where_the_shallow_one_ended(tmp_path: Path) -> None:
    """Blocks that the old weights lack change nothing at first, in either half."""
    torch.manual_seed(0)
    old, new = VideoVAE(SMALL), VideoVAE(DEEP)
    old.mean.fill_(0.3)
    save_file(old.state_dict(), tmp_path / "model.safetensors")
    warm_start(new, tmp_path / "model.safetensors")
    frames, latents = torch.rand(1, 3, 5, 32, 32), torch.randn(1, 16, 2, 2, 2)
    assert torch.allclose(new.encode(frames), old.encode(frames), atol=1e-5)
    assert torch.allclose(new.decode(latents), old.decode(latents), atol=1e-5)


def test_a_vae_is_read_with_the_sizes_beside_it(tmp_path: Path) -> None:
    """config.json says what the weights need; without it they are of the usual sizes, and others are refused."""
    save_file(VideoVAE(DEEP).state_dict(), tmp_path / "model.safetensors")
    with pytest.raises(RuntimeError):
        load_vae(tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(asdict(DEEP)))
    assert load_vae(tmp_path / "model.safetensors").config == DEEP


def test_the_pool_renews_itself() -> None:
    """Each draw replaces the oldest clip, so that none is learned by heart."""
    pool = Pool(2, seed=0)
    first, second = pool.groups[0].clone(), pool.groups[1].clone()
    assert pool.draw(3).shape == (3, 4, 3, 128, 128)
    assert not torch.equal(pool.groups[0], first) and torch.equal(pool.groups[1], second)


def test_quality_is_that_of_the_picture_and_of_the_mouth() -> None:
    """Both figures are finite for held-out faces in states, and an untrained VAE is far from them."""
    torch.manual_seed(0)
    figures = quality(VideoVAE(SMALL), held_out(has_states=True)[:4])
    assert set(figures) == {"psnr", "psnr_mouth"}
    assert all(0 < value < 20 for value in figures.values())
