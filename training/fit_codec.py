"""Stage 1: fits the audio codec's basis on the corpus: `python -m training.fit_codec`.

Principal axes of stacked log-mel frames, all voices together. The scale of an axis is the square root of its
deviation (so large axes stay larger, as their errors are heard more), normalised to unit variance overall.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from dit_worker.model.codec import AudioCodec, AudioCodecConfig
from training.corpora.shards import Passage, read_corpus


def fit(codec: AudioCodec, passages: list[Passage]) -> float:
    """Fills the codec's buffers. Returns the root mean square error of the log-mel (nepers)."""
    width = codec.mean.shape[0]
    frames = [p.log_mel[: len(p.log_mel) // 4 * 4].reshape(-1, width).astype(np.float32) for p in passages]
    stacked = np.concatenate(frames)
    mean = stacked.mean(0)
    values, axes = np.linalg.eigh(np.cov((stacked - mean).T))
    values, axes = values[::-1], axes[:, ::-1]
    channels = codec.config.channels
    scale = values[:channels] ** 0.25
    latents = (stacked - mean) @ axes[:, :channels] / scale
    scale = scale * latents.std()
    codec.mean.copy_(torch.from_numpy(mean))
    codec.basis.copy_(torch.from_numpy(axes[:, :channels].copy()))
    codec.scale.copy_(torch.from_numpy(scale.astype(np.float32)))
    first = np.stack([f[:2].mean(0) for f in frames]).mean(0)
    codec.silence.copy_(codec.project(torch.from_numpy(first).reshape(1, 4, -1))[0, 0])
    return float(np.sqrt(values[channels:].sum() / width))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpus", type=Path, default=Path("data/corpus"))
    parser.add_argument("--out", type=Path, default=Path("data/checkpoints/audio_codec.safetensors"))
    parser.add_argument("--channels", type=int, default=32, help="of a latent")
    options = parser.parse_args()
    codec = AudioCodec(AudioCodecConfig(channels=options.channels))
    error = fit(codec, read_corpus(options.corpus)[::8])
    options.out.parent.mkdir(parents=True, exist_ok=True)
    save_file(codec.state_dict(), options.out)
    print(f"log-mel error {error:.3f}, wrote {options.out}")


if __name__ == "__main__":
    main()
