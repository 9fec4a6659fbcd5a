"""Stage 4: speech and picture together: `python -m training.train_joint`.

Pretraining 2 of StreamChar §5.1 at the pocket's size: flow matching on both modalities under one timestep (eq. 2), with
reference, sink and motion as clean condition tokens and the caption's words for cross-attention. A share of each batch
is speech alone from the whole corpus, so that the words stay as well learned as the first stage left them.
"""

from __future__ import annotations

import argparse
import json
import random
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from dit_worker.model.prompt import PromptEncoderConfig
from dit_worker.model.sampler import euler, timesteps
from dit_worker.model.vae import VideoVAE
from orchestrator_llm.model.conditioner import ConditionerConfig
from services.prompts import PromptWords
from training.actors import autocast, predict, prepare, roughen
from training.corpora.captions import WORDS
from training.corpora.shards import read_shard
from training.loop import Budget, Loop, Losses
from training.objectives.guidance import leave_out
from training.objectives.rollout import Latents
from training.scenes import Scene, SceneSource, load_performances
from training.train_audio import (
    VOICES,
    AudioModel,
    alignment_losses,
    audio_losses,
    draw_times,
    is_matrix,
    load_codec,
)
from training.train_vae import load_vae
from training.warm_start import carry_over
from training.windows import Track, Window, WindowSource, make_track, phone_ids

MOUTH = (slice(74, 102), slice(54, 74))
"""Rows and columns in the middle of the mouth's way."""


def joint_losses(
    model: AudioModel, scene: Scene, times: Tensor | None = None, tails: int = 1, unconditioned: float = 0.0
) -> Losses:
    """Flow matching of both modalities and alignment, each chunk at `tails` timesteps that share its memory.

    A share of the rows is `unconditioned`.
    """
    window = Window(*(x.repeat_interleave(tails, 0) for x in scene.window))
    clean = scene.video.repeat_interleave(tails, 0)
    count = len(clean)
    t = draw_times(count) if times is None else times
    prepared = prepare(model, scene.context if times is not None else roughen(scene.context)).repeat(tails)
    noise, noise_video = torch.randn_like(window.clean), torch.randn_like(clean)
    noisy = torch.lerp(window.clean, noise, t[:, None, None])
    noisy_video = torch.lerp(clean, noise_video, t[:, None, None, None, None])
    sound = (prepared.audio_motion, prepared.audio_motion_mask)
    assert prepared.memory is not None, "a scene has pictures"
    with autocast(noisy):
        tail = model.conditioner.tail(prepared.prefix, noisy, t, prepared.start)
        condition = leave_out(tail.condition, unconditioned)
        v = model.dit.velocity(prepared.memory, noisy_video, noisy, t, condition, *sound, prompt=prepared.prompt)
    return {
        "audio": F.mse_loss(v.audio, noise - window.clean),
        "video": F.mse_loss(v.video, noise_video - clean),
        **alignment_losses(tail, model.conditioner, window),
    }


def sample_batch(model: AudioModel, scene: Scene, steps: int = 4, scale: float = 0.4) -> Latents:
    """Generates a batch of chunks from noise."""
    made = Latents(scale * torch.randn_like(scene.window.clean), torch.randn_like(scene.video))
    prepared = prepare(model, scene.context)
    for now, then in pairwise(timesteps(steps)):
        v = predict(model, prepared, made, torch.full((len(scene.video),), now))
        made = made.map(lambda x, y, now=now, then=then: euler(x, y, now, then), v)
    return made


def mouth_opening(frames: Tensor) -> Tensor:
    """How dark the middle of the mouth region is, frame by frame: (B, 3, T, H, W) -> (B, T)."""
    return -frames[..., *MOUTH].mean((1, 3, 4))


def correlation(a: Tensor, b: Tensor) -> Tensor:
    """Pearson correlation along the last axis."""
    a, b = a - a.mean(-1, keepdim=True), b - b.mean(-1, keepdim=True)
    cosine: Tensor = (a * b).sum(-1) / (a.norm(dim=-1) * b.norm(dim=-1) + 1e-6)
    return cosine


