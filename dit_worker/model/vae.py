"""The video VAE: 33 frames to 9 latents and back, 4x in time and 16x in space.

The first frame stands alone, then every four frames share a latent, as in Wan's VAE; here each latent is coded by
itself, so decoding starts anew at any latent and a chunk border looks like any other place.
B batch, T frames, L latents, C latent channels, H W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class VideoVAEConfig:
    """Sizes. Spatial stride is 16: two by unshuffling, eight by three strided convolutions."""

    channels: int = 16
    width: int = 48
    frames_per_latent: int = 4
    bound: float = 3.0
    """Raw latents are kept within +-bound by a scaled tanh."""
    group: int = 16
    """Channels per group of the grouped convolutions."""
    encoder_depth: int = 1
    """Residual blocks at each size in the encoder."""
    decoder_extra: int = 0
    """Residual blocks the decoder has besides its usual ones at each of its two middle sizes."""

    @property
    def stride(self) -> int:
        """Pixels to a latent, along each side."""
        return 16


class Residual(nn.Module):
    """Normalise, mix nearby pixels within channel groups, mix channels, add."""

    def __init__(self, width: int, group: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(8, width)
        self.near = nn.Conv2d(width, width, 3, padding=1, groups=max(1, width // group))
        self.mix = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, H, W) -> the same."""
        return x + self.mix(F.gelu(self.near(self.norm(x)), approximate="tanh"))


def upsample(width: int, out: int) -> nn.Sequential:
    """Twice the side by a pixel shuffle."""
    return nn.Sequential(nn.Conv2d(width, out * 4, 1), nn.PixelShuffle(2))


def residual(width: int, group: int, depth: int = 1) -> nn.Module:
    """One residual block, or several in a row."""
    blocks = [Residual(width, group) for _ in range(depth)]
    return nn.Sequential(*blocks) if depth > 1 else blocks[0]


def decoder(c: VideoVAEConfig) -> nn.Sequential:
    """Latents (N, C, h, w) to groups of frames, unshuffled by two: (N, 12 * frames_per_latent, 8 h, 8 w)."""
    w = c.width
    return nn.Sequential(
        nn.Conv2d(c.channels, 4 * w, 3, padding=1),
        residual(4 * w, c.group),
        residual(4 * w, c.group),
        upsample(4 * w, 3 * w),
        residual(3 * w, c.group),
        residual(3 * w, c.group, 1 + c.decoder_extra),
        upsample(3 * w, 2 * w),
        residual(2 * w, c.group, 1 + c.decoder_extra),
        upsample(2 * w, 2 * w),
        residual(2 * w, c.group),
        nn.Conv2d(2 * w, 12 * c.frames_per_latent, 3, padding=1),
    )


