"""What both stages of distillation share: the three models, their losses, and two loops that keep step.

The student is what is learned; the teacher is the real score and never changes; the fake score learns by flow matching
what the student makes, several times for each step of the student. Every draw of a step is a function of its number, so
that a run that was stopped goes on as if it had not been.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import load_file
from torch import Tensor

from dit_worker.model.sampler import SAMPLERS, Kind, timesteps
from training.actors import Actor, Context, Prepared, autocast, hear, predict, prepare
from training.loop import Budget, Loop, Losses, load_weights
from training.objectives.dmd import dmd_gradient, dmd_loss, gap, score_times
from training.objectives.flow_matching import clean_from, flow_matching_loss, noised
from training.objectives.guidance import UNGUIDED, Guidance
from training.objectives.rollout import Latents, Unrolled, unroll
from training.train_audio import VOICES, AudioModel, alignment_losses, draw_times
from training.windows import Window

Config = dict[str, Any]


@dataclass(frozen=True)
class Sampling:
    """How the student samples, in training as at serving: the manifest's section `sampler`."""

    steps: int = 4
    kind: Kind = "euler"
    """What a teacher is sampled by; students learn to be re-noised."""
    shift: float = 2.0
    noise_scale_audio: float = 0.2
    noise_scale_video: float = 1.0
    guidance: Guidance = UNGUIDED
    """Of sampling: other than 1 it costs a second pass of the DiT, which students do without."""

    @property
    def times(self) -> list[float]:
        """Times from noise to clean."""
        return timesteps(self.steps, self.shift)


def draw_noise(model: AudioModel, context: Context, sampling: Sampling) -> Latents:
    """Scaled noise of a batch, with video where there are portraits."""
    c, count = model.dit.config, len(context)
    audio = sampling.noise_scale_audio * torch.randn(count, c.audio_latents, c.audio_channels)
    if context.portrait is None:
        return Latents(audio)
    shape = (c.video_channels, c.video_latents, c.video_height, c.video_width)
    return Latents(audio, sampling.noise_scale_video * torch.randn(count, *shape))


def generate(
    model: AudioModel, prepared: Prepared, context: Context, sampling: Sampling, learn: int, finish: bool = True
) -> Unrolled:
    """A batch of chunks made in the sampling's steps, with a gradient through step `learn` alone."""

    def velocity(noisy: Latents, t: float) -> Latents:
        return predict(model, prepared, noisy, torch.full((len(context),), t), sampling.guidance)

    def draw() -> Latents:
        return draw_noise(model, context, sampling)

    return unroll(velocity, draw, sampling.times, SAMPLERS[sampling.kind], learn, finish)


@torch.no_grad()
def sample(model: AudioModel, context: Context, sampling: Sampling) -> Latents:
    """A batch of chunks, without gradients."""
    return generate(model, prepare(model, context), context, sampling, sampling.steps - 1).final


class Trio:
    """Student, teacher and fake score. Each chunk is scored at `tails` times, which share its prefix and its memory.

    The teacher's score may be guided (DMD2, arXiv 2405.14867, §5): the student then learns what guidance makes, in one
    pass of its DiT where the teacher needs two.
    """

    def __init__(
        self, student: Actor, teacher: Actor, fake: Actor, tails: int = 2, guidance: Guidance = UNGUIDED
    ) -> None:
        self.student, self.teacher, self.fake, self.tails = student, teacher, fake, tails
        self.guidance = guidance
        self.teacher.eval().requires_grad_(requires_grad=False)

    @staticmethod
    def of(config: Config, tails: int = 2, guidance: Guidance = UNGUIDED) -> Trio:
        """Three models of a run's config.json."""
        student, teacher, fake = (Actor(AudioModel.of(config)) for _ in range(3))
        return Trio(student, teacher, fake, tails, guidance)

    def velocity(self, actor: Actor, context: Context, noisy: Latents, t: Tensor) -> Latents:
        """What one of the three answers at the `tails` times of each chunk, the teacher guided."""
        guidance = self.guidance if actor is self.teacher else UNGUIDED

        def answer(model: AudioModel) -> Latents:
            return predict(model, prepare(model, context).repeat(self.tails), noisy, t, guidance)

        found: Latents = actor(answer)
        return found

    def fake_losses(self, context: Context, made: Latents) -> Losses:
        """Flow matching on what the student made (eq. 2); only the fake score learns from it."""
        made, t = self._repeat(made.detach()), draw_times(len(context) * self.tails)
        noise = made.map(torch.randn_like)
        velocity = self.velocity(self.fake, context, made.map(lambda z, e: noised(z, e, t), noise), t)
        losses = {"fake_audio": flow_matching_loss(velocity.audio, made.audio, noise.audio)}
        if velocity.video is not None and made.video is not None and noise.video is not None:
            losses["fake_video"] = flow_matching_loss(velocity.video, made.video, noise.video)
        return losses

    @torch.no_grad()
    def scores(self, context: Context, made: Latents) -> tuple[Latents, Latents]:
        """Clean latents that teacher and fake score see in the student's, already repeated, noised: (real, fake)."""
        t = score_times(len(context) * self.tails)
        noisy = made.map(lambda z: noised(z, torch.randn_like(z), t))
        real, fake = (
            noisy.map(lambda x, v: clean_from(x, v, t), self.velocity(actor, context, noisy, t))
            for actor in (self.teacher, self.fake)
        )
        return real, fake

    def student_losses(self, context: Context, made: Latents) -> tuple[Losses, dict[str, float]]:
        """Distribution matching of each modality; only the student learns from it. Also how far the scores differ."""
        made = self._repeat(made)
        real, fake = self.scores(context, made.detach())
        losses, seen = {}, {}
        for name, x, z_real, z_fake in zip(Latents._fields, made, real, fake, strict=True):
            if x is not None and z_real is not None and z_fake is not None:
                losses[f"dmd_{name}"] = dmd_loss(x, dmd_gradient(x.detach(), z_real, z_fake))
                seen[f"gap_{name}"] = gap(z_real, z_fake).item()
        return losses, seen

    def _repeat(self, latents: Latents) -> Latents:
        return latents.map(lambda x: x.repeat_interleave(self.tails, 0))


