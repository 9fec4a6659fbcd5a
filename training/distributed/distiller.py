"""Distillation beyond the laptop: student, teacher and fake score, each sharded over all processes.

    batch ─▶ student makes chunks ─▶ fake score learns them ─▶ both scores judge them ─▶ student learns

The losses are those of the pocket's distillation. What decides how often a model is entered (the step learned from, the
number of chunks) is drawn from the number of the optimiser step alone, so that all processes enter the sharded layers
alike; noise belongs to step and process.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from training.actors import Actor, roughen
from training.corpora.clip_format import Manifest
from training.distill_rollout import Plan, roll_out, rollout_losses
from training.distill_steps import steps_losses
from training.distillation import Sampling, Trio, pointer_losses
from training.distributed.batches import Batch, Batches, Cast, Groups, Place, loader
from training.distributed.model import StageModel, outside_layers, recompute_layers, to_device
from training.distributed.recipe import Distillation, Recipe
from training.distributed.sharding import Average, make_accelerator, shard
from training.distributed.state import load_weights, resume, save
from training.distributed.trainer import make_optimizer
from training.loop import Losses, plot
from training.objectives.guidance import Guidance
from training.scenes import Scene
from training.sessions import Sessions


class Distiller:
    """One stage of distillation in one of its processes."""

    def __init__(self, recipe: Recipe, stage: Distillation, config: dict[str, Any], sampling: Sampling) -> None:
        """config: a manifest's models; sampling: how the student samples, as the manifest says."""
        self.recipe, self.stage, self.sampling = recipe, stage, sampling
        self.accelerator = make_accelerator(recipe.sharding, recipe.mixed_precision, 1)
        self.device = self.accelerator.device
        self.world, self.rank = self.accelerator.num_processes, self.accelerator.process_index
        own = None if stage.start is None else stage.start.parent / "fake" / stage.start.name
        student = self._build(config, stage.start or stage.teacher)
        fake = self._build(config, own if own is not None and own.is_dir() else stage.teacher)
        teacher = self._build(config, stage.teacher, learns=False)
        self.trio = Trio(
            student, teacher, fake, stage.tails, Guidance(stage.guidance, stage.guidance_video, stage.guidance_prompt)
        )
        self.average = Average(student, stage.average)
        self.optimizer = make_optimizer(student, stage.student_rate, stage.weight_decay)
        self.fake_optimizer = make_optimizer(fake, stage.fake_rate, stage.weight_decay)
        self.seen: dict[str, float] = {}
        place = resume(stage.out, student, self.average, self.optimizer)
        self.step = 0 if place is None else int(place["step"])
        if place is not None:
            resume(self._fake_folder, fake, None, self.fake_optimizer, self.step)

    @property
    def _fake_folder(self) -> Path:
        return self.stage.out / "fake"

    def _build(self, config: dict[str, Any], start: Path, *, learns: bool = True) -> Actor:
        """A sharded model with the weights of a folder."""
        with torch.device("meta"):
            actor = Actor(StageModel.of(config))
        actor.requires_grad_(learns)
        if learns and self.recipe.gradient_checkpointing:
            recompute_layers(actor)
        sharded = shard(self.accelerator, actor, is_meta=True)
        load_weights(sharded, start)
        assert isinstance(sharded, Actor), "sharding keeps a module what it is"
        return sharded

    def run(self, manifest: Manifest, groups: Groups) -> None:
        """Distils to the last step; resumes by itself. Progress and log are the first process's."""
        batches = iter(loader(Batches(manifest, groups, self.recipe.reading, Place(self.rank, self.world, self.step))))
        is_first, began = self.accelerator.is_main_process, time.monotonic()
        with tqdm(total=self.stage.steps, initial=self.step, unit="step", disable=not is_first) as bar:
            while self.step < self.stage.steps:
                means = self.train_step(batches)
                bar.update(1)
                if is_first and self.step % self.recipe.log_steps == 0:
                    self._log(means, time.monotonic() - began)
                if self.step % self.stage.checkpoint_steps == 0 or self.step == self.stage.steps:
                    self._save()
        if is_first and (self.stage.out / "log.jsonl").exists():
            plot(self.stage.out / "log.jsonl", self.stage.out / "loss.png")

    def train_step(self, batches: Iterator[Batch]) -> dict[str, float]:
        """One step of the student and those of the fake score before it: all losses, means over the processes."""
        self._set_rates()
        batch = to_device(next(batches), self.device)
        torch.manual_seed(self.recipe.reading.seed * 1_000_003 + self.step * self.world + self.rank)
        with torch.device(self.device):  # positions, masks and draws are made inside models and losses
            losses = self._losses(batch, random.Random(f"{self.recipe.reading.seed}/{self.step}"))
            losses["gradient"] = self._descend(self.trio.student, self.optimizer, losses)
        self.step += 1
        self.average.follow(self.trio.student, self.step)
        told = {name: value.detach().float() for name, value in losses.items()}
        told |= {name: torch.tensor(value, device=self.device) for name, value in self.seen.items()}
        means = self.accelerator.reduce(torch.stack([*told.values()]), "mean")
        return dict(zip(told, means.tolist(), strict=True))

    def _losses(self, batch: Batch, rng: random.Random) -> Losses:
        """The student's losses on a batch, its pointer's on a window among them; the fake score learns on the way."""
        if isinstance(batch, Cast):
            config, plan = self.trio.student.model.conditioner, Plan(self.stage.chunks, self.stage.scored)
            sessions = Sessions(config, batch.reads, batch.scripts)
            made = rollout_losses(self.trio, self, roll_out(self.trio, sessions, plan, self.sampling, rng))
            heard = batch.heard
        else:
            assert isinstance(batch, Scene), "stage I learns on scenes"
            made = steps_losses(self.trio, self, [roughen(batch.context)], self.sampling, rng)
            heard = batch.window
        pointed: Losses = self.trio.student(lambda model: pointer_losses(model, heard))
        return made | pointed

    def learn_fake(self, losses: Callable[[], Losses]) -> None:
        """The fake score's steps that go before one of the student's."""
        for _ in range(self.stage.fake_steps):
            found = losses()
            self.seen |= {name: value.item() for name, value in found.items()}
            self.seen["fake_gradient"] = float(self._descend(self.trio.fake, self.fake_optimizer, found))

    def _descend(self, actor: Actor, optimizer: torch.optim.Optimizer, losses: Losses) -> Tensor:
        """One optimiser step on the sum of the losses; the gradient's length."""
        # a batch may leave a weight unread (a first chunk, a short history); the processes still exchange its gradient
        unread: Tensor = actor(lambda model: torch.stack([p.sum() for p in outside_layers(model)]).sum())
        (torch.stack([*losses.values()]).sum() + 0.0 * unread).backward()
        length = torch.nn.utils.clip_grad_norm_(actor.parameters(), self.stage.gradient_norm)
        optimizer.step()
        optimizer.zero_grad()
        return length.full_tensor() if hasattr(length, "full_tensor") else length

    def _set_rates(self) -> None:
        warm = min(1.0, (self.step + 1) / max(1, self.stage.warmup_steps))
        for optimizer, rate in (
            (self.optimizer, self.stage.student_rate),
            (self.fake_optimizer, self.stage.fake_rate),
        ):
            for group in optimizer.param_groups:
                group["lr"] = rate * warm

    def _save(self) -> None:
        """Both are saved, the student last: the step it is resumed at is one the fake score has too."""
        keep, place = self.recipe.keep_checkpoints, {"step": self.step}
        fake_place = place | {"per_step": self.stage.fake_steps}
        fake, student = self.trio.fake, self.trio.student
        save(self.accelerator, self._fake_folder, fake, None, self.fake_optimizer, fake_place, keep + 1)
        save(self.accelerator, self.stage.out, student, self.average, self.optimizer, place, keep)

    def _log(self, means: dict[str, float], seconds: float) -> None:
        samples = self.step * self.stage.micro_batch * self.world
        line = {"step": self.step, "samples": samples, "minutes": round(seconds / 60, 2)}
        self.stage.out.mkdir(parents=True, exist_ok=True)
        with (self.stage.out / "log.jsonl").open("a") as file:
            file.write(json.dumps(line | {name: round(value, 6) for name, value in means.items()}) + "\n")
