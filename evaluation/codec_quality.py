"""What the audio VAE costs: `python -m evaluation.codec_quality`.

True speech of the held-out sentences, and what comes back of it from its latents: by Griffin-Lim from the projection
alone, and by the learned decoder, both chunk by chunk as a worker publishes them. Both judges, distances, and a page to
listen to. Nothing here is generated: this is the ceiling of everything that is.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file
from tqdm import tqdm

from dit_worker.engine.sound import GriffinLim, SoundDecoder, Vocoder, continue_sound, silent_context
from dit_worker.model.audio_vae import LATE_LATENTS, AudioVAE, AudioVAEConfig
from dit_worker.model.codec import AudioCodec, AudioCodecConfig
from evaluation.lexicon_loop import dictionary_readings
from evaluation.listening import Example, write_page
from evaluation.panel import Panel
from evaluation.performers import read_lexicon
from evaluation.sounds import Likeness, compare_sounds
from evaluation.sphinx import Sphinx
from evaluation.texts import held_out_sentences
from training.corpora.speech import Utterance, speak

TRUTH = "true speech"
VOICES = "kal16,slt,rms,awb"
EXAMPLE = 17
"""The sentence that is put on the page."""


class Copies(NamedTuple):
    """What one way made of a voice's utterances, and how many seconds of computing a second of speech took."""

    sounds: list[np.ndarray]
    seconds_per_second: float


def load_vae(decoder: Path, codec: Path) -> AudioVAE:
    """A trained decoder over its codec. Raises FileNotFoundError with the command that trains one."""
    if not (decoder / "model.safetensors").exists():
        raise FileNotFoundError(f"no decoder in {decoder}: run `python -m training.train_audio_decoder` first")
    config = json.loads((decoder / "config.json").read_text())
    linear = AudioCodec(AudioCodecConfig(**config["audio_codec"]))
    linear.load_state_dict(load_file(codec))
    vae = AudioVAE(AudioVAEConfig(**config["audio_vae"]), linear)
    weights = load_file(decoder / "model.safetensors")
    vae.decoder.load_state_dict({name.removeprefix("decoder."): value for name, value in weights.items()})
    return vae.eval().requires_grad_(requires_grad=False)


@torch.inference_mode()
def through(vae: AudioVAE, decoder: SoundDecoder, samples: np.ndarray) -> np.ndarray:
    """Samples (S,) to latents and back, in chunks: as long as it was but for a rest of less than a latent."""
    per, period = vae.codec.samples_per_latent, vae.config.period
    latents = vae.encode(torch.from_numpy(samples)[None])[0].numpy()
    silence = np.broadcast_to(vae.codec.silence.numpy(), (period, latents.shape[1]))
    chunks = -(-(len(latents) + LATE_LATENTS) // period)
    padded = np.concatenate([latents, silence, silence])[: chunks * period].astype(np.float32)
    context, parts = silent_context(vae.codec.silence, per), []
    for chunk in np.split(padded, chunks):
        part, context = continue_sound(decoder, chunk, context, per)
        parts.append(part)
    return np.asarray(np.concatenate(parts)[LATE_LATENTS * per :][: len(latents) * per])


def copies(vae: AudioVAE, spoken: Sequence[Utterance], decoder: SoundDecoder | None, what: str) -> Copies:
    """What becomes of utterances; None leaves them as they are."""
    per = vae.codec.samples_per_latent
    whole = [u.samples[: len(u.samples) // per * per] for u in spoken]
    if decoder is None:
        return Copies(whole, 0.0)
    began_at = time.process_time()
    made = [through(vae, decoder, samples) for samples in tqdm(whole, desc=what, mininterval=2)]
    seconds = sum(map(len, whole)) / vae.codec.config.sample_rate
    return Copies(made, (time.process_time() - began_at) / seconds)


def measure(panel: Panel, vae: AudioVAE, voice: str, sentences: Sequence[str]) -> tuple[dict[str, Any], list[Example]]:
    """Figures of one voice by way of decoding, and its examples."""
    spoken = [speak(f"{s}.", voice, vae.codec.config.sample_rate) for s in tqdm(sentences, desc=f"flite {voice}")]
    ways: dict[str, SoundDecoder | None] = {
        TRUTH: None,
        "projection, Griffin-Lim": GriffinLim(vae.codec),
        "learned decoder": Vocoder(vae),
    }
    figures, examples = {}, []
    for name, decoder in ways.items():
        made = copies(vae, spoken, decoder, f"{voice}, {name}")
        with tqdm(total=len(sentences), desc=f"judging {voice}, {name}", mininterval=2) as bar:
            verdict = panel.hear(made.sounds, sentences, [u.phones for u in spoken], progress=bar.update)
        figures[name] = verdict.summary()
        if decoder is not None:
            near = [compare_sounds(vae.codec, u.samples[: len(s)], s) for u, s in zip(spoken, made.sounds, strict=True)]
            figures[name] |= {
                key: round(float(np.mean([n[i] for n in near])), 4) for i, key in enumerate(Likeness._fields)
            }
            figures[name]["real_time_factor"] = round(made.seconds_per_second, 4)
        which = min(EXAMPLE, len(sentences) - 1)
        examples.append(Example(voice, name, sentences[which], made.sounds[which]))
    return figures, examples


def summarise(voices: dict[str, dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Means over voices of every figure that is a rate or a distance."""
    ways = next(iter(voices.values()))
    return {
        way: {
            key: round(float(np.mean([voices[v][way][key] for v in voices])), 4)
            for key in ways[way]
            if not key.startswith("words")
        }
        for way in ways
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--decoder", type=Path, default=Path("data/checkpoints/audio_decoder"))
    parser.add_argument("--codec", type=Path, default=Path("data/checkpoints/audio_codec.safetensors"))
    parser.add_argument("--judge", type=Path, default=Path("data/checkpoints/judge"))
    parser.add_argument("--lexicon", type=Path, default=Path("data/checkpoints/lexicon.txt.gz"))
    parser.add_argument("--corpus", type=Path, default=Path("data/corpus"), help="read only to tune a new judge")
    parser.add_argument("--voices", default=VOICES, help="speakers of the corpus, voice or voice@percent")
    parser.add_argument("--sentences", type=int, default=48, help="how many of the held-out sentences")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/audio_codec.json"))
    parser.add_argument("--page", type=Path, default=Path("docs/quality/listening.html"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    try:
        vae = load_vae(options.decoder, options.codec)
        whole = Panel.convene(options.judge, vae.codec, read_lexicon(options.lexicon), options.corpus)
    except FileNotFoundError as error:
        parser.error(str(error))
    panel = replace(whole, sphinx=Sphinx(held_out_sentences(), dictionary_readings()))  # these words and no others
    sentences, voices, examples = held_out_sentences()[: options.sentences], {}, []
    for voice in options.voices.split(","):
        voices[voice], shown = measure(panel, vae, voice, sentences)
        examples += shown
    figures = {"sentences": len(sentences), "mean": summarise(voices), "voices": voices}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(figures, indent=1) + "\n")
    write_page(options.page, vae.codec, examples, figures)
    print(json.dumps(figures["mean"], indent=1))


if __name__ == "__main__":
    main()
