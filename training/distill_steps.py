"""Distillation I, step compression: `python -m training.distill_steps`.

The teacher of many steps becomes a student of four, chunk by chunk, by distribution matching (StreamChar §4.2, stage I;
`training.objectives.dmd`). Contexts are those of pretraining: windows with pictures, and speech alone from the whole
corpus, of which only what conditions a chunk is used; no clean chunk is shown to student or fake score.
"""

from __future__ import annotations

import argparse
import random
from dataclasses import replace

import torch

from dit_worker.model.vae import VideoVAE
from training import train_vae
from training.actors import Context, prepare, roughen
from training.distill_probe import BATCH, Probe
from training.distillation import (
    Pair,
    PairLoop,
    Sampling,
    Trio,
    add_arguments,
    add_scores,
    begin,
    context_of,
    generate,
    guidance_of,
    pointer_losses,
    run,
    sampling_of,
    teacher_config,
    voice_weights,
    write_config,
)
from training.loop import Budget, Losses
from training.objectives.guidance import Guidance
from training.objectives.rollout import Latents
from training.scenes import SceneSource
from training.train_audio import AudioModel
from training.train_joint import sources

TEACHER_STEPS = 50


def steps_losses(trio: Trio, loop: Pair, contexts: list[Context], sampling: Sampling, rng: random.Random) -> Losses:
    """One step: what the student makes of each batch, the fake score's lesson on it, the student's own."""
    learn = rng.randrange(sampling.steps)

    def make(context: Context) -> Latents:
        def use(model: AudioModel) -> Latents:
            return generate(model, prepare(model, context), context, sampling, learn, finish=False).learned

        learned: Latents = trio.student(use)
        return learned

    made = [make(context) for context in contexts]

    def fake_losses() -> Losses:
        return gather([trio.fake_losses(c, m) for c, m in zip(contexts, made, strict=True)])

    loop.learn_fake(fake_losses)
    losses = []
    for context, latents in zip(contexts, made, strict=True):
        own, seen = trio.student_losses(context, latents)
        losses.append(own)
        kind = "" if latents.video is not None else "speech_"
        loop.seen |= {f"{kind}{name}": value for name, value in seen.items()}
    return gather(losses)


def gather(losses: list[Losses]) -> Losses:
    """Losses of several batches under names that do not collide."""
    return {name if i == 0 else f"{name}_{i}": value for i, each in enumerate(losses) for name, value in each.items()}


def held_out_probe(source: SceneSource, vae: VideoVAE | None) -> Probe:
    """Three batches of held-out chunks."""
    rng = random.Random(9)
    scenes = [source.batch(rng, BATCH, chunks) for chunks in (1, 1, 2)]
    return Probe([s.context for s in scenes], [s.window.end for s in scenes], vae)


def teacher_sampling(sampling: Sampling, guidance: Guidance) -> Sampling:
    """How the teacher's own distribution is drawn, which is what the student is matched to: from unscaled noise."""
    whole = replace(sampling, noise_scale_audio=1.0, noise_scale_video=1.0)
    return replace(whole, steps=TEACHER_STEPS, kind="euler", guidance=guidance)


def load_vae(options: argparse.Namespace) -> VideoVAE:
    """The video VAE, for looking at mouths."""
    return train_vae.load_vae(options.checkpoints / options.vae / "model.safetensors")


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser, "distill-steps")
    add_scores(parser)
    parser.add_argument("--start", help="the student to begin from, as `distill-guidance`; by default the teacher")
    parser.add_argument("--batch", type=int, default=8, help="chunks with pictures in a batch")
    parser.add_argument("--speech", type=int, default=16, help="chunks of speech alone beside them")
    return parser.parse_args()


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
    begin(trio, loop, teacher, options.checkpoints / (options.start or options.teacher))
    source, unseen = sources(options, config, voice_weights(options))
    probe = held_out_probe(unseen, load_vae(options))
    probe.prepare(trio.teacher.model, teacher_sampling(sampling, trio.guidance), folder / "teacher.safetensors")

    def losses() -> Losses:
        rng = loop.seed()
        heard = source.windows.batch(rng, options.speech)
        contexts = [roughen(source.batch(rng, options.batch).context), roughen(context_of(heard))]
        return steps_losses(trio, loop, contexts, sampling, rng) | pointer_losses(trio.student.model, heard)

    run(loop, losses, lambda: probe.measure(trio.student.model, sampling))


if __name__ == "__main__":
    main()
