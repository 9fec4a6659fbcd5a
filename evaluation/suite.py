"""The measurements of a bundle, one function each: figures for the report, and what its pictures are drawn from.

Each returns plain JSON values; what cannot be measured on this machine is named with the reason, never left out in
silence. It performs and judges through the other modules and draws nothing.
"""

from __future__ import annotations

import importlib.util
import math
import random
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import cycle, islice
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from dit_worker.model.vae import VideoVAE
from evaluation import likeness, sync
from evaluation.judge import listen
from evaluation.panel import Panel, Verdict
from evaluation.performers import Character, Company
from evaluation.pointing import pointer_errors
from evaluation.rollout import Models, Options, Performance, Script, perform, pictures, sound
from orchestrator_llm.model.text import FIRST_PHONE, PAUSE
from training.corpora.speech import Utterance, speak
from training.windows import make_track, phone_ids

Figures = dict[str, Any]
NOISE_SCALES = (0.2, 0.4, 0.6, 1.0)
STEPS = (2, 4, 8)
SHIFTS = (1.0, 2.0)
FRAME_RATE = 24
DRIFT_SECONDS = 5
SHORTEST_SENTENCE_S = 2.6
"""A held-out sentence lasts at least so long: enough of them fill a long performance."""


@dataclass
class Suite:
    """One evaluation: the company, the judges, how much to do; and what was made, kept for the pictures."""

    company: Company
    panel: Panel
    sentences: list[str]
    part_sentences: int
    """How many of the sentences the comparisons of options use."""
    minute_s: float = 60.0
    kept: dict[str, Any] = field(default_factory=dict)

    @property
    def models(self) -> Models:
        """Shorthand."""
        return self.company.models

    def perform(self, who: Character, texts: Sequence[str], options: Options, what: str) -> list[Performance]:
        """Performs texts with a progress bar."""
        scripts = [Script(text, who.voice, who.portrait) for text in texts]
        with tqdm(desc=what, unit="chunk", mininterval=2) as bar:
            return perform(self.models, scripts, options, bar.update)

    def judge(
        self,
        utterances: Sequence[np.ndarray],
        texts: Sequence[str],
        what: str,
        phones: Sequence[Sequence[str]] | None = None,
        with_sphinx: bool = True,
    ) -> Verdict:
        """Judges utterances with a progress bar; `phones` defaults to what the front-end asks for."""
        meant = phones or [self.phones_of(text) for text in texts]
        with tqdm(total=len(texts), desc=f"judging {what}", unit="utterance", mininterval=2) as bar:
            return self.panel.hear(utterances, texts, meant, with_sphinx, bar.update)

    def phones_of(self, text: str) -> list[str]:
        """Phones the front-end asks for."""
        front_end = self.models.front_end
        return [front_end.phones[token - FIRST_PHONE] for token in front_end.tokenize(text).tokens]

    def cast(self) -> dict[str, Character]:
        """One character for each voice: the first of those that speak alike."""
        voices: dict[bytes, Character] = {}
        for who in self.company.characters.values():
            voices.setdefault(who.voice.numpy().tobytes(), who)
        return {who.name: who for who in voices.values()}


def why_no_flite() -> str | None:
    """The reason true speech cannot be made here, None when it can."""
    return None if shutil.which("flite") else "flite is not installed (Debian package flite)"


def why_no_renderer() -> str | None:
    """The reason true faces cannot be drawn here, None when they can."""
    return None if importlib.util.find_spec("cv2") else "OpenCV is not installed (extra `training`)"


def true_speech(suite: Suite, voice: str) -> list[Utterance]:
    """flite's reading of the held-out sentences, kept between measurements."""
    key = f"truth {voice}"
    if key not in suite.kept:
        rate = suite.models.codec.config.sample_rate
        suite.kept[key] = [
            speak(f"{s}.", voice, rate) for s in tqdm(suite.sentences, desc=f"flite {voice}", mininterval=2)
        ]
    return list(suite.kept[key])


def measure_truth(suite: Suite, voices: Sequence[str]) -> Figures:
    """What the judges make of flite's own speech, and of its way through the codec."""
    if reason := why_no_flite():
        return {"skipped": reason}
    codec, figures = suite.models.codec, {}
    for voice in voices:
        spoken = true_speech(suite, voice)
        copies = [sound(codec, [codec.encode(torch.from_numpy(u.samples)[None])[0]]) for u in spoken]
        phones = [u.phones for u in spoken]
        figures[voice] = {
            "ground_truth": suite.judge(
                [u.samples for u in spoken], suite.sentences, f"truth {voice}", phones
            ).summary(),
            "codec": suite.judge(copies, suite.sentences, f"codec {voice}", phones).summary(),
        }
    return figures


