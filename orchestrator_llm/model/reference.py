"""Reference latents of a voice: the analysis half of the bundle's audio codec.

The same arithmetic as the codec's `encode` in the DiT worker, which this package may not import; a test holds the two
together. S samples, C latent channels.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

WEIGHTS = "audio_codec.safetensors"
FLOOR = 1e-3
LEVEL = 0.08
"""Root mean square every reference is brought to, as the corpus was."""


class ReferenceEncoder:
    """Log-mel frames projected on the bundle's axes."""

    def __init__(self, weights: Mapping[str, Tensor], codec: Mapping[str, Any], frames: int = 24) -> None:
        self._mean, self._basis, self._scale = (weights[name] for name in ("mean", "basis", "scale"))
        self._filters = weights["filters"]
        self.silence = weights["silence"]
        """The latent (C,) of a silent moment."""
        self._codec, self._frames = codec, frames
        self._taper = torch.hann_window(codec["window"])

    @staticmethod
    def load(bundle: Path, codec: Mapping[str, Any]) -> ReferenceEncoder:
        """Reads the codec's axes and filters."""
        return ReferenceEncoder(load_file(bundle / WEIGHTS), codec)

    def encode(self, samples: Tensor) -> Tensor:
        """(S,) at the bundle's sample rate to the loudest stretch as (frames, C). Raises ValueError when too short."""
        c = self._codec
        step = c["hop"] * c["frames_per_latent"]
        count = samples.shape[0] // step
        if count < self._frames:
            raise ValueError(f"a reference voice needs at least {self._frames * step} samples at {c['sample_rate']} Hz")
        level = samples * (LEVEL / (samples.square().mean().sqrt() + 1e-6))
        latents = self._project(self._log_mel(level[: count * step].clamp(-1, 1)))
        energy = level[: count * step].square().reshape(count, step).mean(1)
        begin = int(energy.unfold(0, self._frames, 1).sqrt().mean(1).argmax())
        return latents[begin : begin + self._frames]

    def _log_mel(self, samples: Tensor) -> Tensor:
        c = self._codec
        edge = (c["fft"] - c["hop"]) // 2
        padded = F.pad(samples[None, None], (edge, edge), mode="reflect")[0, 0]
        spectrum = torch.stft(padded, c["fft"], c["hop"], c["window"], self._taper, center=False, return_complex=True)
        return torch.log(self._filters @ spectrum.abs() + FLOOR).T

    def _project(self, log_mel: Tensor) -> Tensor:
        return (log_mel.reshape(-1, self._mean.shape[0]) - self._mean) @ self._basis / self._scale
