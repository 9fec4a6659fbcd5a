"""Distillation II, online rollout consistency: `python -m training.distill_rollout`.

The four-step student performs K chunks on its own outputs; the last three are scored by distribution matching, on a
transcript cut where its own pointer says they ended, and learned from through one step of each (StreamChar §4.2, stage
II; `training.objectives.rollout`). Nothing of the corpus is shown but transcripts, voices and portraits. Options take
parts of the stage away, for the ablations of StreamChar §5.5.
"""

from __future__ import annotations

import argparse
import random
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from training.actors import Context, prepare
from training.distill_probe import Probe
from training.distill_steps import gather, held_out_probe, load_vae, teacher_sampling
from training.distillation import (
    Pair,
    PairLoop,
    Sampling,
    Trio,
    add_arguments,
    add_scores,
    begin,
    generate,
    guidance_of,
    pointer_losses,
    read_end,
    run,
    sampling_of,
    teacher_config,
    voice_weights,
    write_config,
)
from training.loop import Budget, Losses
from training.objectives.rollout import Latents, Unrolled, scored_chunks
from training.scenes import word_ids
from training.sessions import Rules, ScriptSource, Sessions, alone
from training.train_audio import AudioModel
from training.train_joint import sources

TOKENS_PER_CHUNK = 16
"""About what a chunk says of a transcript (16.2 in the corpus)."""


@dataclass(frozen=True)
class Plan:
    """How long a rollout is and what of it is scored."""

    chunks: int = 5
    scored: int = 3
    is_alone: bool = False
    """The scores see a chunk without what came before it."""
    cut: bool = True
    """The scores see no transcript beyond where the pointer ended."""


def roll_out(
    trio: Trio, sessions: Sessions, plan: Plan, sampling: Sampling, rng: random.Random
) -> list[tuple[Context, Latents]]:
    """The student performs `sessions`; returns what the scores are shown: contexts, and samples that have a gradient.

    Nothing that one chunk gives the next carries a gradient.
    """
    shown: list[tuple[int, Context, Latents]] = []
    for chunk in range(plan.chunks):
        context, is_scored = sessions.context(), chunk in scored_chunks(plan.chunks, plan.scored)
        learn = rng.randrange(sampling.steps) if is_scored else sampling.steps - 1
        with torch.set_grad_enabled(is_scored):
            made, end = trio.student(lambda model, c=context, s=learn: perform(model, c, sampling, s))
        sessions.follow(made.final.detach(), end, context.start)
        if is_scored:
            shown.append((chunk, context, made.learned))
    config = trio.student.model.conditioner.config
    scored = [(sessions.scored(context, chunk, plan.cut), made) for chunk, context, made in shown]
    if plan.is_alone:
        scored = [(alone(context, config.text_slots, config.chunk_frames), made) for context, made in scored]
    return scored


def perform(model: AudioModel, context: Context, sampling: Sampling, learn: int) -> tuple[Unrolled, Tensor]:
    """A batch of chunks with a gradient through step `learn`, and where their pointers end (B,), without any."""
    prepared = prepare(model, context)
    made = generate(model, prepared, context, sampling, learn)
    with torch.no_grad():
        return made, read_end(model, prepared, made.final.audio)


def rollout_losses(trio: Trio, loop: Pair, shown: list[tuple[Context, Latents]]) -> Losses:
    """One step: the fake score's lesson on the scored chunks, then the student's."""
    loop.learn_fake(lambda: _mean([trio.fake_losses(context, made) for context, made in shown]))
    losses = []
    for context, made in shown:
        own, seen = trio.student_losses(context, made)
        losses.append(own)
        loop.seen |= seen
    return _mean(losses)


def _mean(losses: list[Losses]) -> Losses:
    """Each loss over the chunks."""
    return {name: torch.stack([each[name] for each in losses]).mean() for name in losses[0]}


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser, "distill-rollout")
    add_scores(parser)
    parser.add_argument("--start", default="distill-steps", help="the student to begin from; the teacher skips stage I")
    parser.add_argument("--batch", type=int, default=4, help="sessions in a batch")
    parser.add_argument("--speech", type=int, default=16, help="windows of speech that keep the pointer right")
    parser.add_argument("--chunks", type=int, default=5, help="chunks of a rollout")
    parser.add_argument("--scored", type=int, default=3, help="last chunks that are scored")
    parser.add_argument("--one-chunk", action="store_true", help="score the last chunk alone, without what came before")
    parser.add_argument("--without-sink", action="store_true", help="no chunk sees the first one")
    parser.add_argument("--without-cut", action="store_true", help="scores see the transcript beyond the pointer too")
    parser.add_argument("--tokens-per-chunk", type=float, default=0.0, help="move on by so many, not by the pointer")
    options = parser.parse_args()
    if not 1 <= options.scored <= options.chunks:
        parser.error("--scored must be between 1 and --chunks")
    if not (options.checkpoints / options.start / "model.safetensors").exists():
        parser.error(f"no run {options.start!r} to begin from: distil it first")
    return options


def main() -> None:
    """Command line."""
    options = arguments()
    torch.set_num_threads(options.threads)
    teacher, sampling = options.checkpoints / options.teacher, sampling_of(options)
    config, folder = teacher_config(options), options.checkpoints / options.name
    trio = Trio.of(config, options.tails, guidance_of(options))
    budget = Budget(options.samples, options.minutes, options.batch, options.rate, warmup_steps=options.warmup)
    loop = PairLoop(trio, folder, budget, options.fake_rate, options.ratio)
    write_config(folder, config, options)
    begin(trio, loop, teacher, options.checkpoints / options.start)
    source, unseen = sources(options, config, voice_weights(options))
    scripts = ScriptSource(source, TOKENS_PER_CHUNK * options.chunks)
    rules = Rules(not options.without_sink, options.tokens_per_chunk)
    plan = Plan(options.chunks, 1 if options.one_chunk else options.scored, options.one_chunk, not options.without_cut)
    probe: Probe = held_out_probe(unseen, load_vae(options))
    probe.prepare(trio.teacher.model, teacher_sampling(sampling, trio.guidance), folder / "teacher.safetensors")

    def losses() -> Losses:
        rng = loop.seed()
        cast = scripts.batch(rng, options.batch)
        sessions = Sessions(trio.student.model.conditioner, partial(word_ids, source.words), cast, rules)
        shown = roll_out(trio, sessions, plan, sampling, rng)
        heard = source.windows.batch(rng, options.speech)
        return gather([rollout_losses(trio, loop, shown), pointer_losses(trio.student.model, heard)])

    run(loop, losses, lambda: probe.measure(trio.student.model, sampling))


if __name__ == "__main__":
    main()
