"""The audio VAE: the codec's projection as encoder, a learned vocoder as decoder.

    latents ─unproject─▶ log-mel ─ConvNeXt─▶ pitch ─▶ pulses ─STFT─▶ x magnitudes and phases ─┐
                                         └▶ magnitudes ──────▶ x STFT of fixed noise ─────────┴─▶ inverse STFT

Source and filter as in the neural source-filter models (Wang 2019), with the spectral head of Vocos (Siuzdak 2023): the
network never has to find out how phases run on, the pulses do. Streaming is exact: a latent's sound depends on
`CONTEXT_LATENTS` before it, on `LATE_LATENTS` after it, and on its place in the period (one chunk).

Phases are anchored: at the end of every period a whole number of pulses has passed, for which the pitch in between is
moved by half a pulse at most (0.4 Hz over a chunk). So nothing has to be carried from chunk to chunk but latents.

B batch, T latents, C latent channels, M mel bands, F frames (four a latent), K bins, S samples.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dit_worker.model.codec import AudioCodec

LATE_LATENTS = 1
"""Latents by which the sound is behind the latents: its frames look so far ahead."""
CONTEXT_LATENTS = 8
"""Latents before those that are heard which a decode must be given."""
LOOKAHEAD = 2
"""Frames after its own that a frame's spectrum depends on."""
_OVERLAP = 2
"""Frames on either side whose windows reach into a frame's samples."""


@dataclass(frozen=True)
class AudioVAEConfig:
    """Sizes of the decoder. `period` is in latents; `deviation` is the posterior's, in latent units."""

    width: int = 192
    layers: int = 6
    kernel: int = 5
    expansion: int = 3
    period: int = 33
    deviation: float = 0.05


class Excitation(NamedTuple):
    """What the voice's cords do at each frame's middle. hz: (B, F); slope: (B, F) Hz a second; phase: (B, F) cycles."""

    hz: Tensor
    slope: Tensor
    phase: Tensor


class Spectra(NamedTuple):
    """What the network says of each frame. hz: (B, F); voiced, turn, breath: (B, F, K).

    voiced and breath are log magnitudes that pulses and noise are given, turn the phase (radians) of the pulses.
    """

    hz: Tensor
    voiced: Tensor
    turn: Tensor
    breath: Tensor


