"""Makes and measures what a plan asks for, variant by variant, clip by clip; what is there already is left as it is.

    perform ─▶ cache of takes ─▶ measure ─▶ cache of measurements ─▶ summarise ─▶ figures

Performing and measuring are apart: one command may make the takes of a variant, another compare many. It draws nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from evaluation import summary
from evaluation.hearing import Reading, mean_spectrum, median_pitch
from evaluation.measure import Judges, Measured, load_measured, measure
from evaluation.pointing import pointer_errors
from evaluation.protocol import (
    LONG_SECONDS,
    SHORT_CLIPS,
    UNHEARD_VOICES,
    VOICES,
    Clip,
    follow_clips,
    long_clips,
    prompt_clips,
    short_clips,
)
from evaluation.stage import House, read
from evaluation.takes import Take, decode_frames, decode_sound, has_take, load_take, save_take
from evaluation.texts import held_out_sentences, written
from evaluation.truth import codec_take, true_frames, true_take
from evaluation.variants import CODEC, TRUTH, Variant, assemble, fingerprint
from evaluation.voices import SAMPLE, portrait_of, true_sound
from evaluation.watching import FRAME_RATE
from orchestrator_llm.model.text import FIRST_PHONE

TITLES = {TRUTH: "ground truth", CODEC: "through both VAEs"}
POINTED_SENTENCES = 24
FOLLOW_VOICES = (*VOICES, *UNHEARD_VOICES)


@dataclass(frozen=True)
class Plan:
    """The clips of one evaluation."""

    short: tuple[Clip, ...]
    long: tuple[Clip, ...]
    follow: tuple[Clip, ...]
    prompted: tuple[Clip, ...] = ()

    @staticmethod
    def of(
        short: int = SHORT_CLIPS,
        long: int = 2,
        follow: int = 4,
        prompted: int = 4,
        seconds: float = LONG_SECONDS,
        voices: Sequence[str] = VOICES,
    ) -> Plan:
        """So many short clips, streams, clips of each unheard voice, and faces that every prompt is tried on."""
        return Plan(
            tuple(short_clips(short, voices)),
            tuple(long_clips(long, seconds, voices)),
            tuple(follow_clips(follow)),
            tuple(prompt_clips(prompted, voices)) if prompted else (),
        )

    @property
    def clips(self) -> tuple[Clip, ...]:
        """All of them."""
        return (*self.short, *self.long, *self.follow, *self.prompted)


@dataclass(frozen=True)
class Run:
    """One variant with its models and the folder of its takes."""

    variant: Variant
    house: House
    folder: Path

    @staticmethod
    def open(variant: Variant, cache: Path, threads: int = 1) -> Run:
        """Loads a variant. Raises ValueError or BundleInvalid when it will not do."""
        bundle = assemble(variant, cache / "bundles")
        house = House(bundle, variant, threads)
        return Run(variant, house, cache / f"{variant.name}-{fingerprint(variant, bundle)}")

    def reading(self, clip: Clip) -> Reading:
        """The clip's text as phones, as the bundle reads it."""
        front_end = self.house.backend.front_end
        words = read(front_end, clip.text)
        return Reading.of([[front_end.phones[t - FIRST_PHONE] for t in word.ids] for word in words])


def true_run(run: Run, cache: Path, name: str) -> Run:
    """The same models, to make and show true takes with: of the speech itself, or of what both VAEs keep of it."""
    manifest = run.house.bundle.manifest
    kept = manifest.geometry.model_dump_json()
    if name == CODEC:
        codecs = ("video_vae", "audio_codec", "audio_vae")
        kept += json.dumps([[part, digest] for part, digest in manifest.files.items() if part.startswith(codecs)])
    variant = run.variant.model_copy(update={"name": name, "says": TITLES[name]})
    return Run(variant, run.house, cache / f"{name}-{sha256(kept.encode()).hexdigest()[:10]}")


def make_take(run: Run, clip: Clip) -> None:
    """Performs one clip, or makes the true one, and keeps it."""
    house = run.house
    rate = house.bundle.manifest.geometry.sample_rate
    if run.variant.name == TRUTH:
        save_take(run.folder, *true_take(house.models, clip, run.reading(clip)), rate)
        return
    if run.variant.name == CODEC:
        take = codec_take(house.models, clip, run.reading(clip))
    else:
        reference = house.voice(true_sound(house.models.audio_codec, SAMPLE, clip.voice))
        take = house.perform(clip, reference, portrait_of(clip.face, house.side))
    save_take(run.folder, take, decode_sound(house.models, take), rate)


def perform(run: Run, clips: Sequence[Clip]) -> int:
    """Performs the clips that have not been performed; returns how many that were."""
    missing = [clip for clip in clips if not has_take(run.folder, clip)]
    for clip in tqdm(missing, desc=f"{run.variant.name}: performing", unit="clip", disable=not missing):
        make_take(run, clip)
    return len(missing)


def pictures_of(run: Run, take: Take) -> Callable[[], Iterator[np.ndarray]]:
    """How to get at a take's pictures."""
    geometry = run.house.bundle.manifest.geometry
    if run.variant.name == TRUTH:
        return lambda: true_frames(take.clip, geometry.sample_rate, geometry.frames_per_chunk, geometry.width)
    return lambda: decode_frames(run.house.models, take)


