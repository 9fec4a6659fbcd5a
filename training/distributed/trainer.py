"""The loop of a large training: sharded, accumulated, averaged, saved, and gone on with.

Randomness belongs to the micro-batch, not to the process, so that a run does not depend on how many processes share it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import torch
from tqdm import tqdm

from training.corpora.clip_format import Manifest
from training.distributed.batches import Batches, Groups, Place, loader
from training.distributed.model import Objective, StageModel, recompute_layers, to_device
from training.distributed.recipe import Pretraining, Recipe, RecipeInvalid
from training.distributed.sharding import Average, make_accelerator, shard
from training.distributed.state import load_weights, resume, save
from training.loop import plot


class Trainer:
    """One stage of a recipe in one of its processes."""

    def __init__(self, recipe: Recipe, stage: Pretraining, config: dict[str, Any]) -> None:
        self.recipe, self.stage = recipe, stage
        passes = stage.batch // stage.micro_batch
        self.accelerator = make_accelerator(recipe.sharding, recipe.mixed_precision, 1)
        self.world, self.rank = self.accelerator.num_processes, self.accelerator.process_index
        if passes % self.world:
            raise RecipeInvalid(f"{passes} micro-batches a step cannot be shared by {self.world} processes alike")
        self.accumulation = passes // self.world
        self.accelerator.gradient_accumulation_steps = self.accumulation
        self.module = self._build(config)
        self.average = Average(self.module, stage.average)
        self.optimizer = make_optimizer(self.module, stage.rate, stage.weight_decay)
        place = resume(stage.out, self.module, self.average, self.optimizer)
        self.step = 0 if place is None else int(place["step"])

    def _build(self, config: dict[str, Any]) -> torch.nn.Module:
        """The sharded objective, begun from a checkpoint or from the recipe's seed."""
        torch.manual_seed(self.recipe.reading.seed)
        start = self.stage.start
        with torch.device("cpu" if start is None else "meta"):
            module: torch.nn.Module = Objective(
                StageModel.of(config), self.stage.objective == "speech", self.stage.unconditioned
            )
        if self.recipe.gradient_checkpointing:
            recompute_layers(module)
        module = shard(self.accelerator, module, start is not None)
        if start is not None:
            load_weights(module, start)
        return module

    def run(self, manifest: Manifest, groups: Groups) -> None:
        """Trains to the last step; resumes by itself. Progress and log are the first process's."""
        place = Place(self.rank, self.world, self.step * self.accumulation)
        batches = iter(loader(Batches(manifest, groups, self.recipe.reading, place)))
        is_first = self.accelerator.is_main_process
        sums: dict[str, float] = {}
        began = time.monotonic()
        with tqdm(total=self.stage.steps, initial=self.step, unit="step", disable=not is_first) as bar:
            while self.step < self.stage.steps:
                for name, value in self.train_step(batches).items():
                    sums[name] = sums.get(name, 0.0) + value / self.recipe.log_steps
                bar.update(1)
                if self.step % self.recipe.log_steps == 0:
                    if is_first:
                        self._log(sums, time.monotonic() - began)
                    sums = {}
                if self.step % self.recipe.checkpoint_steps == 0 or self.step == self.stage.steps:
                    self._save()
        if is_first and (self.stage.out / "log.jsonl").exists():
            plot(self.stage.out / "log.jsonl", self.stage.out / "loss.png")

    def train_step(self, batches: Iterator[Any]) -> dict[str, float]:
        """One optimiser step: the mean losses of all its micro-batches, and the gradient's length."""
        self._set_rate()
        totals: dict[str, torch.Tensor] = {}
        for turn in range(self.accumulation):
            number = (self.step * self.accumulation + turn) * self.world + self.rank
            batch = to_device(next(batches), self.accelerator.device)
            torch.manual_seed(self.recipe.reading.seed * 1_000_003 + number)
            with self.accelerator.autocast():
                losses = self.module(batch)
            # gradients are exchanged each time and kept in parts: whole ones would not fit beside a model of this size
            self.accelerator.backward(torch.stack([*losses.values()]).sum())
            for name, value in losses.items():
                totals[name] = totals.get(name, torch.zeros((), device=value.device)) + value.detach().float()
        parameters = self.module.parameters()
        length = torch.nn.utils.clip_grad_norm_(parameters, self.stage.gradient_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        self.average.follow(self.module, self.step)
        means = torch.stack([*totals.values()]) / self.accumulation
        means = self.accelerator.reduce(means, "mean")
        return dict(zip(totals, means.tolist(), strict=True)) | {"gradient": float(length)}

    def _set_rate(self) -> None:
        warm = min(1.0, (self.step + 1) / max(1, self.stage.warmup_steps))
        for group in self.optimizer.param_groups:
            group["lr"] = self.stage.rate * warm

    def _save(self) -> None:
        save(
            self.accelerator,
            self.stage.out,
            self.module,
            self.average,
            self.optimizer,
            {"step": self.step},
            self.recipe.keep_checkpoints,
        )

    def _log(self, means: dict[str, float], seconds: float) -> None:
        line = {"step": self.step, "samples": self.step * self.stage.batch, "minutes": round(seconds / 60, 2)}
        self.stage.out.mkdir(parents=True, exist_ok=True)
        with (self.stage.out / "log.jsonl").open("a") as file:
            file.write(json.dumps(line | {name: round(value, 6) for name, value in means.items()}) + "\n")


def make_optimizer(module: torch.nn.Module, rate: float, weight_decay: float) -> torch.optim.AdamW:
    """AdamW on what learns; only the matrices of linear layers decay."""
    learning = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
    matrices = {f"{name}.weight" for name, m in module.named_modules() if isinstance(m, torch.nn.Linear)}
    groups = [
        {"params": [p for name, p in learning if name in matrices], "weight_decay": weight_decay},
        {"params": [p for name, p in learning if name not in matrices], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.95))
