"""What fewer steps, and each part of distillation, cost: the short protocol, performed by several runs and compared.

    python -m evaluation.few_steps joint:50 joint:4 joint:4:renoise distill-steps distill-rollout

A row is run[:steps[:sampler[:shift[:scale of the audio noise[:guidance]]]]] (guidance: sound/picture/prompt), after a
title and = where it is to be told by another name; what it does not say is as the run was distilled. The first row is
what the others are compared with: words and phones by the first judge with paired 95 % intervals over clips, and
Fréchet distances of latents. All rows get the same texts, voices, portraits and noise. A row that was heard before by
the same judge from the same weights is not performed again.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from torch import Tensor

from dit_worker.engine.loader import Models
from dit_worker.model.sampler import SAMPLERS
from evaluation import bootstrap
from evaluation.ensemble import House, Part, perform
from evaluation.judge import BLANK, PAUSE, Judge, listen
from evaluation.lexicon_loop import read_lexicon, words_of
from evaluation.panel import Panel
from evaluation.report import provenance
from evaluation.sync import correlation, mouth_opening
from evaluation.takes import Take, decode_frames, decode_sound
from evaluation.words import Errors, compare, total
from services.bundle import load_bundle
from services.errors import CuelightError
from training.distill_probe import features, frechet
from training.distillation import Sampling, read_config
from training.loop import load_weights
from training.objectives.guidance import UNGUIDED, Guidance
from training.objectives.rollout import Latents
from training.sessions import Rules
from training.train_audio import AudioModel

SCHEMA = 2
"""Raised when what is kept of a row means something else than before."""


@dataclass(frozen=True)
class Row:
    """One way to perform: a run, how it is sampled, and the rules its sessions follow."""

    run: str
    sampling: Sampling
    rules: Rules = field(default_factory=Rules)
    title: str = field(default="", compare=False)

    @property
    def name(self) -> str:
        """Told briefly."""
        if self.title:
            return self.title
        s = self.sampling
        guided = f" guidance {'/'.join(f'{scale:g}' for scale in s.guidance)}" if s.guidance != UNGUIDED else ""
        return f"{self.run} {s.steps} {s.kind} shift {s.shift:g} noise {s.noise_scale_audio:g}{guided}"


@dataclass
class Heard:
    """What came of one row, clip by clip, and its latents."""

    words: list[Errors[str]]
    phones: list[Errors[int]]
    surprise: list[float]
    """How unlikely the judge finds the phones meant, nats a phone: finer than errors, which are few."""
    ended: int
    mouth: float
    """Correlation of how open the mouth is with how loud the sound is."""
    seconds: float
    """Processor time that performing took."""
    latents: Latents


def parse_guidance(text: str) -> Guidance:
    """One scale for both modalities, or sound/picture, or sound/picture/prompt. Raises ValueError."""
    audio, video, prompt = [*text.split("/"), "", ""][:3]
    return Guidance(float(audio), float(video or audio), float(prompt or 1))


def parse_row(text: str, checkpoints: Path) -> Row:
    """A row from the command line. Raises ValueError when it cannot be read, FileNotFoundError without its run."""
    title, _, said = text.rpartition("=")
    run, *values = said.split(":")
    if len(values) > 1 and values[1] not in SAMPLERS:
        raise ValueError(f"no sampler {values[1]!r}: there are {', '.join(SAMPLERS)}")
    config = read_config(checkpoints / run)
    known, made = config.get("sampler", {}), config.get("distillation", {})
    kinds: dict[str, Callable[[str], Any]] = {
        "steps": int, "kind": str, "shift": float, "noise_scale_audio": float, "guidance": parse_guidance
    }  # fmt: skip
    given = {name: kind(value) for (name, kind), value in zip(kinds.items(), values, strict=False)}
    rules = Rules(not made.get("without_sink", False), made.get("tokens_per_chunk", 0.0))
    return Row(run, Sampling(**known | given), rules, title)


def hear_take(panel: Panel, part: Part, samples: np.ndarray) -> tuple[Errors[str], Errors[int], float]:
    """Word and phone errors and surprise of one take's sound (S,)."""
    told = listen(panel.judge, panel.codec, samples)
    words = compare(panel.loop.canonical(words_of(part.clip.text)), panel.loop.decode(told.scores))
    phones = compare(panel.judge.ids(part.reading.phones), told.phones)
    return words, phones, surprise_at(panel.judge, part.reading.phones, torch.from_numpy(told.scores))


