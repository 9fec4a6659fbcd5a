"""One training loop for every stage: progress bar, loss log and plot, moving average, checkpoints, resume.

A stage gives a module, a function that returns named losses for the next batch, and a budget; the loop knows nothing of
what is learned. Checkpoints are safetensors, optimiser state included: nothing is ever unpickled.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm import tqdm

Losses = dict[str, Tensor]


@dataclass(frozen=True)
class Budget:
    """How long and how fast. The learning rate warms up, holds, and falls linearly after `hold` of the budget.

    The stage ends at `samples` or at `minutes`, whichever comes first; both move the schedule.
    """

    samples: int
    minutes: float
    batch: int
    rate: float = 1.2e-3
    muon_ratio: float = 1.5
    warmup_steps: int = 100
    hold: float = 0.3
    floor: float = 0.03
    checkpoint_minutes: float = 3.0
    average_from: float = 0.999


@dataclass
class Place:
    """Where a training stands."""

    step: int = 0
    seconds: float = 0.0


def optimizers(module: nn.Module, is_matrix: Callable[[str], bool], rate: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices a stage names (they learn faster under it, docs/log.md), AdamW for the rest."""
    named = [(n, p) for n, p in module.named_parameters() if p.requires_grad]
    matrices = [p for n, p in named if p.ndim == 2 and is_matrix(n)]
    others = [p for n, p in named if not (p.ndim == 2 and is_matrix(n))]
    made: list[torch.optim.Optimizer] = []
    if others:
        made.append(torch.optim.AdamW(others, lr=rate, betas=(0.9, 0.98), weight_decay=0.01))
    if matrices:
        made.append(
            torch.optim.Muon(
                matrices,
                lr=rate,
                weight_decay=0.01,
                momentum=0.95,
                nesterov=True,
                adjust_lr_fn="match_rms_adamw",
                ns_steps=4,
            )
        )
    return made


