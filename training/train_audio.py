"""Stage 2: the conditioner, the pointer and the DiT's audio half on speech alone: `python -m training.train_audio`.

Pretraining 1 of StreamChar §5.1 at the pocket's size: flow matching on audio (eq. 2), the pointer supervised by known
phone times (eq. 5), attention guided by them too.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from dit_worker.model.attention import plain_attention
from dit_worker.model.codec import AudioCodec, AudioCodecConfig
from dit_worker.model.dit import DiTConfig, JointDiT
from dit_worker.model.prompt import PromptEncoder, PromptEncoderConfig
from orchestrator_llm.model.causal_lm import plain_attention as plain_causal_attention
from orchestrator_llm.model.conditioner import Conditioner, ConditionerConfig, Tail
from training.corpora.shards import read_corpus
from training.loop import Budget, Loop, Losses
from training.make_corpus import PASSAGES_PER_SHARD
from training.objectives.guidance import leave_out
from training.warm_start import carry_over, latent_map
from training.windows import FIRST_PHONE, Track, Window, WindowSource, make_track, phone_ids

HELD_OUT_TRACKS = PASSAGES_PER_SHARD
"""The last of each voice, one shard: the joint stage and the comparisons after it hold out the same."""
PITCHES = (86, 94, 108, 116)
VOICES = ",".join(
    ["kal16:0.22", "slt:0.22", "rms:0.22", "awb:0.22"]
    + [f"{voice}@{percent}:0.0075" for voice in ("kal16", "slt", "rms", "awb") for percent in PITCHES]
)
"""The four voices; other pitches of each, so that the reference is heard and not looked up, are 12 % of it all."""


class AudioModel(nn.Module):
    """The modules that learn together, under the names of their bundle files; `prompt` only where prompts act."""

    def __init__(
        self, conditioner: ConditionerConfig, dit: DiTConfig, prompt: PromptEncoderConfig | None = None
    ) -> None:
        super().__init__()
        self.conditioner = Conditioner(conditioner, plain_causal_attention)
        self.dit = JointDiT(dit, plain_attention)
        if prompt is not None:
            self.prompt = PromptEncoder(prompt, plain_attention)

    @staticmethod
    def of(config: Mapping[str, Any]) -> AudioModel:
        """The model of a run's config.json."""
        prompt = PromptEncoderConfig(**config["prompt"]) if "prompt" in config else None
        return AudioModel(ConditionerConfig(**config["conditioner"]), DiTConfig(**config["dit"]), prompt)


def is_matrix(name: str) -> bool:
    """Which weights Muon learns: the matrices inside transformer layers."""
    return any(part in name for part in ("body.layers", "dit.blocks", "audio_encoder", "audio_decoder"))


def draw_times(count: int) -> Tensor:
    """Timesteps of a batch: a quarter near pure noise, where the words are decided, the rest logit-normal."""
    uniform = torch.rand(count)
    near_noise = 1 - 0.12 * uniform * torch.rand(count)
    return torch.where(torch.rand(count) < 0.25, near_noise, torch.sigmoid(1.2 * torch.randn(count) + 0.4))


def alignment_losses(tail: Tail, conditioner: Conditioner, window: Window) -> Losses:
    """What the known phone times say of the pointer: attention, positions, durations, end (eq. 5)."""
    alignment, slots = tail.alignment, conditioner.config.text_slots
    nearest = window.positions.floor().clamp(0, slots - 1).long()
    attention = F.cross_entropy(alignment.logits.flatten(0, 1), nearest.flatten())
    positions = F.smooth_l1_loss(alignment.positions, window.positions)
    end = F.smooth_l1_loss(conditioner.point(tail), window.end)
    losses = {"attention": 0.3 * attention, "positions": 0.1 * positions, "end": 0.1 * end}
    if alignment.log_durations is not None:
        known = window.durations > 0  # none at all in a batch of idle chunks
        error = (alignment.log_durations - (window.durations + 0.1).log()).abs() * known
        losses["durations"] = 0.3 * error.sum() / known.sum().clamp(min=1)
    return losses


def audio_losses(
    model: AudioModel,
    window: Window,
    times: Tensor | None = None,
    training: bool = True,
    tails: int = 1,
    unconditioned: float = 0.0,
) -> Losses:
    """Flow matching and alignment of one batch, each window at `tails` timesteps: they share its prefix, which costs
    more than they do when the history is long. A share of the rows is `unconditioned`."""
    history, repeated = window.history, Window(*(x.repeat_interleave(tails, 0) for x in window))
    count = len(repeated.clean)
    t = draw_times(count) if times is None else times
    start = repeated.start
    if training:
        history = history + torch.randn_like(history) * (0.25 * torch.rand(len(history), 1, 1))
        start = (start + 0.25 * torch.randn(count)).clamp(0, model.conditioner.config.text_slots - 1.01)
    noise = torch.randn_like(repeated.clean)
    noisy = torch.lerp(repeated.clean, noise, t[:, None, None])
    with torch.autocast("cpu", torch.bfloat16):
        cache = model.conditioner.reference_cache(window.reference)
        prefix = model.conditioner.prefix(cache, window.ids, history, window.history_mask).repeat(tails)
        tail = model.conditioner.tail(prefix, noisy, t, start)
        motion = model.dit.config.audio_motion
        heard = history[:, -motion:].repeat_interleave(tails, 0)
        condition = leave_out(tail.condition, unconditioned)
        velocity = model.dit.audio_velocity(noisy, t, condition, heard, repeated.history_mask[:, -motion:])
    flow = F.mse_loss(velocity, noise - repeated.clean)
    return {"audio": flow, **alignment_losses(tail, model.conditioner, repeated)}