def surprise_at(judge: Judge, phones: Sequence[str], scores: Tensor) -> float:
    """Negative log-likelihood of the phones meant, per phone, by CTC, in log-probabilities (O, P)."""
    meant, scores = torch.tensor([judge.ids(phones)]), scores[:, None].clone()
    pause = judge.config.phones.index(PAUSE) + 1
    scores[..., BLANK] = torch.logaddexp(scores[..., BLANK], scores[..., pause])  # a pause may stand anywhere
    lengths = torch.tensor([len(scores)]), torch.tensor([meant.shape[1]])
    return float(F.ctc_loss(scores, meant, *lengths, zero_infinity=True))


def mouth_against_sound(models: Models, take: Take, samples: np.ndarray) -> float:
    """Correlation of how open the mouth is with how loud the sound is, frame by frame."""
    frames = np.concatenate(list(decode_frames(models, take)))
    loud = np.log(
        np.square(samples[: len(samples) // len(frames) * len(frames)]).reshape(len(frames), -1).mean(1) + 1e-6
    )
    return correlation(mouth_opening(frames), loud)


def hear_row(row: Row, house: House, parts: Sequence[Part], panel: Panel, options: argparse.Namespace) -> Heard:
    """Performs a row and has it heard."""
    model = AudioModel.of(read_config(options.checkpoints / row.run)).eval().requires_grad_(requires_grad=False)
    load_weights(model, options.checkpoints / row.run / "model.safetensors")
    began = time.process_time()
    takes = perform(model, parts, row.sampling, row.rules, seed=options.seed, batch=options.batch)
    seconds = time.process_time() - began
    sounds = [decode_sound(house.models, take) for take in takes]
    heard = [hear_take(panel, part, samples) for part, samples in zip(parts, sounds, strict=True)]
    looked = [] if options.speech_alone else list(zip(takes, sounds, strict=True))[: options.mouths]
    mouths = [mouth_against_sound(house.models, take, samples) for take, samples in looked]
    video = None if options.speech_alone else torch.from_numpy(np.concatenate([take.video for take in takes]))
    words, phones, surprise = (list(column) for column in zip(*heard, strict=True))
    return Heard(
        words,
        phones,
        surprise,
        sum(take.is_finished for take in takes),
        float(np.mean(mouths)) if mouths else 0.0,
        seconds,
        Latents(torch.from_numpy(np.concatenate([take.audio for take in takes])), video),
    )


def fingerprint(row: Row, parts: Sequence[Part], panel: Panel, bundle: Path, options: argparse.Namespace) -> str:
    """Of everything that what is heard depends on."""
    asked = [
        SCHEMA,
        asdict(replace(row, title="")),
        [asdict(part.clip) for part in parts],
        panel.loop.penalty,
        load_bundle(bundle).manifest.digest,
    ]
    asked += [options.seed, options.batch, options.mouths, options.speech_alone]
    digest = sha256(json.dumps(asked).encode())
    for folder in (options.checkpoints / row.run, options.judge):
        digest.update((folder / "model.safetensors").read_bytes())
    return digest.hexdigest()[:12]


def save_heard(heard: Heard, path: Path) -> None:
    """Writes what was heard; half-written files are never seen."""
    told = asdict(heard)
    latents = told.pop("latents")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    arrays = {
        name: value.numpy().astype(np.float16)
        for name, value in zip(("audio", "video"), latents, strict=True)
        if value is not None
    }
    save_file(arrays, partial, {"heard": json.dumps(told)})
    partial.rename(path)


def load_heard(path: Path) -> Heard:
    """What was heard before."""
    with safe_open(path, "np") as file:
        told: dict[str, Any] = json.loads((file.metadata() or {})["heard"])
    arrays = {name: torch.from_numpy(value.astype(np.float32)) for name, value in load_file(path).items()}
    for unit in ("words", "phones"):
        told[unit] = [Errors(**counts) for counts in told[unit]]
    return Heard(**told, latents=Latents(arrays["audio"], arrays.get("video")))


def wrong(errors: Sequence[Errors[Any]]) -> tuple[np.ndarray, np.ndarray]:
    """Errors and units meant, clip by clip."""
    counts = [(e.substituted + e.lost + e.added, e.total) for e in errors]
    bad, meant = np.array(counts, float).T
    return bad, meant


def more_errors(first: Sequence[Errors[Any]], other: Sequence[Errors[Any]]) -> list[float]:
    """How many errors in a hundred `other` makes more than `first`, with the ends of its paired 95 % interval."""
    bad, meant = wrong(first)
    return [round(100 * x, 2) for x in bootstrap.paired_difference(wrong(other)[0], bad, meant)]


def figures_of(row: Row, heard: Heard, first: Heard) -> dict[str, object]:
    """Figures of one row; rates in a hundred."""
    words, phones = total(heard.words), total(heard.phones)
    figures: dict[str, object] = {
        "row": row.name,
        "steps": row.sampling.steps,
        "word_error_rate": [round(100 * x, 2) for x in bootstrap.rate(*wrong(heard.words))],
        "phone_error_rate": [round(100 * x, 2) for x in bootstrap.rate(*wrong(heard.phones))],
        "words": words.total,
        "lost": words.lost,
        "added": words.added,
        "repeated": words.repeated,
        "phones": phones.total,
        "surprise": round(float(np.mean(heard.surprise)), 3),
        "ended": f"{heard.ended}/{len(heard.words)}",
        "chunks": len(heard.latents.audio),
        "mouth_to_sound": round(heard.mouth, 3),
        "processor_s": round(heard.seconds),
    }
    if heard is not first:
        figures["more_word_errors"] = more_errors(first.words, heard.words)
        figures["more_phone_errors"] = more_errors(first.phones, heard.phones)
        ours, theirs = (features(h.latents) for h in (heard, first))
        figures |= {f"frechet_{n}": round(frechet(ours[n], theirs[n]), 4) for n in ours}
    return figures


def show(figures: Sequence[dict[str, Any]]) -> None:
    """A table on the terminal."""
    print(f"{'':<52} WER %                more than the first         PER %  lost  mouth  Fréchet a / v")
    for f in figures:
        (wer, low, high), (per, *_) = f["word_error_rate"], f["phone_error_rate"]
        more = "{:+6.2f} ({:+.2f} to {:+.2f})".format(*f["more_word_errors"]) if "more_word_errors" in f else ""
        apart = " / ".join(f"{f[n]:.3f}" for n in ("frechet_audio", "frechet_video") if n in f)
        spread = f"{wer:5.2f} ({low:.1f} to {high:.1f})"
        print(f"{f['row']:<52} {spread:<20} {more:<26} {per:6.2f} {f['lost']:5d}  {f['mouth_to_sound']:5.3f}  {apart}")


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="+", help="run[:steps[:sampler[:shift[:noise[:guidance]]]]]")
    parser.add_argument("--clips", type=int, default=110, help="clips of the short protocol; 110 have 3,539 words")
    parser.add_argument("--bundle", type=Path, default=Path("bundles/pocket"), help="whose VAEs and front end are used")
    parser.add_argument("--checkpoints", type=Path, default=Path("data/checkpoints"))
    parser.add_argument(
        "--corpus", type=Path, default=Path("data/corpus"), help="read where the judge is not tuned yet"
    )
    parser.add_argument("--judge", type=Path, default=Path("data/checkpoints/judge"))
    parser.add_argument("--cache", type=Path, default=Path("out/evaluation/rows"), help="where rows are kept")
    parser.add_argument("--speech-alone", action="store_true", help="without pictures, which costs a quarter")
    parser.add_argument("--batch", type=int, default=20, help="clips performed at once")
    parser.add_argument("--mouths", type=int, default=12, help="clips whose pictures are looked at")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="JSON to write")
    return parser.parse_args()


def main() -> None:
    """Command line."""
    options = arguments()
    torch.set_num_threads(1)
    try:
        rows = [parse_row(text, options.checkpoints) for text in options.rows]
        house = House(options.bundle)
        lexicon = read_lexicon(options.bundle / str(load_bundle(options.bundle).manifest.text["lexicon"]))
        panel = Panel.convene(options.judge, house.models.audio_codec, lexicon, options.corpus)
    except (ValueError, FileNotFoundError, CuelightError) as error:
        print(f"few_steps: {error}", file=sys.stderr)
        raise SystemExit(2) from error
    parts = house.parts(options.clips, speech_alone=options.speech_alone)
    first: Heard | None = None
    found: list[dict[str, Any]] = []
    for row in rows:
        kept = options.cache / f"{row.run}-{fingerprint(row, parts, panel, options.bundle, options)}.safetensors"
        if not kept.exists():
            save_heard(hear_row(row, house, parts, panel, options), kept)
        heard = load_heard(kept)
        first = first or heard
        found.append(figures_of(row, heard, first))
        if options.out is not None:
            options.out.write_text(json.dumps(provenance() | {"clips": len(parts), "rows": found}, indent=1) + "\n")
    show(found)


if __name__ == "__main__":
    main()
