"""What was performed, kept on disk: latents, pointers and word times in a safetensors file, the sound beside it as WAV.

    CACHE/VARIANT-FINGERPRINT/CLIP.safetensors, CLIP.wav

A take that is there, and of the same clip, is not made again; a half-written one is never seen. It performs nothing.
K chunks, T audio latents of a chunk, C audio channels, L video latents of a chunk.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from scipy.io import wavfile

from dit_worker.engine.loader import Models
from dit_worker.engine.media import Decoder
from dit_worker.model.audio_vae import LATE_LATENTS
from evaluation.protocol import Clip


@dataclass
class SpokenWord:
    """A word that began, by its index in the text; seconds from the clip's beginning."""

    index: int
    start_s: float
    end_s: float


@dataclass
class Take:
    """One clip as performed.

    audio: (K, T, C), video: (K, Cv, L, h, w); pointers: after each chunk, in words and shares of a word.
    """

    clip: Clip
    audio: np.ndarray
    video: np.ndarray
    pointers: list[float] = field(default_factory=list)
    words: list[SpokenWord] = field(default_factory=list)
    words_said: int | None = None
    """How many words were said, where that is known without a pointer."""
    is_finished: bool = True
    nudges: int = 0
    """How often the pointer had to be moved because it stood still."""
    seconds_taken: float = 0.0
    """Processor seconds that generating took, decoding left out."""

    @property
    def words_due(self) -> int:
        """How many words of the text should be heard: all, or where the pointer came to when time was up."""
        if self.words_said is not None:
            return self.words_said
        total = len(self.clip.text.split())
        return total if self.is_finished or not self.pointers else min(total, int(self.pointers[-1] + 0.5))


def take_path(folder: Path, clip: Clip) -> Path:
    """Where a clip's take is."""
    return folder / f"{clip.name}.safetensors"


def has_take(folder: Path, clip: Clip) -> bool:
    """Whether the very clip has been performed."""
    path = take_path(folder, clip)
    if not path.exists():
        return False
    with safe_open(path, "np") as file:
        about = json.loads((file.metadata() or {}).get("about", "{}"))
    return bool(about.get("clip") == asdict(clip))


def save_take(folder: Path, take: Take, samples: np.ndarray, sample_rate: int) -> None:
    """Writes a take; the latents come last, so that a half-written one is unseen."""
    folder.mkdir(parents=True, exist_ok=True)
    path = take_path(folder, take.clip)
    wavfile.write(path.with_suffix(".wav"), sample_rate, (np.clip(samples, -1, 1) * 32767).astype(np.int16))
    about = {k: v for k, v in asdict(take).items() if k not in ("audio", "video")}
    partial = path.with_suffix(".partial")
    save_file(
        {"audio": _in_order(take.audio, np.float32), "video": _in_order(take.video, np.float16)},
        partial,
        {"about": json.dumps(about)},
    )
    partial.rename(path)


def _in_order(array: np.ndarray, kind: type) -> np.ndarray:
    """The array as it must lie in memory to be written: safetensors writes the bytes as they lie."""
    return np.ascontiguousarray(array, kind)


def load_take(folder: Path, clip: Clip) -> Take:
    """Reads a take. Raises FileNotFoundError where the clip has not been performed."""
    path = take_path(folder, clip)
    if not path.exists():
        raise FileNotFoundError(f"{clip.name} has not been performed in {folder}")
    arrays = load_file(path)
    with safe_open(path, "np") as file:
        about = json.loads((file.metadata() or {})["about"])
    words = [SpokenWord(**word) for word in about.pop("words")]
    about.pop("clip")
    return Take(clip, arrays["audio"], arrays["video"].astype(np.float32), words=words, **about)


def load_sound(folder: Path, clip: Clip) -> tuple[int, np.ndarray]:
    """Sample rate and samples (S,) in [-1, 1] of a take."""
    rate, raw = wavfile.read(take_path(folder, clip).with_suffix(".wav"))
    return int(rate), raw.astype(np.float32) / 32767


def decode_sound(models: Models, take: Take) -> np.ndarray:
    """The sound (S,) of all chunks, each joined to the one before, as the worker publishes it."""
    decoder, per = Decoder(models), models.manifest.geometry.samples_per_audio_latent
    silence = np.broadcast_to(models.audio_codec.silence.numpy(), take.audio.shape[1:]).astype(np.float32)
    context, published = decoder.silence(), []
    for chunk in (*take.audio, silence):  # a chunk's last samples are told when the next one comes
        samples, context = decoder.samples(chunk, context)
        published.append(samples)
    whole = np.concatenate(published)[LATE_LATENTS * per :]
    return np.asarray(whole[: take.audio.shape[0] * take.audio.shape[1] * per])


def decode_frames(models: Models, take: Take) -> Iterator[np.ndarray]:
    """The pictures, chunk by chunk: uint8 (N, H, W, 3)."""
    decoder = Decoder(models)
    for chunk in take.video:
        yield decoder.frames(chunk)
