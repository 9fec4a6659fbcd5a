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

import numpy as np
import torch
from safetensors.torch import load_file
from tqdm import tqdm

from dit_worker.engine.sound import GriffinLim, SoundDecoder, Vocoder, continue_sound, silent_context
from dit_worker.model.audio_vae import LATE_LATENTS, AudioVAE, AudioVAEConfig
from dit_worker.model.codec import AudioCodec, AudioCodecConfig
from evaluation.lexicon_loop import dictionary_readings, read_lexicon
from evaluation.listening import Example, write_page
from evaluation.panel import Panel
from evaluation.sounds import Likeness, compare_sounds
from evaluation.sphinx import Sphinx
from evaluation.texts import held_out_sentences
from training.corpora.speech import Utterance, speak

Figures = dict[str, float | int]
WAYS = TRUTH, GRIFFIN_LIM, LEARNED = "true speech", "projection and Griffin-Lim", "learned decoder"
VOICES = "kal16,slt,rms,awb"
EXAMPLE = 17
"""The sentence that is put on the page."""


def load_vae(decoder: Path, codec: Path) -> AudioVAE:
    """A trained decoder over its codec. Raises FileNotFoundError with the command that trains one."""
    if not (decoder / "model.safetensors").exists():
        raise FileNotFoundError(f"no decoder in {decoder}: run `python -m training.train_audio_decoder` first")
    config = json.loads((decoder / "config.json").read_text())
    linear = AudioCodec(AudioCodecConfig(**config["audio_codec"]))
    linear.load_state_dict(load_file(codec))
    vae = AudioVAE(AudioVAEConfig(**config["audio_vae"]), linear)
    vae.decoder.load_state_dict(load_file(decoder / "model.safetensors"))
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


def copy(vae: AudioVAE, decoder: SoundDecoder | None, samples: np.ndarray) -> np.ndarray:
    """A whole number of latents of samples (S,), decoded; None leaves them as they are."""
    per = vae.codec.samples_per_latent
    whole = samples[: len(samples) // per * per]
    return whole if decoder is None else through(vae, decoder, whole)


def measure(panel: Panel, vae: AudioVAE, way: str, spoken: Sequence[Utterance], sentences: Sequence[str]) -> Figures:
    """Figures of one way for one voice."""
    decoder, began_at = ways_of(vae)[way], time.process_time()
    made = [copy(vae, decoder, u.samples) for u in tqdm(spoken, desc=f"decoding, {way}", mininterval=2)]
    seconds = sum(map(len, made)) / vae.codec.config.sample_rate
    spent = (time.process_time() - began_at) / seconds
    with tqdm(total=len(sentences), desc=f"judging, {way}", mininterval=2) as bar:
        figures: Figures = panel.hear(made, sentences, [u.phones for u in spoken], progress=bar.update).summary()
    if decoder is not None:
        near = [compare_sounds(vae.codec, u.samples[: len(s)], s) for u, s in zip(spoken, made, strict=True)]
        means = np.mean(near, axis=0)
        figures |= {key: round(float(mean), 4) for key, mean in zip(Likeness._fields, means, strict=True)}
        figures["real_time_factor"] = round(spent, 4)
    return figures


def ways_of(vae: AudioVAE) -> dict[str, SoundDecoder | None]:
    """What is compared, by name."""
    return {TRUTH: None, GRIFFIN_LIM: GriffinLim(vae.codec), LEARNED: Vocoder(vae)}


def examples_of(vae: AudioVAE, voices: Sequence[str], sentence: str) -> list[Example]:
    """One sentence of every voice, by every way."""
    examples = []
    for voice in voices:
        spoken = speak(f"{sentence}.", voice, vae.codec.config.sample_rate)
        ways = ways_of(vae).items()
        examples += [Example(voice, way, sentence, copy(vae, decoder, spoken.samples)) for way, decoder in ways]
    return examples


def summarise(voices: dict[str, dict[str, Figures]]) -> dict[str, Figures]:
    """Means over voices of every figure that is a rate or a distance."""
    mean: dict[str, Figures] = {}
    for way in WAYS:
        measured = [figures[way] for figures in voices.values() if way in figures]
        keys = [key for key in measured[0] if not key.startswith("words")] if measured else []
        mean[way] = {key: round(float(np.mean([figures[key] for figures in measured])), 4) for key in keys}
    return mean


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
    parser.add_argument(
        "--only", default=",".join(WAYS), help=f"ways to measure, of {', '.join(WAYS)}; others stay as they were"
    )
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/audio_codec.json"))
    parser.add_argument("--page", type=Path, default=Path("docs/quality/listening.html"))
    options = parser.parse_args()
    wanted = options.only.split(",")
    if unknown := set(wanted) - set(WAYS):
        parser.error(f"no way is called {', '.join(sorted(unknown))}; there are {', '.join(WAYS)}")
    torch.set_num_threads(1)
    try:
        vae = load_vae(options.decoder, options.codec)
        whole = Panel.convene(options.judge, vae.codec, read_lexicon(options.lexicon), options.corpus)
    except FileNotFoundError as error:
        parser.error(str(error))
    panel = replace(whole, sphinx=Sphinx(held_out_sentences(), dictionary_readings()))  # these words and no others
    sentences = held_out_sentences()[: options.sentences]
    kept = json.loads(options.out.read_text())["voices"] if options.out.exists() else {}
    for voice in options.voices.split(","):
        spoken = [speak(f"{s}.", voice, vae.codec.config.sample_rate) for s in tqdm(sentences, desc=f"flite {voice}")]
        for way in wanted:
            kept.setdefault(voice, {})[way] = measure(panel, vae, way, spoken, sentences)
    figures = {"sentences": len(sentences), "mean": summarise(kept), "voices": kept}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(figures, indent=1) + "\n")
    write_page(
        options.page, vae.codec, examples_of(vae, list(kept), sentences[min(EXAMPLE, len(sentences) - 1)]), figures
    )
    print(json.dumps(figures["mean"], indent=1))


if __name__ == "__main__":
    main()
