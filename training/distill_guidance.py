"""Before Distillation I, the guidance in one pass: `python -m training.distill_guidance`.

A guided velocity asks the DiT twice. The student learns to answer it in one pass, by regression (arXiv 2210.03142,
§3.1), at the states that its own few steps come through; contexts are those of `training.distill_steps`. What follows,
distribution matching, then begins near what it aims at. The pointer is kept right. What prompts ask of the picture may
be guided by a scale for each thing that can be asked for (`training.requests`).
"""

from __future__ import annotations

import argparse
import random
from itertools import pairwise

import torch
import torch.nn.functional as F

from dit_worker.model.sampler import SAMPLERS
from training.actors import Context, predict, prepare, roughen
from training.distill_probe import Probe
from training.distill_steps import gather, held_out_probe, load_vae, teacher_sampling
from training.distillation import (
    Sampling,
    add_arguments,
    context_of,
    draw_noise,
    guidance_of,
    pointer_losses,
    sampling_of,
    teacher_config,
    voice_weights,
    write_config,
)
from training.loop import Budget, Loop, Losses, load_weights
from training.objectives.guidance import Guidance
from training.requests import ask, parse_scales
from training.train_audio import AudioModel, is_matrix
from training.train_joint import sources


def guidance_losses(
    student: AudioModel, teacher: AudioModel, context: Context, sampling: Sampling, guidance: Guidance
) -> Losses:
    """Error of the student's velocity to the teacher's guided one: mean over the steps of the student's sampler."""
    own, advance = prepare(student, context), SAMPLERS[sampling.kind]
    with torch.no_grad():
        other = prepare(teacher, context)
    x, errors = draw_noise(student, context, sampling), []
    for now, then in pairwise(sampling.times):
        t = torch.full((len(context),), now)
        with torch.no_grad():
            meant = predict(teacher, other, x, t, guidance)
        velocity = predict(student, own, x, t)
        errors.append(velocity.map(F.mse_loss, meant))
        fresh = draw_noise(student, context, sampling)
        x = x.map(lambda at, v, e, t=now, s=then: advance(at, v, t, s, lambda: e), velocity.detach(), fresh)
    losses = {"guided_audio": torch.stack([error.audio for error in errors]).mean()}
    videos = [error.video for error in errors if error.video is not None]
    return losses | ({"guided_video": torch.stack(videos).mean()} if videos else {})


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser, "distill-guidance")
    parser.set_defaults(rate=2e-4)
    parser.add_argument("--start", help="the student to begin from; by default the teacher")
    parser.add_argument("--batch", type=int, default=4, help="chunks with pictures in a batch")
    parser.add_argument("--speech", type=int, default=8, help="chunks of speech alone beside them")
    parser.add_argument(
        "--guidance-slots",
        type=parse_scales,
        default={},
        metavar="SLOT=SCALE,...",
        help="scales of single things that prompts ask for, in fresh prompts: expression=5,gaze=3",
    )
    return parser.parse_args()


def main() -> None:
    """Command line."""
    options = arguments()
    torch.set_num_threads(options.threads)
    sampling, guidance, config = sampling_of(options), guidance_of(options), teacher_config(options)
    folder, taught = options.checkpoints / options.name, options.checkpoints / options.teacher / "model.safetensors"
    student, teacher = AudioModel.of(config), AudioModel.of(config)
    load_weights(teacher.eval().requires_grad_(requires_grad=False), taught)
    budget = Budget(options.samples, options.minutes, options.batch, options.rate, warmup_steps=20)
    loop = Loop(student, folder, budget, is_matrix)
    write_config(folder, config, options)
    if not loop.resume():
        begun = options.checkpoints / (options.start or options.teacher) / "model.safetensors"
        load_weights(student, begun)
        loop.begin_from(student.state_dict())
    source, unseen = sources(options, config, voice_weights(options))
    probe: Probe = held_out_probe(unseen, load_vae(options))
    probe.prepare(teacher, teacher_sampling(sampling, guidance), folder / "teacher.safetensors")

    def losses() -> Losses:
        torch.manual_seed(loop.place.step)
        rng = random.Random(loop.place.step)
        heard = source.windows.batch(rng, options.speech)
        seen, asked = source.batch(rng, options.batch).context, guidance
        if options.guidance_slots:
            seen, scales = ask(rng, seen, source.words, options.guidance_slots)
            asked = guidance._replace(prompt=scales)
        learned = [
            guidance_losses(student, teacher, roughen(context), sampling, guide)
            for context, guide in ((seen, asked), (context_of(heard), guidance))
        ]
        return gather([*learned, pointer_losses(student, heard)])

    loop.run(losses, lambda: probe.measure(student, sampling))


if __name__ == "__main__":
    main()