def measure_all(run: Run, clips: Sequence[Clip], judges: Judges, *, with_pictures: bool = True) -> list[Measured]:
    """Measures the takes that these judges have not measured yet; all of the clips' measurements, in their order."""
    found: dict[str, Measured] = {}
    for clip in clips:
        before = load_measured(run.folder, clip, judges.digest)
        if before is not None and (before.seen is not None or not with_pictures):
            found[clip.name] = before
    missing = [clip for clip in clips if clip.name not in found]
    chunk_s = run.house.bundle.manifest.chunk_seconds
    for clip in tqdm(missing, desc=f"{run.variant.name}: measuring", unit="clip", disable=not missing):
        take = load_take(run.folder, clip)
        portrait = portrait_of(clip.face, run.house.side)
        frames = pictures_of(run, take) if with_pictures else None
        found[clip.name] = measure(run.folder, take, run.reading(clip), chunk_s, judges, portrait, frames)
    return [found[clip.name] for clip in clips]


@dataclass(frozen=True)
class Results:
    """All measurements of one variant."""

    run: Run
    short: list[Measured]
    long: list[Measured]
    follow: list[Measured]


def carry_out(run: Run, plan: Plan, judges: Judges) -> Results:
    """Performs and measures a plan. Nobody's voice is followed in true takes; some variants do the streams alone."""
    is_true = run.variant.name in (TRUTH, CODEC)
    if run.variant.streams_alone and not is_true:
        plan = replace(plan, short=(), follow=())
    follow = () if is_true else plan.follow
    perform(run, (*plan.short, *plan.long, *follow))
    return Results(
        run,
        measure_all(run, plan.short, judges),
        measure_all(run, plan.long, judges),
        measure_all(run, follow, judges, with_pictures=False),
    )


def voice_candidates(run: Run, clips: Sequence[Clip], judges: Judges) -> dict[str, dict[str, tuple[np.ndarray, float]]]:
    """Mean spectrum and pitch of true speech, of each voice saying each text of the clips."""
    codec, rate = run.house.models.audio_codec, run.house.bundle.manifest.geometry.sample_rate
    texts = list(dict.fromkeys(clip.text for clip in clips))
    found: dict[str, dict[str, tuple[np.ndarray, float]]] = {}
    for text in tqdm(texts, desc="voices to compare with", unit="text", disable=not texts):
        spoken = {voice: true_sound(codec, text, voice) for voice in FOLLOW_VOICES}
        found[text] = {v: (mean_spectrum(judges.panel.codec, s), median_pitch(s, rate)) for v, s in spoken.items()}
    return found


def pointing_figures(run: Run, sentences: int = POINTED_SENTENCES) -> dict[str, Any]:
    """Does the pointer listen? Its error in phones on true speech, and on another sentence's, by voice; kept."""
    from training.make_corpus import make_passage
    from training.windows import make_track, phone_ids

    run.folder.mkdir(parents=True, exist_ok=True)
    path = run.folder / f"pointing-{sentences}.json"
    if path.exists():
        found: dict[str, Any] = json.loads(path.read_text())
        return found
    codec, backend, figures = run.house.models.audio_codec, run.house.backend, {}
    for voice in tqdm(VOICES, desc=f"{run.variant.name}: pointing", unit="voice"):
        texts = [written(s) for s in held_out_sentences()[:sentences]]
        passages = [make_passage(text, voice, codec) for text in texts]
        tracks = [make_track(p, codec, phone_ids(backend.front_end.phones), FRAME_RATE) for p in passages]
        figures[voice] = pointer_errors(backend.conditioner, tracks, codec.silence)._asdict()
    path.write_text(json.dumps(figures) + "\n")
    return figures


def summarise(results: Results, truth: Results, first: Results | None, judges: Judges) -> dict[str, Any]:
    """The figures of one variant, compared with the truth and, in words, with the first variant."""
    run, manifest = results.run, results.run.house.bundle.manifest
    per_chunk = manifest.geometry.frames_per_chunk
    delay_s = summary.judge_delay([*truth.short, *truth.long])
    figures: dict[str, Any] = {
        "title": run.variant.title,
        "variant": run.variant.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
        | {"name": run.variant.name},
        "bundle": {"name": manifest.name, "version": manifest.version, "digest": manifest.digest},
        "sampler": manifest.sampler.model_dump(),
        "judge_delay_s": round(delay_s, 4),
    }
    if results.short:
        figures["short"] = (
            summary.words_figures(results.short)
            | summary.time_figures(results.short, delay_s)
            | {"sync": summary.sync_figures(results.short)}
            | summary.picture_figures(results.short, truth.short, per_chunk)
        )
    if results.long:
        figures["long"] = (
            summary.words_figures(results.long)
            | summary.time_figures(results.long, delay_s)
            | {"sync": summary.sync_figures(results.long), "drift": summary.drift_figures(results.long)}
            | summary.picture_figures(results.long, truth.long, per_chunk)
        )
    if results.follow:
        figures["follow"] = summary.follow_figures(
            results.follow, voice_candidates(run, [m.clip for m in results.follow], judges)
        )
    if first is not None and first is not results and results.short and first.short:
        figures["against_first"] = {
            judge: summary.wer_difference(results.short, first.short, judge) for judge in ("words", "sphinx")
        }
    return figures