def load_codec(path: Path) -> AudioCodec:
    """The fitted codec, with as many channels as its file has."""
    state = load_file(path)
    codec = AudioCodec(AudioCodecConfig(channels=state["basis"].shape[1]))
    codec.load_state_dict(state, strict=False)
    return codec


def load_tracks(corpus: Path, codec: AudioCodec) -> tuple[list[str], dict[str, list[Track]]]:
    """Phones of the corpus and its tracks by voice."""
    passages = read_corpus(corpus)
    phones = sorted({name for p in passages for name in p.phones})
    ids = phone_ids(phones)
    tracks: dict[str, list[Track]] = {}
    for passage in passages:
        track = make_track(passage, codec, ids, codec.config.sample_rate / codec.samples_per_latent)
        tracks.setdefault(passage.voice, []).append(track)
    return phones, tracks


def pocket_configs(phones: int, channels: int) -> tuple[ConditionerConfig, DiTConfig]:
    """Sizes of the pocket bundle."""
    conditioner = ConditionerConfig(
        vocabulary=FIRST_PHONE + phones,
        latent_channels=channels,
        reference_frames=48,
        history_frames=330,
        text_per_chunk=20,
        text_kernel=5,
        context_in_condition=True,
        pointer={"duration_bias": True},
    )
    dit = DiTConfig(audio_channels=channels, audio_motion=12, learned_positions=True, condition_to_video=True)
    return conditioner, dit


def validation(model: AudioModel, source: WindowSource) -> dict[str, float]:
    """Losses on held-out tracks at four times."""
    torch_state = torch.get_rng_state()
    torch.manual_seed(5)
    window = source.batch(random.Random(9), 128, chunks=1)
    measured: dict[str, float] = {}
    for t in (1.0, 0.75, 0.5, 0.25):
        losses = audio_losses(model, window, torch.full((128,), t), training=False)
        measured |= {f"val_{name}_{t}": losses[name].item() for name in ("audio", "attention", "end")}
    torch.set_rng_state(torch_state)
    return measured


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpus", type=Path, default=Path("data/corpus"))
    parser.add_argument("--checkpoints", type=Path, default=Path("data/checkpoints"))
    parser.add_argument("--name", default="audio", help="folder of this run under checkpoints")
    parser.add_argument("--samples", type=int, default=130_000, help="sample-chunks to train on")
    parser.add_argument("--minutes", type=float, default=600.0, help="stop after so long at the latest")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument(
        "--tails", type=int, default=2, help="timesteps of each window; a batch is so much the fewer windows"
    )
    parser.add_argument("--floor", type=float, default=0.03, help="share of the learning rate that is left at the end")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--voices", default=VOICES, help="speakers and their share of the samples")
    parser.add_argument("--start", help="a run to begin from; its latents may be another codec's")
    parser.add_argument(
        "--without",
        action="append",
        default=[],
        help="an option to leave out, for ablations",
        choices=["duration_bias", "context_in_condition", "text_kernel", "audio_motion"],
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    codec = load_codec(options.checkpoints / "audio_codec.safetensors")
    phones, tracks = load_tracks(options.corpus, codec)
    weights = {name: float(share) for name, share in (item.split(":") for item in options.voices.split(","))}
    conditioner, dit = without(pocket_configs(len(phones), codec.config.channels), options.without)
    source = WindowSource(conditioner, {v: tracks[v][:-HELD_OUT_TRACKS] for v in weights}, codec.silence, weights)
    held_out = WindowSource(conditioner, {v: tracks[v][-HELD_OUT_TRACKS:] for v in weights}, codec.silence, weights)
    model = AudioModel(conditioner, dit)
    folder = options.checkpoints / options.name
    budget = Budget(options.samples, options.minutes, options.batch, hold=0.4, floor=options.floor)
    loop = Loop(model, folder, budget, is_matrix)
    (folder / "config.json").write_text(
        json.dumps({"phones": phones, "conditioner": asdict(conditioner), "dit": asdict(dit)}, indent=1)
    )
    if not loop.resume() and options.start:
        loop.begin_from(continue_from(model, options.checkpoints / options.start, codec))
    rng = random.Random(loop.place.step)
    windows = options.batch // options.tails

    def losses() -> Losses:
        return audio_losses(model, source.batch(rng, windows), tails=options.tails)

    loop.run(losses, lambda: validation(model, held_out))


def continue_from(model: AudioModel, run: Path, codec: AudioCodec) -> dict[str, Tensor]:
    """The weights of an earlier run, told in this model's sizes and latents; its codec lies beside the run or above."""
    beside = run / "audio_codec.safetensors"
    old = load_codec(beside if beside.exists() else run.parent / "audio_codec.safetensors")
    same = old.basis.shape == codec.basis.shape and torch.equal(old.basis, codec.basis)
    return carry_over(
        load_file(run / "model.safetensors"), model.state_dict(), None if same else latent_map(old, codec)
    )


def without(configs: tuple[ConditionerConfig, DiTConfig], names: list[str]) -> tuple[ConditionerConfig, DiTConfig]:
    """Turns options off, one by one."""
    conditioner, dit = asdict(configs[0]), asdict(configs[1])
    for name in names:
        if name == "duration_bias":
            conditioner["pointer"] = {}
        else:
            part = dit if name == "audio_motion" else conditioner
            part[name] = type(part[name])(0)
    return ConditionerConfig(**conditioner), DiTConfig(**dit)


if __name__ == "__main__":
    main()
