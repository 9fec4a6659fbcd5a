"""How near a few-step student has come to its many-step teacher, on held-out windows, while it learns.

The teacher's samples are drawn once per run and kept beside it. Distances are of latents, chunk by chunk under the same
contexts; what is heard and seen is judged by `evaluation`. B chunks, F features.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from dit_worker.model.vae import VideoVAE
from training.actors import Context, prepare
from training.distillation import Sampling, read_end, sample
from training.objectives.rollout import Latents
from training.train_audio import AudioModel
from training.train_joint import correlation, mouth_opening

BATCH = 16


def frechet(a: Tensor, b: Tensor) -> float:
    """Fréchet distance of two sets of features (N, F), each taken as a Gaussian."""
    a, b = a.double(), b.double()
    cov_a, cov_b = torch.cov(a.T), torch.cov(b.T)
    root = _root(cov_a)
    cross = _root(root @ cov_b @ root)
    distance = (a.mean(0) - b.mean(0)).square().sum() + (cov_a + cov_b - 2 * cross).trace()
    return float(distance.clamp(min=0))


def _root(matrix: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    root: Tensor = vectors @ torch.diag(values.clamp(min=0).sqrt()) @ vectors.T
    return root


def features(latents: Latents) -> dict[str, Tensor]:
    """Per modality (N, F): audio latents with how they move on, video latents by place and with how they move on."""
    audio = torch.cat([latents.audio[:, 1:], latents.audio.diff(dim=1)], -1).flatten(0, 1)
    found = {"audio": audio}
    if latents.video is not None:
        moved = torch.cat([latents.video[:, :, 1:], latents.video.diff(dim=2)], 1)
        found["video"] = moved.movedim(1, -1).flatten(0, 3)
    return found


class Probe:
    """Compares a student with the teacher's samples under one batch of contexts."""

    def __init__(self, contexts: list[Context], ends: list[Tensor], vae: VideoVAE | None = None) -> None:
        """contexts: batches; ends: where each window's pointer truly ends, in slots."""
        self.contexts, self.ends, self.vae = contexts, ends, vae
        self.teacher: list[Latents] = []

    def prepare(self, teacher: AudioModel, sampling: Sampling, path: Path) -> None:
        """Draws the teacher's samples, or takes those kept at `path`."""
        if path.exists():
            kept = load_file(path)
            self.teacher = [Latents(kept[f"audio.{i}"], kept.get(f"video.{i}")) for i in range(len(self.contexts))]
            return
        self.teacher = self.draw(teacher, sampling)
        tensors = {
            f"{n}.{i}": x for i, made in enumerate(self.teacher) for n, x in zip(made._fields, made, strict=True)
        }
        save_file({n: x.contiguous() for n, x in tensors.items() if x is not None}, path)

    def draw(self, model: AudioModel, sampling: Sampling) -> list[Latents]:
        """Samples under every context, always from the same noise."""
        state = torch.get_rng_state()
        torch.manual_seed(5)
        made = [sample(model, context, sampling) for context in self.contexts]
        torch.set_rng_state(state)
        return made

    @torch.no_grad()
    def measure(self, student: AudioModel, sampling: Sampling) -> dict[str, float]:
        """Fréchet distances to the teacher's samples, error of the pointer's end, and how the mouths go together."""
        made = self.draw(student, sampling)
        measured: dict[str, float] = {}
        sets = [[features(each) for each in group] for group in (made, self.teacher)]
        for name in sets[0][0]:
            ours, theirs = (torch.cat([f[name] for f in group]) for group in sets)
            measured[f"val_frechet_{name}"] = frechet(ours, theirs)
            measured[f"val_spread_{name}"] = float(ours.std(0).mean() / theirs.std(0).mean())
        ends = [
            read_end(student, prepare(student, c), m.audio) - end
            for c, m, end in zip(self.contexts, made, self.ends, strict=True)
        ]
        measured["val_end"] = float(torch.cat(ends).abs().mean())
        pictures = [group[0].video for group in (made, self.teacher)]
        if self.vae is not None and pictures[0] is not None and pictures[1] is not None:
            a, b = mouth_opening(self.vae.decode(pictures[0])), mouth_opening(self.vae.decode(pictures[1]))
            moving = b.std(-1) > 0.01
            measured["val_mouth_to_teacher"] = correlation(a, b)[moving].mean().item()
        return measured
