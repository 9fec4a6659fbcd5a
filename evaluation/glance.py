"""A quick look at a model in training: what does it say now? `python -m evaluation.glance --run audio`.

Speech alone where the run has no picture yet, on the held-out sentences, by voice and by scale of the first noise.
It needs flite, for the voices' references; a packed bundle is looked at by `python -m evaluation`.
"""

from __future__ import annotations

import argparse
import time
from datetime import datetime
from pathlib import Path

import torch
from safetensors import safe_open

from evaluation.hearing import renderer_mouth
from evaluation.judge import listen
from evaluation.panel import Panel, held_out_sentences
from evaluation.performers import load_checkpoint, read_lexicon, reference_voice
from evaluation.rollout import Models, Options, Script, perform, pictures, sound
from evaluation.sync import loudness, mouth_opening, synchrony
from orchestrator_llm.model.text import FIRST_PHONE
from training.corpora.faces import GALLERY, Pose, draw
from training.corpora.speech import speak

VOICE_SAMPLE = "The river bends slowly around the village, and every evening the lamps are lit along its quiet banks."


def samples_seen(checkpoints: Path, run: str) -> str:
    """How many optimiser steps the checkpoint has behind it."""
    with safe_open(checkpoints / run / "model.safetensors", "pt") as file:
        metadata = file.metadata() or {}
    return f"step {metadata.get('step', '?')}, {float(metadata.get('seconds', 0)) / 60:.1f} min of training"


def meant_phones(models: Models, text: str) -> list[str]:
    """The phones the front-end asks for."""
    front_end = models.front_end
    return [front_end.phones[token - FIRST_PHONE] for token in front_end.tokenize(text).tokens]


def portrait_of(models: Models, voice: str) -> torch.Tensor | None:
    """Latents (C, 1, h, w) of the first of the gallery's faces with this voice; None where there are no pictures."""
    if models.vae is None:
        return None
    identity = next(i for _, v, i in GALLERY.values() if v == voice)
    pixels = draw(identity, Pose(0, 0.7, 0, 0, 0.5, 0, 0, 0), 16 * models.dit.config.video_width)
    frame = torch.from_numpy(pixels).permute(2, 0, 1)[None].float().div(127.5).sub(1)
    with torch.inference_mode():
        return models.vae.encode_image(frame)[0]


def look(models: Models, panel: Panel, scripts: list[Script], options: Options) -> str:
    """One line on one voice."""
    began, texts = time.monotonic(), [script.text for script in scripts]
    made = perform(models, scripts, options)
    sounds = [sound(models.codec, p.audio) for p in made]
    figures = panel.hear(sounds, texts, [meant_phones(models, text) for text in texts]).summary()
    line = (
        f"PER {figures['phone_error_rate']:.3f}  WER {figures['word_error_rate']:.3f}  "
        f"sphinx WER {figures['sphinx_word_error_rate']:.3f}  lost {figures['words_lost']} "
        f"repeated {figures['words_repeated']} added {figures['words_added']} of {figures['words']}  "
        f"ended {sum(p.is_finished for p in made)}/{len(made)}  {sum(len(p.audio) for p in made)} chunks"
    )
    if models.vae is not None:
        mouths = [mouth_opening(pictures(models.vae, p.video)) for p in made]
        per = models.codec.samples_per_latent
        loud = [loudness(s, per, len(mouth)) for s, mouth in zip(sounds, mouths, strict=True)]
        timed = [listen(panel.judge, panel.codec, s).timed for s in sounds]
        drawn = [renderer_mouth(heard, way) for heard, way in zip(timed, loud, strict=True)]
        line += f"  mouth against energy {synchrony(list(zip(mouths, loud, strict=True)))}"
        line += f" against renderer {synchrony(list(zip(mouths, drawn, strict=True)))}"
    return f"{line}  {time.monotonic() - began:.0f} s"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoints", type=Path, default=Path("data/checkpoints"))
    parser.add_argument("--corpus", type=Path, default=Path("data/corpus"))
    parser.add_argument("--run", default="audio")
    parser.add_argument("--voices", default="kal16,slt")
    parser.add_argument("--noise-scales", default="0.2,0.4,0.6")
    parser.add_argument("--noise-scale-video", type=float, default=1.0)
    parser.add_argument("--shift", type=float, default=1.0, help="time shift of the sampler")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--sentences", type=int, default=48)
    parser.add_argument("--truth", action="store_true", help="judge flite's own speech and the codec's copy of it too")
    options = parser.parse_args()
    torch.set_num_threads(1)
    models = load_checkpoint(options.checkpoints, options.run)
    sentences = held_out_sentences()[: options.sentences]
    panel = Panel.convene(
        options.checkpoints / "judge",
        models.codec,
        read_lexicon(options.checkpoints / "lexicon.txt.gz"),
        options.corpus,
    )
    print(
        f"== {datetime.now().astimezone():%H:%M:%S} {options.run}: {samples_seen(options.checkpoints, options.run)}; "
        f"{len(panel.loop.classes)} words, penalty {panel.loop.penalty:g}",
        flush=True,
    )
    for name in options.voices.split(","):
        rate = models.codec.config.sample_rate
        voice = reference_voice(models, torch.from_numpy(speak(VOICE_SAMPLE, name, rate).samples))
        portrait = portrait_of(models, name)
        if options.truth:
            print_truth(models, panel, name, sentences)
        for scale in map(float, options.noise_scales.split(",")):
            sampling = Options(options.steps, options.shift, scale, options.noise_scale_video)
            line = look(models, panel, [Script(f"{s}.", voice, portrait) for s in sentences], sampling)
            print(f"{name:6} noise {scale:g} shift {options.shift:g} steps {options.steps}: {line}", flush=True)


def print_truth(models: Models, panel: Panel, voice: str, sentences: list[str]) -> None:
    """flite's speech and its way through the codec."""
    codec = models.codec
    spoken = [speak(s + ".", voice, codec.config.sample_rate) for s in sentences]
    copies = [sound(codec, [codec.encode(torch.from_numpy(u.samples)[None])[0]]) for u in spoken]
    for name, utterances in (("truth", [u.samples for u in spoken]), ("codec", copies)):
        figures = panel.hear(utterances, sentences, [u.phones for u in spoken]).summary()
        print(f"{voice:6} {name}: {figures}", flush=True)


if __name__ == "__main__":
    main()