def pointer_losses(model: AudioModel, window: Window) -> Losses:
    """The pointer stays where known times put it (eq. 5), half of the time on clean audio, as it is read."""
    t = draw_times(len(window.clean))
    t[::2] = 0
    context = context_of(window)
    prepared = prepare(model, context)
    noisy = noised(window.clean, torch.randn_like(window.clean), t)
    with autocast(noisy):
        tail = model.conditioner.tail(prepared.prefix, noisy, t, context.start)
    return {f"pointer_{name}": value for name, value in alignment_losses(tail, model.conditioner, window).items()}


def context_of(window: Window) -> Context:
    """A window of speech as a context without pictures."""
    return Context(window.reference, window.ids, window.start, window.history, window.history_mask)


def read_end(model: AudioModel, prepared: Prepared, audio: Tensor) -> Tensor:
    """Where the pointer ends on clean audio: (B,) in slots."""
    return model.conditioner.point(hear(model, prepared, audio))


class Pair(Protocol):
    """What steps student and fake score in turn; `seen` is logged beside the losses."""

    seen: dict[str, float]

    def learn_fake(self, losses: Callable[[], Losses]) -> None:
        """The fake score's steps that go before one of the student's."""


class PairLoop(Loop):
    """A student's loop with a fake score's beside it: they are saved and resumed together."""

    def __init__(self, trio: Trio, folder: Path, budget: Budget, fake_rate: float, ratio: int) -> None:
        """ratio: steps of the fake score for each of the student's, which warms up more slowly: at first the fake score
        is the teacher's, so that what differs from it is the guidance and not yet what the student makes.
        """
        super().__init__(trio.student.model, folder, budget, no_matrix)
        fake_budget = replace(budget, samples=budget.samples * ratio, rate=fake_rate, warmup_steps=10)
        self.fake, self.ratio = Loop(trio.fake.model, folder / "fake", fake_budget, no_matrix), ratio
        self.seen: dict[str, float] = {}

    def learn_fake(self, losses: Callable[[], Losses]) -> None:
        """The fake score's steps that go before one of the student's."""
        self.fake.place.seconds = self.place.seconds
        for _ in range(self.ratio):
            self.seen |= self.fake.step(losses())

    def step(self, losses: Losses) -> dict[str, float]:
        """One step of the student; what was seen of the fake score and of the gap is logged with it."""
        return self.seen | super().step(losses)

    def seed(self) -> random.Random:
        """Every draw of this step is a function of its number."""
        torch.manual_seed(self.place.step)
        return random.Random(self.place.step)

    def checkpoint(self, validate: Callable[[], dict[str, float]] | None = None) -> None:
        """Both are saved, the student last: what it is resumed with is then at least as new."""
        self.fake.checkpoint()
        super().checkpoint(validate)

    def resume(self) -> bool:
        """Both go on, or neither."""
        return super().resume() and self.fake.resume()


def no_matrix(_: str) -> bool:
    """Distillation is all AdamW: its gradients are differences of scores, small and noisy, which Muon would blow up."""
    return False


