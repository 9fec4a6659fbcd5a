"""Stage 1a: the audio VAE's decoder: `python -m training.train_audio_decoder`.

The codec's projection stays as it is; what is learned is to make speech of its latents, through the posterior's noise
and, more roughly, through as much as a generator may leave. Pulses follow the true voice while it learns, so that even
short windows can be compared; its own pitch is learned beside. Sounds are compared by energy distances, which ask for
the right amount of what cannot be foretold: no discriminator is needed against buzz. A listener
(`training.listener`) asks that phones stay what they were, which distances between spectra weigh too little.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor
from tqdm import tqdm

from dit_worker.model.audio_vae import CONTEXT_LATENTS, LATE_LATENTS, AudioVAE, AudioVAEConfig, Excitation, Spectra
from dit_worker.model.codec import FLOOR, AudioCodec, AudioCodecConfig
from training.corpora.recordings import Recording, make_recordings, read_recordings, write_recordings
from training.corpora.text import collect
from training.listener import Listener, load_listener, misheard
from training.loop import Budget, Loop, Losses, load_weights
from training.make_corpus import HELD_OUT

VOICES = ("kal16", "slt", "rms", "awb")
VARIANTS = (86, 94, 108, 116)
RESOLUTIONS = ((256, 64), (96, 32))
"""Window and hop in samples of the STFTs that are compared besides the codec's own."""
FAINTEST = 0.004
"""Added to magnitudes of the codec's window before their logarithm, in proportion to those of shorter ones: it must lie
below the valleys between overtones, or nothing says how deep they are and voices buzz."""
HARMONIC_HZ = 1500.0
"""Below it pulses that follow the true voice should match it in phase as well."""


class Batch(NamedTuple):
    """Stretches of T latents with what a decode needs around them.

    latents: (B, CONTEXT_LATENTS + T + LATE_LATENTS, C); samples: (B, T * samples per latent); source: the true voice's,
    of the frames that reach into them; voiced: (B, F).
    """

    latents: Tensor
    samples: Tensor
    source: Excitation
    voiced: Tensor


class Track(NamedTuple):
    """A recording, encoded, with silence around it. latents: (T, C), samples: (S,); hz, phase, voiced: (F,)."""

    latents: Tensor
    samples: Tensor
    hz: Tensor
    phase: Tensor
    voiced: Tensor


def encode_recording(recording: Recording, codec: AudioCodec) -> Track:
    """What is learned from one recording."""
    per, frames = codec.samples_per_latent, codec.config.frames_per_latent
    before, after = CONTEXT_LATENTS + LATE_LATENTS, LATE_LATENTS + 4
    samples = recording.samples.float() / 32767
    silence = codec.silence[None]
    latents = [silence.expand(before, -1), codec.encode(samples[None])[0], silence.expand(after, -1)]
    around = (before * frames, after * frames)
    return Track(
        torch.cat(latents),
        F.pad(samples, (before * per, after * per)),
        F.pad(recording.hz[None], around, mode="replicate")[0],
        F.pad(recording.phase, around),
        F.pad(recording.voiced.float(), around),
    )


class Speech:
    """Every recording, ready to draw stretches from."""

    def __init__(self, recordings: list[Recording], codec: AudioCodec) -> None:
        self.per, self.frames = codec.samples_per_latent, codec.config.frames_per_latent
        self.tracks = [encode_recording(recording, codec) for recording in recordings]
        self.weights = [len(track.latents) for track in self.tracks]
        self.frame_rate = codec.config.sample_rate / codec.config.hop

    def draw(self, rng: random.Random, count: int, length: int) -> Batch:
        """Stretches of `length` latents, anywhere."""
        rows = [self._cut(track, rng, length) for track in rng.choices(self.tracks, self.weights, k=count)]
        latents, samples, hz, phase, voiced = (torch.stack(part) for part in zip(*rows, strict=True))
        slope = (hz[:, 1:] - hz[:, :-1]) * self.frame_rate * voiced[:, 1:] * voiced[:, :-1]
        return Batch(latents, samples, Excitation(hz[:, 1:], slope, phase[:, 1:]), voiced[:, 1:])

    def _cut(self, track: Track, rng: random.Random, length: int) -> Track:
        """One stretch; its frames are those that reach into its samples, and one before, as slopes need it."""
        begin = rng.randrange(max(1, len(track.latents) - CONTEXT_LATENTS - LATE_LATENTS - length + 1))
        first = begin + CONTEXT_LATENTS
        span = slice(first * self.frames - 3, (first + length) * self.frames + 2)
        return Track(
            track.latents[begin : first + length + LATE_LATENTS],
            track.samples[first * self.per : (first + length) * self.per],
            *(part[span] for part in track[2:]),
        )


def stft(samples: Tensor, window: int, hop: int) -> Tensor:
    """Complex spectra (B, K, F) of samples (B, S)."""
    return torch.stft(samples, window, hop, window, torch.hann_window(window), center=False, return_complex=True)


