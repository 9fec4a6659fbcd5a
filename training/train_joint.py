"""Stage 4: speech and picture together: `python -m training.train_joint`.

Pretraining 2 of StreamChar §5.1 at the pocket's size: flow matching on both modalities under one timestep (eq. 2), with
reference, sink and motion as clean condition tokens. A share of each batch is speech alone from the whole corpus, so
that the words stay as well learned as the first stage left them.
"""

from __future__ import annotations

import argparse
import json
import random
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from dit_worker.model.dit import DiTConfig, JointDiT, Memory
from dit_worker.model.sampler import euler, timesteps
from dit_worker.model.vae import VideoVAE, VideoVAEConfig
from orchestrator_llm.model.conditioner import ConditionerConfig
from training.corpora.shards import read_shard
from training.loop import Budget, Loop, Losses, load_weights
from training.train_audio import AudioModel, alignment_losses, audio_losses, draw_times, is_matrix, load_codec
from training.windows import Track, Window, WindowSource, make_track, phone_ids

HELD_OUT_SHARDS = 2


class Performance(NamedTuple):
    """A passage with its pictures: latents (K, C, L, h, w) of its chunks and of the portrait (C, 1, h, w)."""

    track: Track
    voice: str
    video: Tensor
    reference: Tensor
    is_silent: bool


class Scene(NamedTuple):
    """Pictures of a batch: clean (B, C, L, h, w), reference (B, C, 1, h, w), sink and motion, None for first chunks."""

    clean: Tensor
    reference: Tensor
    sink: Tensor | None
    motion: Tensor | None


class SceneSource:
    """Draws whole batches of performances' chunks; a batch is all first chunks or all later ones, as shapes differ."""

    def __init__(self, windows: WindowSource, performances: list[Performance], first_share: float = 0.15) -> None:
        self.windows, self.performances, self.first_share = windows, performances, first_share
        self.longer = [p for p in performances if len(p.video) > 1]

    def batch(self, rng: random.Random, count: int) -> tuple[Window, Scene]:
        """`count` chunks with their windows."""
        first = rng.random() < self.first_share
        windows, scenes = [], []
        for _ in range(count):
            p = rng.choice(self.performances if first else self.longer)
            k = 0 if first else rng.randrange(1, len(p.video))
            windows.append(self._window(rng, p, k))
            sink = p.video[rng.randrange(k) if k and rng.random() < 0.5 else 0]
            scenes.append((p.video[k], p.reference, sink, p.video[max(0, k - 1)]))
        clean, reference, sink, motion = (torch.stack(x).float() for x in zip(*scenes, strict=True))
        window = Window(*(torch.stack(x) for x in zip(*windows, strict=True)))
        return window, Scene(clean, reference, None if first else sink, None if first else motion)

    def _window(self, rng: random.Random, p: Performance, k: int) -> Window:
        tracks = self.windows.tracks[p.voice]
        reference = self.windows.reference(rng, tracks)
        if p.is_silent:
            return self.windows.idle(rng, p.track, reference)
        before = rng.choice(tracks) if k == 0 else None
        return self.windows.window(rng, p.track, k * self.windows.config.chunk_frames, reference, before)


def remember(dit: JointDiT, scene: Scene, jitter: float = 0.0) -> Memory:
    """Condition tokens of a batch; `jitter` roughens motion as the student's own chunks will be rough."""
    reference = dit.encode_condition("reference", scene.reference)
    if scene.sink is None or scene.motion is None:
        return reference
    sink = dit.encode_condition("sink", scene.sink, reference)
    amount = jitter * torch.rand(len(scene.motion), 1, 1, 1, 1)
    motion = scene.motion + amount * torch.randn_like(scene.motion)
    return Memory.join([reference, sink, dit.encode_condition("motion", motion, Memory.join([reference, sink]))])


