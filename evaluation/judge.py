"""The first judge: a small recogniser that hears phones in log-mel frames, by CTC.

It learns from true speech of the corpus alone (`evaluation.train_judge`) and never hears what a model of ours says, so
it cannot learn to forgive it. It knows phones, no words and no texts.
B batch, F log-mel frames, M mel bands, O outputs (F / 2), P phones + blank, S samples.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from dit_worker.model.codec import AudioCodec

BLANK = 0
PAUSE = "pau"
LEVEL = 0.08
"""Root mean square that speech is brought to before it is judged, as the corpus was."""
FRAMES_PER_OUTPUT = 2


@dataclass(frozen=True)
class JudgeConfig:
    """Sizes. `phones` are names; output i + 1 is phone i, output 0 the blank."""

    phones: tuple[str, ...]
    mel_bands: int = 80
    width: int = 160
    layers: int = 5
    kernel: int = 7


class Mixer(nn.Module):
    """Looks along time within a channel, then across channels, and adds."""

    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        self.along = nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=width)
        self.across = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """(B, O, width) -> the same."""
        seen = self.along(x.transpose(1, 2)).transpose(1, 2)
        mixed: Tensor = self.across(F.layer_norm(seen, seen.shape[-1:]))
        return x + mixed


class Judge(nn.Module):
    """Log-mel frames to phone scores, one output every two frames."""

    def __init__(self, config: JudgeConfig) -> None:
        super().__init__()
        self.config = config
        self.enter = nn.Conv1d(config.mel_bands, config.width, 5, stride=FRAMES_PER_OUTPUT, padding=2)
        self.mixers = nn.Sequential(*(Mixer(config.width, config.kernel) for _ in range(config.layers)))
        self.leave = nn.Linear(config.width, len(config.phones) + 1)

    def forward(self, log_mel: Tensor) -> Tensor:
        """(B, F, M) -> logits (B, O, P)."""
        x = F.gelu(self.enter(((log_mel + 3) / 2).transpose(1, 2))).transpose(1, 2)
        x = self.mixers(x)
        logits: Tensor = self.leave(F.layer_norm(x, x.shape[-1:]))
        return logits

    def ids(self, phones: Sequence[str]) -> list[int]:
        """Outputs of phones by name, without pauses and phones it does not know."""
        known = {name: i + 1 for i, name in enumerate(self.config.phones)}
        return [known[name] for name in phones if name in known and name != PAUSE]


def save_config(config: JudgeConfig, folder: Path) -> None:
    """Writes the sizes beside the weights."""
    (folder / "config.json").write_text(json.dumps(asdict(config), indent=1) + "\n")


def load_judge(folder: Path) -> Judge:
    """A trained judge. Raises FileNotFoundError with the command that trains one."""
    if not (folder / "model.safetensors").exists():
        raise FileNotFoundError(f"no judge in {folder}: run `python -m evaluation.train_judge --out {folder}` first")
    stored = json.loads((folder / "config.json").read_text())
    judge = Judge(JudgeConfig(**{**stored, "phones": tuple(stored["phones"])}))
    judge.load_state_dict(load_file(folder / "model.safetensors"))
    return judge.eval().requires_grad_(requires_grad=False)


def collapse(outputs: Sequence[int]) -> list[tuple[int, int]]:
    """CTC's reading of the best output at each moment: (phone output, first moment), repeats and blanks dropped."""
    before = [BLANK, *outputs]
    return [(now, i) for i, (last, now) in enumerate(zip(before, outputs, strict=False)) if now not in (BLANK, last)]


class Heard:
    """What the judge made of one utterance."""

    def __init__(self, judge: Judge, scores: np.ndarray, seconds_per_output: float) -> None:
        """scores: log-probabilities (O, P)."""
        self.scores = scores
        self._judge, self._seconds = judge, seconds_per_output
        self._events = collapse(scores.argmax(-1).tolist())

    @property
    def phones(self) -> list[int]:
        """Outputs heard in order, without pauses."""
        pause = self._judge.config.phones.index(PAUSE) + 1
        return [output for output, _ in self._events if output != pause]

    @property
    def timed(self) -> list[tuple[str, float]]:
        """Phones by name, pauses included, and the second each was first heard."""
        return [(self._judge.config.phones[output - 1], moment * self._seconds) for output, moment in self._events]


def at_level(samples: np.ndarray, level: float = LEVEL) -> np.ndarray:
    """Samples (S,) brought to one root mean square."""
    loud = float(np.sqrt(np.mean(np.square(samples)))) + 1e-6
    return np.clip(samples * (level / loud), -1, 1).astype(np.float32)


@torch.inference_mode()
def listen(judge: Judge, codec: AudioCodec, samples: np.ndarray) -> Heard:
    """Hears one utterance (S,) at the codec's rate."""
    whole = max(1, len(samples) // codec.samples_per_latent) * codec.samples_per_latent
    padded = np.pad(samples, (0, max(0, whole - len(samples))))[:whole]
    log_mel = codec.log_mel(torch.from_numpy(at_level(padded))[None])
    scores = judge(log_mel)[0].float().log_softmax(-1).numpy()
    return Heard(judge, scores, FRAMES_PER_OUTPUT * codec.config.hop / codec.config.sample_rate)