def validation(model: AudioModel, vae: VideoVAE, source: SceneSource) -> dict[str, float]:
    """Losses on held-out performances, how the generated mouth follows the true one, and what the words are worth."""
    state = torch.get_rng_state()
    torch.manual_seed(5)
    scene = source.batch(random.Random(9), 48, chunks=1)
    measured: dict[str, float] = {}
    for t in (1.0, 0.5):
        torch.manual_seed(6)
        losses = joint_losses(model, scene, torch.full((48,), t))
        measured |= {f"val_{name}_{t}": losses[name].item() for name in ("audio", "video", "attention", "end")}
    torch.manual_seed(6)
    silent = scene._replace(context=replace(scene.context, words=None, words_mask=None))
    measured["val_video_0.5_unprompted"] = joint_losses(model, silent, torch.full((48,), 0.5))["video"].item()
    video = sample_batch(model, scene).video
    assert video is not None, "a scene has pictures"
    made, true = vae.decode(video[:24]), vae.decode(scene.video[:24])
    a, b = mouth_opening(made), mouth_opening(true)
    speaking = b.std(-1) > 0.01
    measured["val_mouth_correlation"] = correlation(a, b)[speaking].mean().item()
    measured["val_mouth_shuffled"] = correlation(a, b.roll(1, 0))[speaking].mean().item()
    measured["val_psnr"] = float(10 * torch.log10(4 / (made - true).square().mean()))
    torch.set_rng_state(state)
    return measured


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpus", type=Path, default=Path("data/corpus"))
    parser.add_argument("--video", type=Path, default=Path("data/video"))
    parser.add_argument("--checkpoints", type=Path, default=Path("data/checkpoints"))
    parser.add_argument("--vae", default="vae", help="the run whose video VAE made the latents")
    parser.add_argument("--start", default="audio", help="the run to begin from")
    parser.add_argument("--name", default="joint", help="folder of this run under checkpoints")
    parser.add_argument("--samples", type=int, default=60_000, help="chunks with pictures to train on")
    parser.add_argument("--minutes", type=float, default=600.0, help="stop after so long at the latest")
    parser.add_argument("--batch", type=int, default=16, help="chunks with pictures in a batch")
    parser.add_argument("--speech", type=int, default=24, help="chunks of speech alone beside them")
    parser.add_argument("--tails", type=int, default=2, help="timesteps of each; a batch has so much the fewer chunks")
    parser.add_argument("--speech-weight", type=float, default=1.0, help="weight of their losses")
    parser.add_argument(
        "--words-weight", type=float, default=0.25, help="weight of the sound of chunks with pictures: few, soon known"
    )
    parser.add_argument("--voices", default=VOICES, help="speakers and their share of the speech")
    parser.add_argument(
        "--unconditioned", type=float, default=0.1, help="share of the chunks that learn without c_a, for guidance"
    )
    parser.add_argument("--rate", type=float, default=1.0e-3)
    parser.add_argument("--hold", type=float, default=0.35, help="share of the budget before the rate falls")
    parser.add_argument("--floor", type=float, default=0.03, help="share of the rate that is left at the end")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--without",
        action="append",
        default=[],
        help="an option to leave out, for ablations",
        choices=["condition_to_video", "learned_positions"],
    )
    return parser.parse_args()


def configuration(options: argparse.Namespace) -> dict[str, Any]:
    """The configuration of the run to begin from, with prompts and without what is left out."""
    config: dict[str, Any] = json.loads((options.checkpoints / options.start / "config.json").read_text())
    config["dit"] |= dict.fromkeys(options.without, False)
    config["vae"] = options.vae
    if "prompt" not in config:
        prompt = PromptEncoderConfig(words=len(WORDS))
        config |= {"prompt_words": list(WORDS), "prompt": asdict(prompt)}
        config["dit"]["prompt_width"] = prompt.width
    return config


def main() -> None:
    """Trains the stage."""
    options = arguments()
    torch.set_num_threads(options.threads)
    torch.manual_seed(1)
    config = configuration(options)
    weights = {name: float(share) for name, share in (item.split(":") for item in options.voices.split(","))}
    source, unseen = sources(options, config, weights)
    vae = load_vae(options.checkpoints / options.vae / "model.safetensors")
    model = AudioModel.of(config)
    budget = Budget(
        options.samples, options.minutes, options.batch, options.rate, hold=options.hold, floor=options.floor
    )
    loop = Loop(model, options.checkpoints / options.name, budget, is_matrix)
    (loop.folder / "config.json").write_text(json.dumps(config, indent=1))
    if not loop.resume():
        begun = load_file(options.checkpoints / options.start / "model.safetensors")
        loop.begin_from(carry_over(begun, model.state_dict(), None))
    rng = random.Random(loop.place.step)

    def losses() -> Losses:
        more = {"tails": options.tails, "unconditioned": options.unconditioned}
        both = joint_losses(model, source.batch(rng, options.batch // options.tails), **more)
        both = {name: value * (1.0 if name == "video" else options.words_weight) for name, value in both.items()}
        speech = audio_losses(model, source.windows.batch(rng, options.speech // options.tails), **more)
        return both | {f"speech_{name}": options.speech_weight * value for name, value in speech.items()}

    loop.run(losses, lambda: validation(model, vae, unseen))


def sources(
    options: argparse.Namespace, config: dict[str, Any], weights: dict[str, float]
) -> tuple[SceneSource, SceneSource]:
    """Scenes to learn from, and scenes of each voice's last shard with pictures, which nothing learns from.

    Speech keeps clear of each voice's last shard of all too: more pictures may be there when the stage goes on.
    """
    conditioner, phones = ConditionerConfig(**config["conditioner"]), config["phones"]
    codec_path, words = options.checkpoints / "audio_codec.safetensors", PromptWords(config["prompt_words"])
    shards = load_performances(options.corpus, options.video, codec_path, phones)
    filmed = sorted({name.rpartition("-")[0] for name in shards} & set(weights))  # a set has another order each time
    held_out = [max(name for name in shards if name.rpartition("-")[0] == voice) for voice in filmed]
    codec, ids = load_codec(codec_path), phone_ids(phones)
    heard: dict[str, list[Track]] = {voice: [] for voice in weights}
    spoken = sorted(path for path in options.corpus.glob("*.npz") if path.stem.rpartition("-")[0] in weights)
    last = {path.stem.rpartition("-")[0]: path.stem for path in spoken}
    for path in spoken:
        if path.stem not in {*held_out, *last.values()}:
            for passage in read_shard(path):
                heard[passage.voice].append(make_track(passage, codec, ids, 24.0))
    unheard = [p for name in held_out for p in shards[name]]
    tracks = {voice: [p.track for p in unheard if p.voice == voice] for voice in filmed}
    shares = {voice: weights[voice] for voice in filmed}
    train = [p for name, performances in shards.items() if name not in held_out for p in performances]
    return (
        SceneSource(WindowSource(conditioner, heard, codec.silence, weights), train, words),
        SceneSource(WindowSource(conditioner, tracks, codec.silence, shares), unheard, words, first_share=0.0),
    )


if __name__ == "__main__":
    main()