class VideoVAE(nn.Module):
    """Encoder and decoder; `mean` and `deviation` (C,) normalise latents channel by channel."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, config: VideoVAEConfig) -> None:
        super().__init__()
        self.config = c = config
        w, pixels = c.width, 12 * c.frames_per_latent

        def down(width: int, out: int) -> nn.Conv2d:
            return nn.Conv2d(width, out, 3, stride=2, padding=1)

        self.encoder = nn.Sequential(
            nn.Conv2d(pixels, 2 * w, 3, padding=1),
            nn.GELU(),
            down(2 * w, 2 * w),
            residual(2 * w, c.group, c.encoder_depth),
            down(2 * w, 3 * w),
            residual(3 * w, c.group, c.encoder_depth),
            down(3 * w, 4 * w),
            residual(4 * w, c.group, c.encoder_depth),
            nn.Conv2d(4 * w, c.channels, 1),
        )
        self.decoder = decoder(c)
        self.register_buffer("mean", torch.zeros(c.channels))
        self.register_buffer("deviation", torch.ones(c.channels))

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the convolutions; latents and their normalisation are float32."""
        return next(self.decoder.parameters()).dtype

    def encode_groups(self, frames: Tensor) -> Tensor:
        """Raw latents of groups of frames: (N, frames_per_latent, 3, H, W) -> (N, C, H / 16, W / 16)."""
        pixels = F.pixel_unshuffle(frames.flatten(1, 2), 2).to(self.dtype)
        raw = self.encoder(pixels.contiguous(memory_format=torch.channels_last)).float()
        return self.config.bound * torch.tanh(raw / self.config.bound)

    def decode_groups(self, latents: Tensor) -> Tensor:
        """Raw latents (N, C, h, w) -> frames (N, frames_per_latent, 3, H, W)."""
        return _groups(self.decoder, latents, self.config.frames_per_latent)

    def encode(self, frames: Tensor) -> Tensor:
        """Frames (B, 3, T, H, W) in [-1, 1], T = 1 + 4 (L - 1), to normalised latents (B, C, L, H / 16, W / 16).

        Raises ValueError when T does not fit.
        """
        per = self.config.frames_per_latent
        if (frames.shape[2] - 1) % per:
            raise ValueError(f"{frames.shape[2]} frames are not 1 + a multiple of {per}")
        padded = torch.cat([frames[:, :, :1].expand(-1, -1, per - 1, -1, -1), frames], 2)
        groups = padded.transpose(1, 2).unflatten(1, (-1, per))
        raw = self.encode_groups(groups.flatten(0, 1)).unflatten(0, groups.shape[:2]).transpose(1, 2)
        return (raw - self._channels(self.mean)) / self._channels(self.deviation)

    def encode_image(self, image: Tensor) -> Tensor:
        """A still (B, 3, H, W) in [-1, 1] to one latent (B, C, 1, H / 16, W / 16)."""
        return self.encode(image[:, :, None])

    def decode(self, latents: Tensor) -> Tensor:
        """Normalised latents (B, C, L, h, w) to frames (B, 3, 1 + 4 (L - 1), H, W) in [-1, 1]."""
        raw = latents * self._channels(self.deviation) + self._channels(self.mean)
        return _frames(self.decoder, raw, self.config.frames_per_latent)

    @staticmethod
    def _channels(x: Tensor) -> Tensor:
        return x[:, None, None, None]


class LightVideoDecoder(nn.Module):
    """A small decoder of latents that another VAE made, as in Wan's layout of time: for chunks that have no time.

    It reads normalised latents, of whatever VAE, and has no encoder.
    """

    def __init__(self, config: VideoVAEConfig) -> None:
        super().__init__()
        self.config = config
        self.decoder = decoder(config)

    def decode_groups(self, latents: Tensor) -> Tensor:
        """Latents (N, C, h, w) to frames (N, frames_per_latent, 3, H, W)."""
        return _groups(self.decoder, latents, self.config.frames_per_latent)

    def decode(self, latents: Tensor) -> Tensor:
        """As `VideoVAE.decode`: (B, C, L, h, w) to frames (B, 3, 1 + 4 (L - 1), H, W) in [-1, 1]."""
        return _frames(self.decoder, latents, self.config.frames_per_latent)


def _groups(decoder: nn.Module, latents: Tensor, per: int) -> Tensor:
    """Latents (N, C, h, w) to groups of frames (N, per, 3, H, W)."""
    # Channels last is the faster layout of these convolutions, on the CPU too.
    fast = latents.to(next(decoder.parameters()).dtype).contiguous(memory_format=torch.channels_last)
    return F.pixel_shuffle(decoder(fast), 2).unflatten(1, (per, 3))


def _frames(decoder: nn.Module, latents: Tensor, per: int) -> Tensor:
    """Latents (B, C, L, h, w) to frames (B, 3, 1 + per (L - 1), H, W): of the first group only the last is shown."""
    groups = latents.transpose(1, 2)
    frames = _groups(decoder, groups.flatten(0, 1), per).unflatten(0, groups.shape[:2])
    return frames.flatten(1, 2)[:, per - 1 :].transpose(1, 2).float().clamp(-1, 1)