class Features(NamedTuple):
    """What is compared of a sound.

    wide: the codec's complex spectra (B, K, F); magnitudes and logs: at every resolution; mel: the log-mel, as judges
    hear it.
    """

    wide: Tensor
    magnitudes: list[Tensor]
    logs: list[Tensor]
    mel: Tensor


def features(codec: AudioCodec, samples: Tensor) -> Features:
    """Of samples (B, S), without the frames at either end, where the codec's windows are mirrored."""
    wide = codec.spectrum(samples)[..., codec.config.frames_per_latent : -codec.config.frames_per_latent]
    magnitudes = [wide.abs(), *(stft(samples, *sizes).abs() for sizes in RESOLUTIONS)]
    windows = [codec.config.window, *(window for window, _ in RESOLUTIONS)]
    faintest = [FAINTEST * window / codec.config.window for window in windows]
    logs = [torch.log(part + least) for part, least in zip(magnitudes, faintest, strict=True)]
    return Features(wide, magnitudes, logs, torch.log(codec.filters @ magnitudes[0] + FLOOR))


def distance(one: Features, other: Features, scale: list[Tensor]) -> Tensor:
    """Three distances (3,): of levels, of amplitudes by `scale` (the true ones' means), of the log-mel."""
    levels = torch.stack([(a - b).abs().mean() for a, b in zip(one.logs, other.logs, strict=True)])
    pairs = zip(one.magnitudes, other.magnitudes, scale, strict=True)
    heights = torch.stack([(a - b).abs().mean() / s for a, b, s in pairs])
    return torch.stack([levels.mean(), heights.mean(), 2 * (one.mel - other.mel).abs().mean()])


def energy_distance(one: Features, other: Features, true: Features) -> Tensor:
    """Energy distances (3,) of sounds made with different noise to the true one (Gritsenko 2020).

    What the two differ by is taken off: otherwise pulses, which can be foretold, always beat breath, which cannot, and
    every voice buzzes.
    """
    scale = [part.mean() + 1e-3 for part in true.magnitudes]
    return distance(one, true, scale) + distance(other, true, scale) - distance(one, other, scale)


class Listening(NamedTuple):
    """A listener, and how much what it mishears weighs."""

    listener: Listener
    weight: float

    def losses(self, made: Tensor, again: Tensor, true: Tensor) -> Losses:
        """What is misheard of two log-mels (B, M, F)."""
        return {"heard": self.weight / 2 * (misheard(self.listener, made, true) + misheard(self.listener, again, true))}


def sound_losses(codec: AudioCodec, listening: Listening, made: Tensor, again: Tensor, true: Tensor) -> Losses:
    """Energy distances of two sounds made with different noise to the true one, the phases of low overtones, and what a
    listener mishears of both."""
    ours, others, theirs = (features(codec, samples) for samples in (made, again, true))
    far = energy_distance(ours, others, theirs)
    below = int(HARMONIC_HZ / (codec.config.sample_rate / 2) * theirs.wide.shape[1])
    difference = (ours.wide - theirs.wide)[:, :below].abs().mean()
    phase = 0.5 * difference / (theirs.magnitudes[0][:, :below].mean() + 1e-3)
    heard = listening.losses(ours.mel, others.mel, theirs.mel)
    return {**dict(zip(("level", "amplitude", "mel"), far.unbind(), strict=True)), "phase": phase, **heard}


def roughened(vae: AudioVAE, latents: Tensor, most: float) -> Tensor:
    """A draw from the posterior, half of the time with more noise, up to `most`."""
    share = torch.rand(latents.shape[0], 1, 1)
    deviation = torch.where(
        share < 0.5,
        torch.tensor(vae.config.deviation),
        vae.config.deviation + (share - 0.5) * 2 * (most - vae.config.deviation),
    )
    return latents + deviation * torch.randn_like(latents)


def make(vae: AudioVAE, batch: Batch, latents: Tensor) -> tuple[Tensor, Tensor, Spectra]:
    """Samples with the true voice's pulses, twice, with different noise; and what the network said."""
    decoder, codec = vae.decoder, vae.codec
    log_mel = codec.unproject(latents)
    skipped = CONTEXT_LATENTS * vae.decoder.per_latent - 3 - decoder.back
    with torch.autocast("cpu", torch.bfloat16):
        spectra = decoder(log_mel[:, skipped:])
    heard = Spectra(*(part[:, 1:].float() for part in spectra))
    with torch.no_grad():
        pulses = decoder.pulses(batch.source)
        places = torch.randint(len(decoder.noise), (2, len(latents))).tolist()
        one, other = (torch.stack([decoder.noise_of(i, pulses.shape[1]) for i in row]) for row in places)
    return decoder.wave(heard, pulses, one), decoder.wave(heard, pulses, other), heard


