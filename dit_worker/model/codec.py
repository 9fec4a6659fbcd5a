"""The pocket's audio codec: log-mel frames, four to a latent, projected on the principal axes of speech.

    samples ─STFT─▶ log-mel (4 frames a latent) ─project─▶ latents ─unproject─▶ log-mel ─Griffin-Lim─▶ samples

Linear but for the logarithm, so it needs no gradient: the basis is fitted once by `training.fit_codec`. It knows
nothing of speech, files or sessions. B batch, S samples, T latents, C latent channels, M mel bands, F frames.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FLOOR = 1e-3
"""Added to mel magnitudes before the logarithm; silence is log(FLOOR)."""


@dataclass(frozen=True)
class AudioCodecConfig:
    """Sizes of the codec. `hop` x `frames_per_latent` samples make one latent."""

    sample_rate: int = 15_360
    hop: int = 160
    window: int = 640
    fft: int = 1024
    mel_bands: int = 80
    low_hz: float = 40.0
    high_hz: float = 7600.0
    frames_per_latent: int = 4
    channels: int = 24
    iterations: int = 24
    momentum: float = 0.9


def mel_filters(config: AudioCodecConfig) -> Tensor:
    """Triangular filters on the mel scale, each summing to one: (M, fft // 2 + 1)."""

    def to_mel(hz: Tensor) -> Tensor:
        return 2595 * torch.log10(1 + hz / 700)

    mels = torch.linspace(
        *to_mel(torch.tensor([config.low_hz, config.high_hz], dtype=torch.float64)).tolist(),
        config.mel_bands + 2,
        dtype=torch.float64,
    )
    points = 700 * (10 ** (mels / 2595) - 1)
    bins = torch.linspace(0, config.sample_rate / 2, config.fft // 2 + 1, dtype=torch.float64)
    low, centre, high = (points[i : i + config.mel_bands, None] for i in range(3))
    filters = torch.minimum((bins - low) / (centre - low), (high - bins) / (high - centre)).clamp(min=0)
    return (filters / (filters.sum(1, keepdim=True) + 1e-8)).float()


class AudioCodec(nn.Module):
    """Samples to latents and back.

    Buffers: mean (frames_per_latent * M,), basis (frames_per_latent * M, C), scale (C,), silence (C,), the latent of
    a silent moment.
    """

    mean: Tensor
    basis: Tensor
    scale: Tensor
    silence: Tensor
    filters: Tensor
    inverse_filters: Tensor
    taper: Tensor

    def __init__(self, config: AudioCodecConfig) -> None:
        super().__init__()
        self.config = config
        width = config.frames_per_latent * config.mel_bands
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("basis", torch.zeros(width, config.channels))
        self.register_buffer("scale", torch.ones(config.channels))
        self.register_buffer("silence", torch.zeros(config.channels))
        filters = mel_filters(config)
        self.register_buffer("filters", filters)
        self.register_buffer("inverse_filters", torch.linalg.pinv(filters), persistent=False)
        self.register_buffer("taper", torch.hann_window(config.window), persistent=False)
        self.samples_per_latent = config.hop * config.frames_per_latent
        self.edge = (config.fft - config.hop) // 2

    def spectrum(self, samples: Tensor) -> Tensor:
        """Complex short-time spectrum, frame i centred on sample (i + 1/2) * hop: (B, S) -> (B, bins, S // hop)."""
        c = self.config
        padded = F.pad(samples[:, None], (self.edge, self.edge), mode="reflect")[:, 0]
        return torch.stft(padded, c.fft, c.hop, c.window, self.taper, center=False, return_complex=True)

    def waveform(self, spectrum: Tensor) -> Tensor:
        """Overlap-add inverse of `spectrum`: (B, bins, F) -> (B, F * hop)."""
        c = self.config
        frames = torch.fft.irfft(spectrum, c.fft, dim=1) * self._taper_in_frame()[:, None]
        length = (spectrum.shape[-1] - 1) * c.hop + c.fft
        weight = self._taper_in_frame().square()[None, :, None].expand(1, -1, spectrum.shape[-1])
        fold = {"output_size": (1, length), "kernel_size": (1, c.fft), "stride": (1, c.hop)}
        total, envelope = F.fold(frames, **fold), F.fold(weight, **fold)
        return (total / envelope.clamp(min=1e-3))[:, 0, 0, self.edge : length - self.edge]

    def _taper_in_frame(self) -> Tensor:
        side = (self.config.fft - self.config.window) // 2
        return F.pad(self.taper, (side, side))

    def log_mel(self, samples: Tensor) -> Tensor:
        """(B, S) -> (B, S // hop, M), S a multiple of the samples of one latent."""
        return torch.log(self.filters @ self.spectrum(samples).abs() + FLOOR).transpose(1, 2)

    def project(self, log_mel: Tensor) -> Tensor:
        """(B, F, M) -> latents (B, F // frames_per_latent, C)."""
        stacked = log_mel.reshape(log_mel.shape[0], -1, self.mean.shape[0])
        return (stacked - self.mean) @ self.basis / self.scale

    def unproject(self, latents: Tensor) -> Tensor:
        """(B, T, C) -> log-mel (B, T * frames_per_latent, M)."""
        stacked = (latents * self.scale) @ self.basis.T + self.mean
        return stacked.reshape(latents.shape[0], -1, self.config.mel_bands)

    def encode(self, samples: Tensor) -> Tensor:
        """(B, S) -> (B, S // samples_per_latent, C); a remainder is left out. Raises ValueError below one latent."""
        count = samples.shape[1] // self.samples_per_latent
        if count == 0:
            raise ValueError(f"needs at least {self.samples_per_latent} samples")
        return self.project(self.log_mel(samples[:, : count * self.samples_per_latent]))

    def decode(
        self,
        latents: Tensor,
        previous_latents: Tensor | None = None,
        previous_samples: Tensor | None = None,
        guess: Tensor | None = None,
    ) -> Tensor:
        """Latents (B, T, C) to all samples after those known, (B, (P + T) * samples_per_latent - K).

        previous_latents (B, P, C) came just before; previous_samples (B, K) are theirs, from their first on, as far as
        they are settled: the new samples are found with those held fixed, so that phases run on and no click is heard.
        guess (B, G) is how an earlier call went on from there; the search begins from it.
        """
        known = latents.new_zeros(latents.shape[0], 0) if previous_samples is None else previous_samples
        hint = known if guess is None else torch.cat([known, guess], 1)
        whole = latents if previous_latents is None else torch.cat([previous_latents, latents], 1)
        samples = self._griffin_lim(self._magnitude(self.unproject(whole)), known, hint)
        return samples[:, known.shape[1] :]

    def _magnitude(self, log_mel: Tensor) -> Tensor:
        """Non-negative linear magnitudes whose mel bands are those given: (B, F, M) -> (B, bins, F)."""
        mel = (log_mel.exp() - FLOOR).clamp(min=1e-5).transpose(1, 2)
        magnitude = (self.inverse_filters @ mel).clamp(min=1e-6)
        for _ in range(10):
            magnitude = magnitude * (self.filters.T @ mel) / (self.filters.T @ (self.filters @ magnitude) + 1e-8)
        return magnitude

    def _first_phase(self, hint: Tensor, frames: int) -> Tensor:
        """Unit phases (B, bins, F): those of the hint (B, K) as far as it reaches, then fixed ones, never random."""
        c = self.config
        draw = torch.rand(c.fft // 2 + 1, frames, generator=torch.Generator().manual_seed(0)) * (2 * math.pi)
        phase = torch.polar(torch.ones_like(draw), draw).expand(hint.shape[0], -1, -1).clone()
        reach = min(frames, hint.shape[1] // c.hop)
        if reach:
            padded = F.pad(hint, (0, frames * c.hop - hint.shape[1]))
            phase[..., :reach] = torch.polar(torch.ones(()), self.spectrum(padded)[..., :reach].angle())
        return phase

    def _griffin_lim(self, magnitude: Tensor, known: Tensor, hint: Tensor) -> Tensor:
        """Fast Griffin-Lim (Perraudin 2013) with the first samples known and `hint` to begin from."""
        phase = self._first_phase(hint, magnitude.shape[-1])
        inertia = self.config.momentum / (1 + self.config.momentum)
        before = torch.zeros_like(phase)
        for _ in range(self.config.iterations):
            samples = torch.cat([known, self.waveform(magnitude * phase)[:, known.shape[1] :]], 1)
            now = self.spectrum(samples)
            phase = now - inertia * before
            phase = phase / (phase.abs() + 1e-9)
            before = now
        return torch.cat([known, self.waveform(magnitude * phase)[:, known.shape[1] :]], 1)