def measure_speech(suite: Suite) -> Figures:
    """What the judges make of generated speech, a character for each voice, and how many performances ended."""
    figures = {}
    for name, who in suite.cast().items():
        made = suite.perform(who, [f"{s}." for s in suite.sentences], suite.company.options, f"{name} speaks")
        sounds = [sound(suite.models.codec, p.audio) for p in tqdm(made, desc=f"decoding {name}", mininterval=2)]
        verdict = suite.judge(sounds, suite.sentences, name)
        suite.kept[f"performances {name}"] = (made, sounds)
        figures[name] = verdict.summary() | {
            "performances": len(made),
            "ended": sum(p.is_finished for p in made),
            "chunks": sum(len(p.audio) for p in made),
            "examples": [
                {"meant": s, "heard": " ".join(h)}
                for s, h in list(zip(suite.sentences, verdict.heard, strict=True))[:8]
            ],
        }
    return figures


def compare_options(suite: Suite) -> Figures:
    """Word error rates of other noise scales and step counts, and with x_t hidden from the conditioner; one voice."""
    name, who = next(iter(suite.cast().items()))
    usual = suite.company.options
    trials = {"as in the manifest": usual, "x_t is zero at the conditioner": replace(usual, zero_noisy=True)}
    trials |= {
        f"noise scale {s:g}": replace(usual, noise_scale_audio=s) for s in NOISE_SCALES if s != usual.noise_scale_audio
    }
    trials |= {f"time shift {s:g}": replace(usual, shift=s) for s in SHIFTS if s != usual.shift}
    trials |= {f"{n} steps": replace(usual, steps=n) for n in STEPS if n != usual.steps}
    texts, figures = suite.sentences[: suite.part_sentences], {}
    for trial, options in trials.items():
        made = suite.perform(who, [f"{s}." for s in texts], options, trial)
        verdict = suite.judge([sound(suite.models.codec, p.audio) for p in made], texts, trial, with_sphinx=False)
        figures[trial] = verdict.summary()
    return {"character": name, "sentences": len(texts), "usual": asdict(usual), "trials": figures}


def measure_pointer(suite: Suite, voices: Sequence[str]) -> Figures:
    """The pointer's error in phones on true speech, and on another sentence's, by voice."""
    if reason := why_no_flite():
        return {"skipped": reason}
    from training.make_corpus import make_passage

    codec, phones, figures = suite.models.codec, suite.models.front_end.phones, {}
    for voice in voices:
        passages = [make_passage(f"{s}.", voice, codec) for s in tqdm(suite.sentences, desc=f"pointing {voice}")]
        tracks = [make_track(p, codec, phone_ids(phones), FRAME_RATE) for p in passages]
        errors = pointer_errors(suite.models.conditioner, tracks, codec.silence)
        figures[voice] = errors._asdict() | {
            "ratio_swapped_chunk": round(errors.swapped_chunk / errors.own, 2),
            "ratio_swapped_sound": round(errors.swapped_sound / errors.own, 2),
        }
    return figures


def measure_sync(suite: Suite) -> Figures:
    """Generated mouths against generated sound, and against what the renderer draws for the phones that are heard."""
    figures: Figures = {}
    for name in suite.cast():
        made, sounds = suite.kept[f"performances {name}"]
        pairs, drawn = [], []
        for p, samples in zip(tqdm(made, desc=f"watching {name}", mininterval=2), sounds, strict=True):
            opening = sync.mouth_opening(pictures(_vae(suite.models), p.video))
            loud = sync.loudness(samples, suite.models.codec.samples_per_latent, len(opening))
            pairs.append((opening, loud))
            if why_no_renderer() is None:
                drawn.append((opening, renderer_mouth(suite.panel, samples, loud)))
        strangers = [(a, b) for (a, _), (_, b) in zip(pairs, pairs[1:] + pairs[:1], strict=True)]
        figures[name] = {
            "against_energy": sync.synchrony(pairs)._asdict(),
            "against_energy_of_another": sync.synchrony(strangers)._asdict(),
            "against_renderer": sync.synchrony(drawn)._asdict() if drawn else {"skipped": why_no_renderer()},
        }
        suite.kept[f"mouth {name}"] = pairs
        suite.kept[f"drawn {name}"] = drawn
    return figures


def measure_true_sync(suite: Suite, voice: str) -> Figures:
    """The same figures of the renderer's own faces on true speech: what the measure itself can show at best."""
    if reason := why_no_flite() or why_no_renderer():
        return {"skipped": reason}
    from training.corpora.faces import GALLERY, poses, render

    identity = next(i for _, v, i in GALLERY.values() if v == voice)
    pairs, drawn, per = [], [], suite.models.codec.samples_per_latent
    for u in true_speech(suite, voice)[: suite.part_sentences]:
        frames = len(u.samples) // per
        loud = sync.loudness(u.samples, per, frames)
        track = poses(u.phones, np.concatenate([[0], u.ends]), loud, frames, random.Random(0))
        opening = sync.mouth_opening(render(identity, track, suite.models.dit.config.video_width * 16))
        pairs.append((opening, loud))
        drawn.append((opening, np.array([pose.open for pose in track])))
    return {"against_energy": sync.synchrony(pairs)._asdict(), "against_renderer": sync.synchrony(drawn)._asdict()}