def read_config(run: Path) -> Config:
    """A run's config.json. Raises FileNotFoundError with the run's name."""
    if not (run / "config.json").exists():
        raise FileNotFoundError(f"no run in {run}: train it first")
    config: Config = json.loads((run / "config.json").read_text())
    return config


def teacher_config(options: argparse.Namespace) -> Config:
    """The teacher's config.json; a teacher that is not there ends the command with a sentence and code 2."""
    try:
        return read_config(options.checkpoints / options.teacher)
    except FileNotFoundError as error:
        print(f"{Path(sys.argv[0]).stem}: {error}", file=sys.stderr)
        raise SystemExit(2) from error


def begin(trio: Trio, loop: PairLoop, teacher: Path, start: Path) -> None:
    """Loads the teacher; resumes the other two, or begins both from `start`, with its fake score if it has one."""
    load_weights(trio.teacher.model, teacher / "model.safetensors")
    if loop.resume():
        return
    own = start / "fake" / "model.safetensors"
    loop.begin_from(load_file(start / "model.safetensors"))
    loop.fake.begin_from(load_file(own if own.exists() else teacher / "model.safetensors"))


def run(loop: PairLoop, losses: Callable[[], Losses], validate: Callable[[], dict[str, float]]) -> None:
    """Distils to the end of the budget; what was so before the first step is logged too, as what there is to beat."""
    if loop.place.step == 0:
        loop.log(loop.with_average(validate))
    loop.run(losses, validate)


def add_arguments(parser: argparse.ArgumentParser, name: str) -> None:
    """Options of all that distils."""
    parser.add_argument("--corpus", type=Path, default=Path("data/corpus"))
    parser.add_argument("--video", type=Path, default=Path("data/video"))
    parser.add_argument("--checkpoints", type=Path, default=Path("data/checkpoints"))
    parser.add_argument("--teacher", default="joint", help="the run that is distilled")
    parser.add_argument("--name", default=name, help="folder of this run under checkpoints")
    parser.add_argument("--vae", default="vae", help="the run whose video VAE made the latents")
    parser.add_argument("--voices", default=VOICES, help="speakers and their share of the speech")
    parser.add_argument("--samples", type=int, default=4800, help="chunks or sessions with pictures to learn from")
    parser.add_argument("--minutes", type=float, default=600.0, help="stop after so long at the latest")
    parser.add_argument("--rate", type=float, default=1e-5, help="the student's learning rate")
    parser.add_argument("--guidance", type=float, default=2.5, help="scale of the teacher's sound; 1 is no guidance")
    parser.add_argument("--guidance-video", type=float, default=1.0, help="scale of its picture")
    parser.add_argument("--guidance-prompt", type=float, default=1.0, help="scale of what prompts ask of its picture")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=4, help="steps the student learns to sample in")
    parser.add_argument("--sampler", choices=list(SAMPLERS), default="renoise")
    parser.add_argument("--shift", type=float, default=2.0, help="time shift of the sampler")
    parser.add_argument("--noise-scale-audio", type=float, default=0.2)


def add_scores(parser: argparse.ArgumentParser) -> None:
    """Options of the two stages that match distributions."""
    parser.add_argument("--fake-rate", type=float, default=5e-5, help="the fake score's")
    parser.add_argument("--warmup", type=int, default=60, help="steps over which the student's learning rate rises")
    parser.add_argument("--ratio", type=int, default=1, help="steps of the fake score for each of the student's")
    parser.add_argument("--tails", type=int, default=2, help="times at which each sample is scored")


def sampling_of(options: argparse.Namespace) -> Sampling:
    """The student's sampling as the options say."""
    return Sampling(options.steps, options.sampler, options.shift, options.noise_scale_audio)


def guidance_of(options: argparse.Namespace) -> Guidance:
    """The teacher's guidance as the options say."""
    return Guidance(options.guidance, options.guidance_video, options.guidance_prompt)


def write_config(folder: Path, config: Config, options: argparse.Namespace) -> None:
    """The teacher's config, how the student samples, and how it was made."""
    made = {n: str(v) if isinstance(v, Path) else v for n, v in vars(options).items()}
    sampler = asdict(sampling_of(options))
    del sampler["guidance"]  # of sampling, which a student does without; the teacher's is among the options
    config = config | {"sampler": sampler, "distillation": made}
    (folder / "config.json").write_text(json.dumps(config, indent=1))


def voice_weights(options: argparse.Namespace) -> dict[str, float]:
    """Speakers and their share of the speech."""
    return {name: float(share) for name, share in (item.split(":") for item in options.voices.split(","))}