class Mixer(nn.Module):
    """A ConvNeXt block that sees its own frame and those before; its output is shorter by kernel - 1 frames."""

    def __init__(self, width: int, kernel: int, expansion: int) -> None:
        super().__init__()
        self.along = nn.Conv1d(width, width, kernel, groups=width)
        self.norm = nn.LayerNorm(width)
        self.widen = nn.Linear(width, expansion * width)
        self.narrow = nn.Linear(expansion * width, width)
        nn.init.normal_(self.narrow.weight, std=0.02)
        nn.init.zeros_(self.narrow.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, F, width) -> (B, F - kernel + 1, width)."""
        seen = self.norm(self.along(x.transpose(1, 2)).transpose(1, 2))
        mixed: Tensor = self.narrow(F.gelu(self.widen(seen)))
        return x[:, -mixed.shape[1] :] + mixed


class WaveDecoder(nn.Module):
    """Log-mel frames to samples."""

    spread: Tensor
    taper: Tensor
    noise: Tensor

    def __init__(self, config: AudioVAEConfig, codec: AudioCodec) -> None:
        super().__init__()
        self.config, sizes = config, codec.config
        self.rate, self.hop, self.window = sizes.sample_rate, sizes.hop, sizes.window
        self.per_latent = sizes.frames_per_latent
        bins = self.window // 2 + 1
        self.back = LOOKAHEAD + config.layers * (config.kernel - 1)
        assert self.window == 2 * _OVERLAP * self.hop, "the window spans four frames"
        assert self.back + _OVERLAP + 1 <= CONTEXT_LATENTS * self.per_latent, (
            "the network sees no further than its context"
        )
        assert self.per_latent >= LOOKAHEAD + _OVERLAP, "the sound is late enough for what it depends on"
        self.enter = nn.Conv1d(sizes.mel_bands, config.width, 2 * LOOKAHEAD + 1)
        self.mixers = nn.Sequential(
            *(Mixer(config.width, config.kernel, config.expansion) for _ in range(config.layers))
        )
        self.norm = nn.LayerNorm(config.width)
        self.pitch = nn.Linear(config.width, 1)
        self.leave = nn.Linear(config.width, 3 * bins)
        nn.init.normal_(self.leave.weight, std=0.01)
        nn.init.zeros_(self.leave.bias)
        self.register_buffer("spread", _spread(codec), persistent=False)
        self.register_buffer("taper", torch.hann_window(self.window), persistent=False)
        self.register_buffer("noise", self._noise(), persistent=False)

    def forward(self, log_mel: Tensor) -> Spectra:
        """(B, F, M) -> what is said of all frames but the first `back` and the last LOOKAHEAD."""
        x = self.enter(((log_mel + 3) / 2).transpose(1, 2)).transpose(1, 2)
        x = self.norm(self.mixers(x))
        hz = 120 * torch.exp2(self.pitch(x)[..., 0].float())
        voiced, turn, breath = self.leave(x).float().chunk(3, -1)
        base = log_mel[:, self.back : log_mel.shape[1] - LOOKAHEAD].float() @ self.spread
        return Spectra(hz.clamp(50, 500), (base + voiced).clamp(max=6), turn, (base + breath - 1).clamp(max=6))

    def excitation(self, hz: Tensor) -> Excitation:
        """Pitch (B, 1 + 2 + F + 2) to anchored phases of all but the first; the F frames begin a period."""
        own = hz[:, 1:]
        cycles = own.double() * (self.hop / self.rate)
        period = self.config.period * self.per_latent
        whole = (cycles.shape[1] - 2 * _OVERLAP) // period * period
        before, inside, rest = cycles.tensor_split([_OVERLAP, _OVERLAP + whole], 1)
        parts = [-_middles(before.flip(1)).flip(1)]
        for begin in range(0, whole, period):
            part = inside[:, begin : begin + period]
            total = part.sum(1, keepdim=True)
            parts.append(_middles(part) + (total.round() - total) * self._ramp(period))
        phase = torch.cat([*parts, _middles(rest)], 1)
        return Excitation(own, (own - hz[:, :-1]) * (self.rate / self.hop), (phase - phase.floor()).float())

    def _ramp(self, period: int) -> Tensor:
        """How much of a period's correction has been made by each of its frames: none at first, all at last."""
        edge = self.per_latent + _OVERLAP
        place = torch.arange(period, device=self.noise.device)
        return ((place - edge) / (period - 2 * edge)).clamp(0, 1)

    def pulses(self, source: Excitation) -> Tensor:
        """STFT (B, F, K) of a train of pulses as it would run on from each frame's middle: all harmonics alike."""
        moment = torch.arange(-self.window // 2, self.window // 2, device=source.hz.device) / self.rate
        hz, slope, phase = (part[..., None] for part in source)
        cycles = phase + moment * (hz + moment * (slope / 2))
        cycles = cycles - cycles.round()
        count = (0.98 * self.rate / 2 / hz).floor()
        below = torch.sin(math.pi * cycles)
        is_top = below.abs() < 1e-4
        train = torch.sin(math.pi * (2 * count + 1) * cycles) / (2 * torch.where(is_top, torch.ones_like(below), below))
        train = torch.where(is_top, count, train - 0.5)
        return torch.fft.rfft(train * self.taper / self.hop)

    def wave(self, spectra: Spectra, pulses: Tensor, noise: Tensor) -> Tensor:
        """F frames' spectra and excitations (B, F, K) -> samples (B, (F - 4) * hop): two frames less on each side."""
        whole = torch.polar(spectra.voiced.exp(), spectra.turn) * pulses + spectra.breath.exp() * noise
        frames = torch.fft.irfft(whole, self.window) * (self.taper / 1.5)
        hops = frames.unflatten(-1, (2 * _OVERLAP, self.hop))
        last = 2 * _OVERLAP - 1
        total = torch.stack([F.pad(hops[:, :, q], (0, 0, q, last - q)) for q in range(last + 1)]).sum(0).flatten(1)
        begin = (2 * _OVERLAP) * self.hop - self.hop // 2
        return total[:, begin : begin + (frames.shape[1] - 2 * _OVERLAP) * self.hop]

    def noise_of(self, first: int, count: int) -> Tensor:
        """STFT (count, K) of the fixed noise in frames first, first + 1, ... of the period."""
        return self.noise[(torch.arange(first, first + count, device=self.noise.device)) % len(self.noise)]

    def decode(self, log_mel: Tensor) -> Tensor:
        """Log-mel of CONTEXT_LATENTS + T + LATE_LATENTS latents (B, F, M) -> samples of the T (B, T * 4 * hop).

        The first of them begins a period; one that does not end in it is decoded as if it went on.
        """
        per = self.per_latent
        count = log_mel.shape[1] - (CONTEXT_LATENTS + LATE_LATENTS) * per
        skipped = CONTEXT_LATENTS * per - _OVERLAP - 1 - self.back
        used = log_mel[:, skipped : (CONTEXT_LATENTS * per + count + _OVERLAP) + LOOKAHEAD]
        spectra = self(used)
        pulses = self.pulses(self.excitation(spectra.hz))
        heard = Spectra(*(part[:, 1:] for part in spectra))
        return self.wave(heard, pulses, self.noise_of(-_OVERLAP, count + 2 * _OVERLAP))

    def _noise(self) -> Tensor:
        """STFT of one period of white noise that repeats, always the same: (period * 4, K), magnitudes about one."""
        frames = self.config.period * self.per_latent
        white = torch.randn(frames * self.hop, generator=torch.Generator().manual_seed(0))
        around = torch.cat([white[-self.window :], white, white[: self.window]])
        begin = self.window + self.hop // 2 - self.window // 2
        cut = around[begin:].unfold(0, self.window, self.hop)[:frames]
        taper = torch.hann_window(self.window)
        return torch.fft.rfft(cut * taper / taper.square().sum().sqrt())


class AudioVAE(nn.Module):
    """Encoder: the codec's projection, the mean of a posterior of fixed deviation. Decoder: learned."""

    def __init__(self, config: AudioVAEConfig, codec: AudioCodec) -> None:
        super().__init__()
        self.config, self.codec = config, codec
        self.decoder = WaveDecoder(config, codec)

    def encode(self, samples: Tensor) -> Tensor:
        """(B, S) -> the posterior's mean (B, T, C). Raises ValueError below one latent."""
        return self.codec.encode(samples)

    def sample(self, mean: Tensor) -> Tensor:
        """A draw from the posterior: (B, T, C) -> (B, T, C)."""
        return mean + self.config.deviation * torch.randn_like(mean)

    def decode(self, latents: Tensor) -> Tensor:
        """Latents (B, CONTEXT_LATENTS + T + LATE_LATENTS, C) -> samples of the T (B, T * samples_per_latent).

        The first of them begins a period, LATE_LATENTS before a chunk does.
        """
        return self.decoder.decode(self.codec.unproject(latents))

    def decode_whole(self, latents: Tensor) -> Tensor:
        """(B, T, C) with silence before and after -> all their samples (B, T * samples_per_latent), on time."""
        count, per = latents.shape[1], self.codec.samples_per_latent
        periods = -(-(count + LATE_LATENTS) // self.config.period)
        before = self.codec.silence.expand(latents.shape[0], CONTEXT_LATENTS + LATE_LATENTS, -1)
        after = self.codec.silence.expand(latents.shape[0], periods * self.config.period - count, -1)
        samples = self.decode(torch.cat([before, latents, after], 1))
        return samples[:, LATE_LATENTS * per : (LATE_LATENTS + count) * per]


def _middles(cycles: Tensor) -> Tensor:
    """Cycles that each frame lasts (B, F) -> cycles passed at the middle of each."""
    return cycles.cumsum(1) - cycles / 2


def _spread(codec: AudioCodec) -> Tensor:
    """Log-mel bands to bins of the synthesis, linear between the bands' centres: (M, K)."""
    config = codec.config
    bins = torch.linspace(0, config.sample_rate / 2, config.fft // 2 + 1)
    centres = (codec.filters.cpu() @ bins) / codec.filters.cpu().sum(1)
    hz = torch.linspace(0, config.sample_rate / 2, config.window // 2 + 1).clamp(centres[0], centres[-1])
    upper = torch.searchsorted(centres, hz).clamp(1, config.mel_bands - 1)
    share = (hz - centres[upper - 1]) / (centres[upper] - centres[upper - 1])
    matrix = torch.zeros(config.mel_bands, len(hz))
    matrix[upper - 1, torch.arange(len(hz))] = 1 - share
    matrix[upper, torch.arange(len(hz))] += share
    return matrix
