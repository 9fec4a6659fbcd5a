"""Modules of the pocket's geometry with random weights, made in memory."""

from __future__ import annotations

import pytest
import torch

from dit_worker.engine.loader import Models, sampling_of
from dit_worker.model.codec import AudioCodec, AudioCodecConfig
from dit_worker.model.dit import DiTConfig, JointDiT
from dit_worker.model.vae import VideoVAE, VideoVAEConfig
from services.bundle import Geometry, Manifest, Sampler

GEOMETRY = Geometry(
    width=128,
    height=128,
    frames_per_second=24,
    frames_per_chunk=33,
    video_latents_per_chunk=9,
    video_latent_channels=16,
    video_latent_height=8,
    video_latent_width=8,
    sample_rate=15_360,
    samples_per_audio_latent=640,
    audio_latents_per_chunk=33,
    audio_latent_channels=24,
)


def random_weights(module: torch.nn.Module) -> None:
    """Give every parameter, zeros included, a value that matters."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)


@pytest.fixture(scope="session")
def models() -> Models:
    """A small joint model, VAE and codec; the same weights in every run."""
    torch.set_num_threads(1)
    torch.manual_seed(20)
    config = DiTConfig(width=64, heads=2, layers=2, ffn=96, condition_width=40, audio_motion=12, learned_positions=True)
    manifest = Manifest(
        name="tiny",
        version="0",
        recipe="streamchar",
        geometry=GEOMETRY,
        text={},
        conditioner={},
        dit={},
        video_vae={},
        audio_codec={},
        sampler=Sampler(steps=4, noise_scale_audio=0.5, noise_scale_video=1.0, shift=1.0),
        files={},
    )
    dit, vae, codec = JointDiT(config), VideoVAE(VideoVAEConfig(width=16)), AudioCodec(AudioCodecConfig())
    random_weights(dit)
    codec.basis.copy_(torch.linalg.qr(torch.randn_like(codec.basis)).Q)
    codec.mean.fill_(-4.0)
    codec.scale.fill_(2.0)
    for module in (dit, vae, codec):
        module.eval().requires_grad_(False)
    return Models(
        manifest=manifest,
        dit=dit,
        video_vae=vae,
        sound_encoder=codec,
        sampling=sampling_of(manifest),
        condition_shape=(GEOMETRY.audio_latents_per_chunk, config.condition_width),
        reference_frames=24,
    )