class Loop:
    """Runs one stage. `folder` gets model.safetensors (the moving average), state.safetensors, log.jsonl, loss.png."""

    def __init__(self, module: nn.Module, folder: Path, budget: Budget, is_matrix: Callable[[str], bool]) -> None:
        self.module, self.folder, self.budget = module, folder, budget
        self.optimizers = optimizers(module, is_matrix, budget.rate)
        self.average = {name: value.detach().clone() for name, value in module.state_dict().items()}
        self.place = Place()
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def progress(self) -> float:
        """Share of the budget used, 0 to 1."""
        used = max(
            self.place.step * self.budget.batch / self.budget.samples, self.place.seconds / 60 / self.budget.minutes
        )
        return min(1.0, used)

    def run(self, losses: Callable[[], Losses], validate: Callable[[], dict[str, float]] | None = None) -> None:
        """Trains to the end of the budget. losses() draws a batch; its sum is minimised."""
        total = self.budget.samples
        saved = began = time.monotonic() - self.place.seconds
        saved += self.place.seconds
        sums: dict[str, float] = {}
        with tqdm(total=total, unit="sample", initial=self.place.step * self.budget.batch, mininterval=5) as bar:
            while self.progress < 1:
                for name, value in self.step(losses()).items():
                    sums[name] = sums.get(name, 0.0) + value
                self.place.seconds = time.monotonic() - began
                bar.update(self.budget.batch)
                if self.place.step % 100 == 0:
                    means = {name: value / 100 for name, value in sums.items()}
                    self.log(means)
                    bar.set_postfix({n: f"{v:.3f}" for n, v in means.items()})
                    sums.clear()
                if time.monotonic() - saved > 60 * self.budget.checkpoint_minutes:
                    saved = time.monotonic()
                    self.checkpoint(validate)
        self.checkpoint(validate)
        plot(self.folder / "log.jsonl", self.folder / "loss.png")

    def step(self, losses: Losses) -> dict[str, float]:
        """One optimiser step on the sum of the losses."""
        rate = self.rate()
        for optimizer in self.optimizers:
            ratio = self.budget.muon_ratio if isinstance(optimizer, torch.optim.Muon) else 1.0
            for group in optimizer.param_groups:
                group["lr"] = rate * ratio
            optimizer.zero_grad()
        torch.stack([*losses.values()]).sum().backward()
        torch.nn.utils.clip_grad_norm_(self.module.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
        self.place.step += 1
        if self.place.step % 4 == 0:
            self._follow()
        return {name: value.item() for name, value in losses.items()}

    def rate(self) -> float:
        """The learning rate now."""
        b = self.budget
        fall = 1 - max(0.0, (self.progress - b.hold) / (1 - b.hold))
        return b.rate * min(1.0, (self.place.step + 1) / b.warmup_steps) * max(b.floor, fall)

    @torch.no_grad()
    def _follow(self) -> None:
        decay = min(self.budget.average_from, 1 - 1 / (self.place.step * 0.1 + 1)) ** 4
        for name, value in self.module.state_dict().items():
            if value.is_floating_point():
                self.average[name].lerp_(value, 1 - decay)

    def log(self, entry: dict[str, float]) -> None:
        """Appends one line to the stage's log."""
        line = {
            "step": self.place.step,
            "samples": self.place.step * self.budget.batch,
            "minutes": round(self.place.seconds / 60, 2),
            **{n: round(v, 5) for n, v in entry.items()},
        }
        with (self.folder / "log.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")

    def checkpoint(self, validate: Callable[[], dict[str, float]] | None = None) -> None:
        """Saves the average for use and everything for resuming; logs the validation of the average."""
        state = {f"module.{n}": v for n, v in self.module.state_dict().items()}
        state |= {
            f"optimizer.{i}.{k}.{n}": v
            for i, o in enumerate(self.optimizers)
            for k, entry in o.state_dict()["state"].items()
            for n, v in entry.items()
            if isinstance(v, Tensor)
        }
        place = {"step": str(self.place.step), "seconds": str(self.place.seconds)}
        for name, tensors in (("model", self.average), ("state", state)):
            partial = self.folder / f"{name}.partial"
            save_file({n: v.detach().clone().contiguous() for n, v in tensors.items()}, partial, place)
            partial.rename(self.folder / f"{name}.safetensors")
        if validate is not None:
            self.log(self.with_average(validate))

    def with_average(self, measure: Callable[[], dict[str, float]]) -> dict[str, float]:
        """Runs a measurement on the averaged weights and puts the training weights back."""
        kept = {n: v.detach().clone() for n, v in self.module.state_dict().items()}
        self.module.load_state_dict(self.average)
        self.module.eval()
        with torch.no_grad():
            measured = measure()
        self.module.train()
        self.module.load_state_dict(kept)
        return measured

    def begin_from(self, weights: dict[str, Tensor]) -> None:
        """Takes weights to start from; the average starts there too."""
        self.module.load_state_dict(weights)
        self.average = {name: value.detach().clone() for name, value in self.module.state_dict().items()}

    def resume(self) -> bool:
        """Goes on from the stage's own checkpoint when there is one."""
        path = self.folder / "state.safetensors"
        if not path.exists():
            return False
        from safetensors import safe_open

        state = load_file(path)
        with safe_open(path, "pt") as file:
            place = file.metadata()
        self.place = Place(int(place["step"]), float(place["seconds"]))
        self.module.load_state_dict({n[7:]: v for n, v in state.items() if n.startswith("module.")})
        self.average = load_file(self.folder / "model.safetensors")
        for i, optimizer in enumerate(self.optimizers):
            fresh = optimizer.state_dict()
            fresh["state"] = _nested(state, f"optimizer.{i}.")
            optimizer.load_state_dict(fresh)
        return True


def _nested(state: dict[str, Tensor], prefix: str) -> dict[int, dict[str, Tensor]]:
    entries: dict[int, dict[str, Tensor]] = {}
    for name, value in state.items():
        if name.startswith(prefix):
            index, key = name[len(prefix) :].split(".", 1)
            entries.setdefault(int(index), {})[key] = value
    return entries


def load_weights(module: nn.Module, path: Path, strict: bool = True) -> Iterable[str]:
    """Loads safetensors into a module; returns the names it lacked when not strict."""
    missing: list[str] = module.load_state_dict(load_file(path), strict=strict).missing_keys
    return missing


def plot(log: Path, picture: Path) -> None:
    """Draws every logged number against samples seen."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    lines = [json.loads(line) for line in log.read_text().splitlines()]
    names = sorted({n for line in lines for n in line} - {"step", "samples", "minutes"})
    figure, axes = pyplot.subplots(max(1, (len(names) + 2) // 3), 3, figsize=(15, 3 * max(1, (len(names) + 2) // 3)))
    for name, axis in zip(names, axes.flat, strict=False):
        points = [(line["samples"], line[name]) for line in lines if name in line]
        axis.plot(*zip(*points, strict=True))
        axis.set_title(name)
        axis.set_xlabel("samples")
    figure.tight_layout()
    figure.savefig(picture, dpi=80)
