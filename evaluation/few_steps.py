"""What fewer steps cost: whole performances of held-out transcripts by several runs and ways of sampling.

    python -m evaluation.few_steps joint:50 joint:4 distill-steps:4 distill-rollout:4:renoise

A row is run[:steps[:sampler[:shift[:scale of the audio noise]]]]; what it does not say is as the run was distilled.
The first row is what the others are compared with: phone errors by the first judge with a paired 95 % interval, and
Fréchet distances of latents. Sessions are rolled out on their own outputs, as at serving, and all rows get the same
transcripts, voices, portraits and noise.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from dit_worker.model.codec import AudioCodec
from dit_worker.model.sampler import SAMPLERS
from dit_worker.model.vae import VideoVAE
from evaluation.judge import BLANK, PAUSE, Judge, collapse, load_judge
from evaluation.sync import correlation, mouth_opening
from evaluation.words import Errors, compare, total
from services.prompts import PromptWords
from training import train_vae
from training.actors import prepare
from training.corpora.shards import read_shard
from training.distill_probe import features, frechet
from training.distillation import Sampling, generate, read_config, read_end
from training.loop import load_weights
from training.objectives.rollout import Latents
from training.sessions import Rules, Script, Sessions
from training.train_audio import AudioModel, load_codec
from training.windows import make_track, phone_ids

SHARE_OF_RATE = 8
"""Tokens a chunk moves on by at the least; sessions that are slower are cut off."""
BOOTSTRAP = 2000


@dataclass(frozen=True)
class Text:
    """A held-out transcript: its script and the phones meant, by name, pauses left out."""

    script: Script
    phones: tuple[str, ...]


@dataclass(frozen=True)
class Row:
    """One way to perform."""

    run: str
    sampling: Sampling

    @property
    def name(self) -> str:
        """Told briefly."""
        s = self.sampling
        return f"{self.run} {s.steps} {s.kind} shift {s.shift:g} noise {s.noise_scale_audio:g}"


@dataclass
class Take:
    """What came of one row: per text the phone errors and how unlikely the judge finds the phones meant (nats a phone),
    how many ended, and audio and video latents of the chunks."""

    errors: list[Errors[int]]
    surprise: list[float]
    ended: int
    chunks: list[Latents]
    seconds: float
    mouth: float = 0.0


def parse_row(text: str, checkpoints: Path) -> Row:
    """A row from the command line. Raises ValueError when it cannot be read."""
    run, *values = text.split(":")
    if len(values) > 1 and values[1] not in SAMPLERS:
        raise ValueError(f"no sampler {values[1]!r}: there are {', '.join(SAMPLERS)}")
    known = read_config(checkpoints / run).get("sampler", {})
    fields = zip(("steps", "kind", "shift", "noise_scale_audio"), (int, str, float, float), values, strict=False)
    return Row(run, Sampling(**known | {name: kind(value) for name, kind, value in fields}))


def held_out_texts(options: argparse.Namespace, codec: AudioCodec, phones: list[str], frames: int) -> list[Text]:
    """Passages of each voice's last shard with pictures, each before its own portrait, in its voice saying another."""
    texts: list[Text] = []
    names = options.voices.split(",")
    for voice in names:
        shard = max(path.stem for path in options.video.glob(f"{voice}-*.safetensors"))
        passages = list(read_shard(options.corpus / f"{shard}.npz"))
        portraits = load_file(options.video / f"{shard}.safetensors")
        known = {n.partition(".")[2] for n in portraits if n.startswith("reference.")}
        ids = phone_ids(phones)
        tracks = [make_track(p, codec, ids, 24.0) for p in passages]
        for i in range(options.texts // len(names)):
            spoken = tracks[(i + 1) % len(tracks)].latents
            reference = spoken.repeat(frames // len(spoken) + 1, 1)[:frames]
            picture = None
            if not options.speech_alone:
                picture = portraits[f"reference.{i if str(i) in known else 0}"].float()
            script = Script(tracks[i].ids.tolist(), reference, picture)
            texts.append(Text(script, tuple(p for p in passages[i].phones if p != PAUSE)))
    return texts


@torch.inference_mode()
def perform(model: AudioModel, scripts: Sequence[Script], sampling: Sampling, seed: int, rules: Rules) -> Sessions:
    """Rolls all scripts out to their ends. Those that end early go on in silence."""
    torch.manual_seed(seed)
    sessions = Sessions(model.conditioner, PromptWords([]), scripts, rules)
    longest = max(len(s.tokens) for s in scripts)
    for chunk in count():
        if chunk * SHARE_OF_RATE > longest or all(
            pointer >= len(s.tokens) for pointer, s in zip(sessions.pointers[-1], scripts, strict=True)
        ):
            return sessions
        context = sessions.context()
        prepared = prepare(model, context)
        made = generate(model, prepared, context, sampling, sampling.steps - 1).final
        sessions.follow(made, read_end(model, prepared, made.audio), context.start)
    raise AssertionError("count never ends")


def take_of(
    row: Row, model: AudioModel, texts: Sequence[Text], judge: Judge, codec: AudioCodec, options: argparse.Namespace
) -> Take:
    """Performs a row and has it heard."""
    began = time.monotonic()
    errors, chunks, ended = [], [], 0
    mouths: list[float] = []
    surprise: list[float] = []
    vae = load_vae(options) if options.mouths and not options.speech_alone else None
    order = sorted(range(len(texts)), key=lambda i: len(texts[i].script.tokens))
    for first in range(0, len(order), options.batch):
        part = [texts[i] for i in order[first : first + options.batch]]
        sessions = perform(model, [t.script for t in part], row.sampling, options.seed + first, Rules())
        for i, text in enumerate(part):
            length = next(
                k for k in count() if k == len(sessions.audio) or sessions.pointers[k][i] >= len(text.script.tokens)
            )
            ended += sessions.pointers[length][i] >= len(text.script.tokens)
            video = torch.stack([v[i] for v in sessions.video[:length]]) if sessions.video else None
            made = Latents(torch.stack([a[i] for a in sessions.audio[:length]]), video)
            log_mel = codec.unproject(made.audio.flatten(0, 1)[None])
            errors.append(compare(judge.ids(text.phones), hear_phones(judge, log_mel)))
            surprise.append(surprise_at(judge, text.phones, log_mel))
            chunks.append(made)
            if vae is not None and len(mouths) < options.mouths:
                mouths.append(mouth_against_sound(vae, made, log_mel))
    return Take(errors, surprise, ended, chunks, time.monotonic() - began, float(np.mean(mouths)) if mouths else 0.0)


@torch.inference_mode()
def hear_phones(judge: Judge, log_mel: Tensor) -> list[int]:
    """Phones heard in log-mels (1, F, M), without pauses."""
    pause = judge.config.phones.index(PAUSE) + 1
    heard = collapse(judge(log_mel)[0].argmax(-1).tolist())
    return [output for output, _ in heard if output not in (BLANK, pause)]


@torch.inference_mode()
def surprise_at(judge: Judge, phones: Sequence[str], log_mel: Tensor) -> float:
    """Negative log-likelihood of the phones meant, per phone, by CTC: finer than errors, which are few."""
    meant = torch.tensor([judge.ids(phones)])
    scores = judge(log_mel).log_softmax(-1).transpose(0, 1)
    pause = judge.config.phones.index(PAUSE) + 1
    scores[..., BLANK] = torch.logaddexp(scores[..., BLANK], scores[..., pause])  # a pause may stand anywhere
    loss = F.ctc_loss(scores, meant, torch.tensor([len(scores)]), torch.tensor([meant.shape[1]]), zero_infinity=True)
    return float(loss)


@torch.inference_mode()
def mouth_against_sound(vae: VideoVAE, made: Latents, log_mel: Tensor) -> float:
    """Correlation of how open the mouth is with how loud the sound is, frame by frame."""
    assert made.video is not None
    frames = torch.cat([vae.decode(chunk[None])[0] for chunk in made.video], 1).permute(1, 2, 3, 0)
    pictures = ((frames + 1) * 127.5).clamp(0, 255).to(torch.uint8).numpy()
    loud = log_mel[0].mean(-1).reshape(len(pictures), -1).mean(-1)
    return correlation(mouth_opening(pictures), loud.numpy())


def load_vae(options: argparse.Namespace) -> VideoVAE:
    """The video VAE."""
    return train_vae.load_vae(options.checkpoints / options.vae / "model.safetensors")


def difference(first: Take, other: Take) -> tuple[float, float, float]:
    """How many phone errors in a hundred `other` makes more than `first`, and its 95 % interval over texts."""
    a, b = (np.array([e.substituted + e.lost + e.added for e in take.errors], float) for take in (first, other))
    meant = np.array([e.total for e in first.errors], float)
    drawn = np.random.default_rng(0).integers(0, len(meant), (BOOTSTRAP, len(meant)))
    spread = 100 * (b - a)[drawn].sum(1) / meant[drawn].sum(1)
    low, high = np.quantile(spread, [0.025, 0.975])
    return 100 * float((b - a).sum() / meant.sum()), float(low), float(high)


def report(row: Row, take: Take, first: Take) -> dict[str, object]:
    """Figures of one row."""
    errors = total(take.errors)
    figures: dict[str, object] = {
        "row": row.name,
        "phone_error_rate": round(100 * errors.rate, 2),
        "surprise": round(float(np.mean(take.surprise)), 3),
        "lost": errors.lost,
        "added": errors.added,
        "repeated": errors.repeated,
        "phones": errors.total,
        "ended": f"{take.ended}/{len(take.errors)}",
        "chunks": sum(len(made.audio) for made in take.chunks),
        "mouth_to_sound": round(take.mouth, 3),
        "seconds": round(take.seconds),
    }
    if take is not first:
        figures["more_errors"] = [round(x, 2) for x in difference(first, take)]
        ours, theirs = (features(_join(t.chunks)) for t in (take, first))
        figures |= {f"frechet_{n}": round(frechet(ours[n], theirs[n]), 4) for n in ours}
    return figures


def _join(chunks: list[Latents]) -> Latents:
    pictures = [c.video for c in chunks if c.video is not None]
    return Latents(torch.cat([c.audio for c in chunks]), torch.cat(pictures) if pictures else None)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="+", help="run[:steps[:sampler[:shift[:noise]]]]")
    parser.add_argument("--corpus", type=Path, default=Path("data/corpus"))
    parser.add_argument("--video", type=Path, default=Path("data/video"))
    parser.add_argument("--checkpoints", type=Path, default=Path("data/checkpoints"))
    parser.add_argument("--codec", type=Path, default=Path("data/checkpoints/audio_codec.safetensors"))
    parser.add_argument("--judge", type=Path, default=Path("data/checkpoints/judge"))
    parser.add_argument("--voices", default="kal16,slt,rms,awb")
    parser.add_argument("--vae", default="vae", help="the run whose video VAE made the latents")
    parser.add_argument("--speech-alone", action="store_true", help="without pictures, which costs a quarter")
    parser.add_argument("--texts", type=int, default=40)
    parser.add_argument("--batch", type=int, default=20, help="texts performed at once")
    parser.add_argument("--mouths", type=int, default=8, help="texts whose pictures are looked at")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="a file to which a line of JSON is added per row")
    return parser.parse_args()


def main() -> None:
    """Command line."""
    options = arguments()
    torch.set_num_threads(1)
    try:
        rows = [parse_row(text, options.checkpoints) for text in options.rows]
    except (ValueError, FileNotFoundError) as error:
        print(f"few_steps: {error}", file=sys.stderr)
        raise SystemExit(2) from error
    config, codec, judge = (
        read_config(options.checkpoints / rows[0].run),
        load_codec(options.codec),
        load_judge(options.judge),
    )
    texts = held_out_texts(options, codec, config["phones"], config["conditioner"]["reference_frames"])
    first: Take | None = None
    for row in rows:
        model = AudioModel.of(read_config(options.checkpoints / row.run)).eval().requires_grad_(requires_grad=False)
        load_weights(model, options.checkpoints / row.run / "model.safetensors")
        take = take_of(row, model, texts, judge, codec, options)
        first = first or take
        figures = report(row, take, first)
        print(json.dumps(figures), flush=True)
        if options.out is not None:
            with options.out.open("a") as file:
                file.write(json.dumps(figures) + "\n")


if __name__ == "__main__":
    main()
