"""A listener for the audio decoder's training: `python -m training.listener`.

A small network that names the phone of every log-mel frame, learned from true speech of the corpus with its times. A
decoder that a listener understands as it understands the true sound keeps consonants which spectral distances let
blur. It is no judge: those (`evaluation.judge`) are other networks, learned apart, and nothing learns from them.
B batch, F log-mel frames, M mel bands, P phones.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from dit_worker.model.codec import FLOOR, AudioCodecConfig
from training.corpora.shards import Passage, read_shard
from training.loop import Budget, Loop, Losses

STRETCH = 192
"""Frames of a stretch that is learned from, two seconds."""
GAIN = 0.5
"""Greatest change of level, nepers."""
ROUGHNESS = 0.6
"""Greatest deviation of the noise that is added to log-mels, nepers."""


@dataclass(frozen=True)
class ListenerConfig:
    """Sizes. `phones` are names in the order of outputs."""

    phones: tuple[str, ...]
    mel_bands: int = 80
    width: int = 128
    kernel: int = 9
    layers: int = 4


class Listener(nn.Module):
    """Names phones in log-mel frames, looking `layers` * (`kernel` - 1) / 2 frames to either side and two more."""

    def __init__(self, config: ListenerConfig) -> None:
        super().__init__()
        c = self.config = config
        self.enter = nn.Conv1d(c.mel_bands, c.width, 5, padding=2)
        self.along = nn.ModuleList(
            nn.Conv1d(c.width, c.width, c.kernel, padding=c.kernel // 2, groups=c.width) for _ in range(c.layers)
        )
        self.across = nn.ModuleList(nn.Conv1d(c.width, c.width, 1) for _ in range(c.layers))
        self.leave = nn.Conv1d(c.width, len(c.phones), 1)

    def forward(self, log_mel: Tensor) -> Tensor:
        """(B, M, F) -> logits (B, P, F)."""
        x = F.gelu(self.enter((log_mel + 3) / 2))
        for along, across in zip(self.along, self.across, strict=True):
            mixed = F.layer_norm(along(x).transpose(1, 2), x.shape[1:2]).transpose(1, 2)
            x = x + F.gelu(across(mixed))
        logits: Tensor = self.leave(x)
        return logits


def misheard(listener: Listener, made: Tensor, true: Tensor) -> Tensor:
    """How differently a listener hears two log-mels (B, M, F): nats a frame, Kullback-Leibler from the true one."""
    with torch.no_grad():
        meant = listener(true).log_softmax(1)
    heard = listener(made).log_softmax(1)
    far: Tensor = (meant.exp() * (meant - heard)).sum(1).mean()
    return far


def load_listener(folder: Path) -> Listener:
    """A trained listener. Raises FileNotFoundError with the command that trains one."""
    if not (folder / "model.safetensors").exists():
        raise FileNotFoundError(f"no listener in {folder}: run `python -m training.listener --out {folder}` first")
    stored = json.loads((folder / "config.json").read_text())
    listener = Listener(ListenerConfig(**{**stored, "phones": tuple(stored["phones"])}))
    listener.load_state_dict(load_file(folder / "model.safetensors"))
    return listener.eval().requires_grad_(requires_grad=False)


def labels(passage: Passage, phones: Sequence[str], frame_seconds: float) -> np.ndarray:
    """The phone of every frame of a passage: int64 (F,)."""
    known = {name: i for i, name in enumerate(phones)}
    middles = (np.arange(len(passage.log_mel)) + 0.5) * frame_seconds
    spoken = np.searchsorted(passage.ends, middles, side="right").clip(max=len(passage.phones) - 1)
    named: np.ndarray = np.array([known[name] for name in passage.phones])[spoken]
    return named


class Lessons:
    """Passages of speech, ready to draw stretches of."""

    def __init__(self, passages: Sequence[Passage], phones: Sequence[str], frame_seconds: float) -> None:
        long = [passage for passage in passages if len(passage.log_mel) > STRETCH]
        self.heard = [(passage.log_mel, labels(passage, phones, frame_seconds)) for passage in long]

    def draw(self, rng: random.Random, count: int) -> tuple[Tensor, Tensor]:
        """Log-mels (B, M, F) as they are and the phones of their frames (B, F)."""
        sounds, meant = [], []
        for _ in range(count):
            log_mel, phones = rng.choice(self.heard)
            begin = rng.randrange(len(log_mel) - STRETCH)
            sounds.append(torch.from_numpy(log_mel[begin : begin + STRETCH].astype(np.float32).T))
            meant.append(torch.from_numpy(phones[begin : begin + STRETCH]))
        return torch.stack(sounds), torch.stack(meant)


def roughened(log_mel: Tensor) -> Tensor:
    """Log-mels (B, M, F) at other levels, with more or less noise."""
    level, rough = (torch.rand(len(log_mel), 1, 1) for _ in range(2))
    noisy = log_mel + GAIN * (2 * level - 1) + ROUGHNESS * rough * torch.randn_like(log_mel)
    return noisy.clamp(min=float(np.log(FLOOR)))


def naming(listener: Listener, log_mel: Tensor, phones: Tensor) -> Losses:
    """Cross-entropy of every frame's phone, nats."""
    with torch.autocast("cpu", torch.bfloat16):
        logits = listener(log_mel)
    return {"phones": F.cross_entropy(logits.float(), phones)}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpus", type=Path, default=Path("data/corpus"))
    parser.add_argument("--out", type=Path, default=Path("data/checkpoints/listener"))
    parser.add_argument("--samples", type=int, default=60_000, help="stretches of speech to learn from")
    parser.add_argument("--minutes", type=float, default=10.0, help="stop after so long at the latest")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(1)
    paths = [path for path in sorted(options.corpus.glob("*.npz")) if not path.name.endswith(".partial.npz")]
    if not paths:
        parser.error(f"no shards in {options.corpus}: run `python -m training.make_corpus` first")
    passages = [passage for path in paths[::4] for passage in read_shard(path)]
    phones = tuple(sorted({name for passage in passages for name in passage.phones}))
    codec = AudioCodecConfig()
    seen, unseen = (Lessons(part, phones, codec.hop / codec.sample_rate) for part in (passages[40:], passages[:40]))
    listener = Listener(ListenerConfig(phones, codec.mel_bands))
    loop = Loop(
        listener, options.out, Budget(options.samples, options.minutes, options.batch, rate=3e-3), lambda _: False
    )
    (options.out / "config.json").write_text(json.dumps(asdict(listener.config), indent=1) + "\n")
    loop.resume()
    rng, held_out = random.Random(loop.place.step), unseen.draw(random.Random("held out"), 64)

    def lesson() -> Losses:
        log_mel, phones = seen.draw(rng, options.batch)
        return naming(listener, roughened(log_mel), phones)

    @torch.no_grad()
    def validate() -> dict[str, float]:
        found = listener(held_out[0]).argmax(1)
        return {"val_wrong_frames": (found != held_out[1]).float().mean().item()}

    loop.run(lesson, validate)


if __name__ == "__main__":
    main()