def losses(vae: AudioVAE, listening: Listening, batch: Batch, most: float) -> Losses:
    """All losses of one batch."""
    made, again, heard = make(vae, batch, roughened(vae, batch.latents, most))
    off = (torch.log2(heard.hz) - torch.log2(batch.source.hz)).abs()
    pitch = (off * (batch.voiced + 0.05)).sum() / (batch.voiced.sum() + 1)
    return {**sound_losses(vae.codec, listening, made, again, batch.samples), "pitch": 4 * pitch}


@torch.no_grad()
def validate(vae: AudioVAE, listening: Listening, batches: list[Batch]) -> dict[str, float]:
    """Losses on unseen recordings without noise; the error of the pitch in percent."""
    sums: dict[str, float] = {}
    for batch in batches:
        made, again, heard = make(vae, batch, batch.latents)
        entry = sound_losses(vae.codec, listening, made, again, batch.samples)
        off = (torch.log2(heard.hz) - torch.log2(batch.source.hz)).abs()
        entry["pitch_percent"] = 69.3 * (off * batch.voiced).sum() / batch.voiced.sum()
        for name, value in entry.items():
            sums[f"val_{name}"] = sums.get(f"val_{name}", 0.0) + float(value) / len(batches)
    return sums


def all_recordings(
    folder: Path, minutes: float, variant_minutes: float, codec: AudioCodec
) -> Iterator[list[Recording]]:
    """Recordings of every speaker, made where they are missing."""
    wanted = [(v, minutes) for v in VOICES] + [(f"{v}@{p}", variant_minutes) for v in VOICES for p in VARIANTS]
    sizes, source = codec.config, None
    for speaker, length in tqdm(wanted, desc="recordings", unit="speaker"):
        path = folder / f"{speaker}.safetensors"
        if not path.exists():
            source = source or collect(HELD_OUT.read_text().splitlines())
            write_recordings(
                path, make_recordings(source, speaker, length, sizes.sample_rate, sizes.hop, codec.samples_per_latent)
            )
        yield list(read_recordings(path))


def load_vae(config: AudioVAEConfig, codec_path: Path) -> AudioVAE:
    """An untrained decoder over a fitted codec."""
    fitted = load_file(codec_path)
    codec = AudioCodec(AudioCodecConfig(channels=len(fitted["scale"])))
    codec.load_state_dict(fitted)
    return AudioVAE(config, codec.requires_grad_(requires_grad=False))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--codec", type=Path, default=Path("data/checkpoints/audio_codec.safetensors"))
    parser.add_argument(
        "--recordings", type=Path, default=Path("data/recordings"), help="folder of the speech, made when missing"
    )
    parser.add_argument("--out", type=Path, default=Path("data/checkpoints/audio_decoder"))
    parser.add_argument("--recording-minutes", type=float, default=12.0, help="speech of each voice")
    parser.add_argument("--variant-minutes", type=float, default=2.0, help="speech of each voice at another pitch")
    parser.add_argument("--listener", type=Path, default=Path("data/checkpoints/listener"))
    parser.add_argument("--hearing", type=float, default=2.0, help="weight of what the listener mishears")
    parser.add_argument("--start", type=Path, help="folder of another run's weights to begin from")
    parser.add_argument("--samples", type=int, default=400_000, help="stretches to learn from")
    parser.add_argument("--minutes", type=float, default=45.0, help="stop after so long at the latest")
    parser.add_argument("--batch", type=int, default=12)
    parser.add_argument("--length", type=int, default=20, help="latents of a stretch")
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--most-noise", type=float, default=0.25, help="greatest deviation of the latents' noise")
    parser.add_argument("--width", type=int, default=192)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    vae = load_vae(AudioVAEConfig(width=options.width), options.codec)
    try:
        listening = Listening(load_listener(options.listener), options.hearing)
    except FileNotFoundError as error:
        parser.error(str(error))
    speech = [
        c
        for recordings in all_recordings(
            options.recordings, options.recording_minutes, options.variant_minutes, vae.codec
        )
        for c in recordings
    ]
    unseen = Speech(speech[::25], vae.codec)
    seen = Speech([recording for i, recording in enumerate(speech) if i % 25], vae.codec)
    rng = random.Random("held out")
    held_out = [unseen.draw(rng, options.batch, options.length) for _ in range(8)]
    budget = Budget(options.samples, options.minutes, options.batch, rate=options.rate, hold=0.4, average_from=0.99)
    loop = Loop(
        vae.decoder, options.out, budget, lambda name: "mixers" in name and ("widen" in name or "narrow" in name)
    )
    (options.out / "config.json").write_text(
        json.dumps({"audio_vae": asdict(vae.config), "audio_codec": asdict(vae.codec.config)}, indent=1) + "\n"
    )
    if not loop.resume() and options.start:
        load_weights(vae.decoder, options.start / "model.safetensors")
        loop.begin_from(vae.decoder.state_dict())
    drawn = random.Random(loop.place.step)
    loop.run(
        lambda: losses(vae, listening, seen.draw(drawn, options.batch, options.length), options.most_noise),
        lambda: validate(vae, listening, held_out),
    )


if __name__ == "__main__":
    main()