def renderer_mouth(panel: Panel, samples: np.ndarray, loud: np.ndarray) -> np.ndarray:
    """How open the corpus's renderer would draw the mouth, frame by frame, for the phones the judge hears."""
    from training.corpora.faces import poses

    heard = listen(panel.judge, panel.codec, samples).timed or [(PAUSE, 0.0)]
    middles = np.array([moment for _, moment in heard])
    edges = np.concatenate([[max(0.0, middles[0] - 0.05)], (middles[1:] + middles[:-1]) / 2, [middles[-1] + 0.05]])
    track = poses([name for name, _ in heard], edges, loud, len(loud), random.Random(0))
    return np.array([pose.open for pose in track])


def measure_identity(suite: Suite) -> Figures:
    """A minute of every character: what the last seconds look like against the portrait and the first seconds."""
    chunks = round(suite.minute_s * FRAME_RATE / suite.models.dit.config.audio_latents)
    count = math.ceil(suite.minute_s / SHORTEST_SENTENCE_S)
    text = " ".join(f"{s}." for s in islice(cycle(suite.sentences), count))
    figures: Figures = {}
    everyone = list(suite.company.characters.values())
    for trial, options, who in (
        ("", suite.company.options, everyone),
        (" without sink and motion", replace(suite.company.options, without_memory=True), everyone[:2]),
    ):
        options = replace(options, least_chunks=chunks)
        scripts = [Script(text, c.voice, c.portrait) for c in who]
        with tqdm(desc=f"a minute of {len(who)}{trial}", unit="chunk", mininterval=2) as bar:
            made = perform(suite.models, scripts, options, bar.update)
        for character, p in zip(who, made, strict=True):
            figures[f"{character.name}{trial}"] = watch_minute(
                suite, character, p.video[:chunks], f"{character.name}{trial}"
            )
        if not trial:
            figures["speech"] = hear_minute(suite, made, text)
    figures["renderer through the VAE"] = measure_true_minute(suite, everyone[0], text, chunks)
    return figures


def measure_true_minute(suite: Suite, character: Character, text: str, chunks: int) -> Figures:
    """The renderer's own minute, there and back through the video VAE: what the measure shows where nothing drifts."""
    if reason := why_no_flite() or why_no_renderer():
        return {"skipped": reason}
    from training.corpora.faces import GALLERY, poses, render

    codec, vae, config = suite.models.codec, _vae(suite.models), suite.models.dit.config
    if character.name not in GALLERY:
        return {"skipped": f"{character.name} is not one of the renderer's characters"}
    _, voice, identity = GALLERY[character.name]
    spoken = speak(text, voice, codec.config.sample_rate)
    frames = chunks * config.audio_latents
    loud = sync.loudness(spoken.samples, codec.samples_per_latent, frames)
    track = poses(spoken.phones, np.concatenate([[0], spoken.ends]), loud, frames, random.Random(0))
    drawn = torch.from_numpy(render(identity, track, 16 * config.video_width)).permute(3, 0, 1, 2)
    with torch.inference_mode():
        video = [vae.encode(part[None].float().div(127.5).sub(1))[0] for part in drawn.split(config.audio_latents, 1)]
    return watch_minute(suite, character, video, "renderer through the VAE")


def hear_minute(suite: Suite, made: Sequence[Performance], text: str) -> Figures:
    """What is heard of the long performances, all characters together."""
    sounds = [sound(suite.models.codec, p.audio) for p in made]
    plain = text.replace(".", "")
    phones = [[p for p in suite.phones_of(text) if p != PAUSE]] * len(made)
    return suite.judge(sounds, [plain] * len(made), "the minute", phones, with_sphinx=False).summary()


def watch_minute(suite: Suite, character: Character, video: Sequence[Tensor], key: str) -> Figures:
    """Drift of one long performance; keeps some of its frames for the contact sheet and the drift along the way."""
    frames, per_chunk = pictures(_vae(suite.models), video), suite.models.dit.config.audio_latents
    assert character.frame is not None, "a bundle's characters have portraits"
    portrait = ((character.frame + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0).numpy()
    window = DRIFT_SECONDS * FRAME_RATE
    still, first, last = (likeness.describe(part) for part in (portrait[None], frames[:window], frames[-window:]))
    along = [
        likeness.drift(first, likeness.describe(frames[i : i + window]))
        for i in range(0, len(frames) - window + 1, window)
    ]
    moments = np.linspace(FRAME_RATE, len(frames) - 1, 8).astype(int)
    suite.kept[f"sheet {key}"] = [portrait, *frames[moments]]
    suite.kept[f"along {key}"] = along
    return {
        "seconds": round(len(frames) / FRAME_RATE, 1),
        "against_portrait": asdict(likeness.drift(still, last)),
        "against_first_seconds": asdict(likeness.drift(first, last)),
        "worst_along_the_way": max(d.worst_colour for d in along),
        "border_jump": round(likeness.border_jump(frames, per_chunk), 3),
    }


def _vae(models: Models) -> VideoVAE:
    assert models.vae is not None, "pictures need a video VAE"
    return models.vae