def joint_losses(model: AudioModel, window: Window, scene: Scene, times: Tensor | None = None) -> Losses:
    """Flow matching of both modalities and alignment."""
    count = len(window.clean)
    t = draw_times(count) if times is None else times
    history = window.history
    if times is None:
        history = history + torch.randn_like(history) * (0.25 * torch.rand(count, 1, 1))
    noise, noise_video = torch.randn_like(window.clean), torch.randn_like(scene.clean)
    noisy = torch.lerp(window.clean, noise, t[:, None, None])
    noisy_video = torch.lerp(scene.clean, noise_video, t[:, None, None, None, None])
    motion = model.dit.config.audio_motion
    with torch.autocast("cpu", torch.bfloat16):
        tail = model.conditioner(window.reference, window.ids, history, window.history_mask, noisy, t, window.start)
        memory = remember(model.dit, scene, 0.2 if times is None else 0.0)
        velocity = model.dit.velocity(
            memory, noisy_video, noisy, t, tail.condition, history[:, -motion:], window.history_mask[:, -motion:]
        )
    return {
        "audio": F.mse_loss(velocity.audio, noise - window.clean),
        "video": F.mse_loss(velocity.video, noise_video - scene.clean),
        **alignment_losses(tail, model.conditioner, window),
    }


def sample_batch(
    model: AudioModel, window: Window, scene: Scene, steps: int = 4, scale: float = 0.4
) -> tuple[Tensor, Tensor]:
    """Generates a batch from noise: video and audio latents."""
    motion = model.dit.config.audio_motion
    audio, video = scale * torch.randn_like(window.clean), torch.randn_like(scene.clean)
    times = timesteps(steps)
    with torch.autocast("cpu", torch.bfloat16):
        memory = remember(model.dit, scene)
        for now, then in pairwise(times):
            t = torch.full((len(audio),), now)
            tail = model.conditioner(
                window.reference, window.ids, window.history, window.history_mask, audio, t, window.start
            )
            v = model.dit.velocity(
                memory, video, audio, t, tail.condition, window.history[:, -motion:], window.history_mask[:, -motion:]
            )
            audio, video = euler(audio, v.audio, now, then), euler(video, v.video, now, then)
    return video, audio


def mouth_opening(frames: Tensor) -> Tensor:
    """How dark the middle of the mouth region is, frame by frame: (B, 3, T, H, W) -> (B, T)."""
    return -frames[:, :, :, 74:102, 54:74].mean((1, 3, 4))


def correlation(a: Tensor, b: Tensor) -> Tensor:
    """Pearson correlation along the last axis."""
    a, b = a - a.mean(-1, keepdim=True), b - b.mean(-1, keepdim=True)
    cosine: Tensor = (a * b).sum(-1) / (a.norm(dim=-1) * b.norm(dim=-1) + 1e-6)
    return cosine


def validation(model: AudioModel, vae: VideoVAE, source: SceneSource) -> dict[str, float]:
    """Losses, and how the generated mouth follows the true one on held-out performances."""
    state = torch.get_rng_state()
    torch.manual_seed(5)
    window, scene = source.batch(random.Random(9), 48)
    measured: dict[str, float] = {}
    for t in (1.0, 0.5):
        losses = joint_losses(model, window, scene, torch.full((48,), t))
        measured |= {f"val_{name}_{t}": losses[name].item() for name in ("audio", "video", "attention", "end")}
    video, _ = sample_batch(model, window, scene)
    made, true = vae.decode(video[:24]), vae.decode(scene.clean[:24])
    a, b = mouth_opening(made), mouth_opening(true)
    speaking = b.std(-1) > 0.01
    measured["val_mouth_correlation"] = correlation(a, b)[speaking].mean().item()
    measured["val_mouth_shuffled"] = correlation(a, b.roll(1, 0))[speaking].mean().item()
    measured["val_psnr"] = float(10 * torch.log10(4 / (made - true).square().mean()))
    torch.set_rng_state(state)
    return measured


