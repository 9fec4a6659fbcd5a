"""The full size's VAEs from diffusers, behind the pocket's few methods: Wan2.2's for pictures, Oobleck's for sound.

diffusers is imported when one is loaded, so that the pocket runs without it. A folder holds `config.json` and
safetensors as diffusers writes them; nothing is downloaded and nothing is unpickled. What goes in and what comes out
is float32, whatever the precision of the weights.
B batch, T frames, L latents, C channels, H W pixels, S samples.
"""

from __future__ import annotations

import copy
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn


class WanVideoVAE(nn.Module):
    """33 frames to 9 latents, 4x in time and 16x in space, each chunk by itself; latents normalised by channel."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.vae = vae
        self.register_buffer("mean", torch.tensor(vae.config.latents_mean)[:, None, None, None], persistent=False)
        self.register_buffer("deviation", torch.tensor(vae.config.latents_std)[:, None, None, None], persistent=False)
        self.channels, self.stride = int(vae.config.z_dim), int(vae.config.scale_factor_spatial)

    @staticmethod
    def load(folder: Path, dtype: torch.dtype = torch.float32) -> WanVideoVAE:
        """Reads a folder of diffusers. Raises OSError or ValueError when it does not hold an AutoencoderKLWan."""
        import diffusers

        return WanVideoVAE(_load(diffusers.AutoencoderKLWan, folder, dtype)).eval()

    def encode(self, frames: Tensor) -> Tensor:
        """Frames (B, 3, T, H, W) in [-1, 1], T = 1 + 4 (L - 1), to normalised latents (B, C, L, H / 16, W / 16).

        Raises ValueError when T does not fit.
        """
        if (frames.shape[2] - 1) % 4:
            raise ValueError(f"{frames.shape[2]} frames are not 1 + a multiple of 4")
        latents = self._once().encode(frames.to(self.vae.dtype)).latent_dist.mode()
        return (latents.float() - self.mean) / self.deviation

    def encode_image(self, image: Tensor) -> Tensor:
        """A still (B, 3, H, W) in [-1, 1] to one latent (B, C, 1, H / 16, W / 16)."""
        return self.encode(image[:, :, None])

    def decode(self, latents: Tensor) -> Tensor:
        """Normalised latents (B, C, L, h, w) to frames (B, 3, 1 + 4 (L - 1), H, W) in [-1, 1]."""
        raw = (latents * self.deviation + self.mean).to(self.vae.dtype)
        return self._once().decode(raw).sample.float().clamp(-1, 1)

    def _once(self) -> Any:
        """The VAE for one call: it writes what its convolutions saw last into itself, and threads call side by side."""
        return copy.copy(self.vae)


class OobleckAudioVAE(nn.Module):
    """Samples of one channel to latents and back; at 49,152 Hz and a hop of 2048 there are 24 latents a second."""

    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.vae = vae
        self.samples_per_latent = int(vae.hop_length)
        self.sample_rate = int(vae.config.sampling_rate)
        self.channels = int(vae.config.decoder_input_channels)

    @staticmethod
    def load(folder: Path, dtype: torch.dtype = torch.float32) -> OobleckAudioVAE:
        """Reads a folder of diffusers. Raises OSError or ValueError when it does not hold an AutoencoderOobleck."""
        import diffusers

        return OobleckAudioVAE(_load(diffusers.AutoencoderOobleck, folder, dtype)).eval()

    @cached_property
    def silence(self) -> Tensor:
        """The latent (C,) of a silent moment, a second into silence; on the CPU."""
        samples = torch.zeros(1, 2 * self.sample_rate, device=self.vae.device)
        with torch.inference_mode():
            latents = self.encode(samples)[0]
        return latents[len(latents) // 2].cpu().contiguous()

    def encode(self, samples: Tensor) -> Tensor:
        """(B, S) -> (B, S // samples_per_latent, C); a remainder is left out. Raises ValueError below one latent."""
        count = samples.shape[1] // self.samples_per_latent
        if count == 0:
            raise ValueError(f"needs at least {self.samples_per_latent} samples")
        whole = samples[:, None, : count * self.samples_per_latent].to(self.vae.dtype)
        channels = whole.expand(-1, self.vae.config.audio_channels, -1)
        return self.vae.encode(channels).latent_dist.mode().transpose(1, 2).float()

    def decode(self, latents: Tensor) -> Tensor:
        """(B, T, C) -> (B, T * samples_per_latent), the mean of the channels there are."""
        return self.vae.decode(latents.transpose(1, 2).to(self.vae.dtype)).sample.float().mean(1)


def _load(kind: Any, folder: Path, dtype: torch.dtype) -> Any:
    return kind.from_pretrained(folder, local_files_only=True, use_safetensors=True, torch_dtype=dtype)