def load_performances(corpus: Path, video: Path, codec_path: Path, phones: list[str]) -> dict[str, list[Performance]]:
    """Performances of each shard."""
    codec, ids = load_codec(codec_path), phone_ids(phones)
    loaded = {}
    for path in sorted(video.glob("*.safetensors")):
        tensors = load_file(path)
        passages = list(read_shard(corpus / f"{path.stem}.npz"))
        count = sum(name.startswith("video.") for name in tensors)
        loaded[path.stem] = [
            Performance(
                make_track(passages[i], codec, ids, 24.0),
                passages[i].voice,
                tensors[f"video.{i}"],
                tensors[f"reference.{i}"],
                bool(tensors[f"silent.{i}"]),
            )
            for i in range(count)
        ]
    return loaded


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpus", type=Path, default=Path("data/corpus"))
    parser.add_argument("--video", type=Path, default=Path("data/video"))
    parser.add_argument("--checkpoints", type=Path, default=Path("data/checkpoints"))
    parser.add_argument("--start", default="audio", help="the run to begin from")
    parser.add_argument("--name", default="joint", help="folder of this run under checkpoints")
    parser.add_argument("--samples", type=int, default=60_000, help="chunks with pictures to train on")
    parser.add_argument("--minutes", type=float, default=600.0, help="stop after so long at the latest")
    parser.add_argument("--batch", type=int, default=16, help="chunks with pictures in a batch")
    parser.add_argument("--speech", type=int, default=24, help="chunks of speech alone beside them")
    parser.add_argument("--speech-weight", type=float, default=1.0, help="weight of their losses")
    parser.add_argument(
        "--words-weight", type=float, default=0.25, help="weight of the sound of chunks with pictures: few, soon known"
    )
    parser.add_argument("--voices", default="kal16:0.62,slt:0.38", help="voices and their share of the speech")
    parser.add_argument("--rate", type=float, default=1.0e-3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--without",
        action="append",
        default=[],
        help="an option to leave out, for ablations",
        choices=["condition_to_video", "learned_positions"],
    )
    return parser.parse_args()


def main() -> None:
    """Trains the stage."""
    options = arguments()
    torch.set_num_threads(options.threads)
    torch.manual_seed(1)
    config = json.loads((options.checkpoints / options.start / "config.json").read_text())
    config["dit"] |= dict.fromkeys(options.without, False)
    weights = {name: float(share) for name, share in (item.split(":") for item in options.voices.split(","))}
    source, unseen = sources(options, ConditionerConfig(**config["conditioner"]), config["phones"], weights)
    vae = VideoVAE(VideoVAEConfig())
    vae.load_state_dict(load_file(options.checkpoints / "vae" / "model.safetensors"))
    model = AudioModel(ConditionerConfig(**config["conditioner"]), DiTConfig(**config["dit"]))
    budget = Budget(options.samples, options.minutes, options.batch, rate=options.rate, hold=0.35)
    loop = Loop(model, options.checkpoints / options.name, budget, is_matrix)
    (loop.folder / "config.json").write_text(json.dumps(config, indent=1))
    if not loop.resume():
        load_weights(model, options.checkpoints / options.start / "model.safetensors", strict=not options.without)
        loop.average = {n: v.detach().clone() for n, v in model.state_dict().items()}
    rng = random.Random(loop.place.step)

    def losses() -> Losses:
        both = joint_losses(model, *source.batch(rng, options.batch))
        both = {name: value * (1.0 if name == "video" else options.words_weight) for name, value in both.items()}
        speech = audio_losses(model, source.windows.batch(rng, options.speech))
        return both | {f"speech_{name}": options.speech_weight * value for name, value in speech.items()}

    loop.run(losses, lambda: validation(model, vae, unseen))


def sources(
    options: argparse.Namespace, conditioner: ConditionerConfig, phones: list[str], weights: dict[str, float]
) -> tuple[SceneSource, SceneSource]:
    """Scenes to learn from, and scenes of each voice's last shard, which nothing learns from."""
    codec_path = options.checkpoints / "audio_codec.safetensors"
    shards = load_performances(options.corpus, options.video, codec_path, phones)
    held_out = [max(name for name in shards if name.startswith(f"{voice}-")) for voice in weights]
    codec, ids = load_codec(codec_path), phone_ids(phones)
    heard: dict[str, list[Track]] = {voice: [] for voice in weights}
    for path in sorted(options.corpus.glob("*.npz")):
        if path.stem not in held_out:
            for passage in read_shard(path):
                heard[passage.voice].append(make_track(passage, codec, ids, 24.0))
    unheard = [p for name in held_out for p in shards[name]]
    tracks = {voice: [p.track for p in unheard if p.voice == voice] for voice in weights}
    train = [p for name, performances in shards.items() if name not in held_out for p in performances]
    return (
        SceneSource(WindowSource(conditioner, heard, codec.silence, weights), train),
        SceneSource(WindowSource(conditioner, tracks, codec.silence, weights), unheard, first_share=0.0),
    )


if __name__ == "__main__":
    main()
