"""True takes: the synthesiser's own speech and the renderer's own face, plain, and there and back through both VAEs.

What the measures say of the first is the most they can say; of the second, the most that models of latents can reach.
It performs no models.
N pictures, S samples.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np
import torch
from rapidfuzz.distance import Levenshtein

from dit_worker.engine.loader import Models
from evaluation.hearing import Reading
from evaluation.judge import PAUSE
from evaluation.protocol import Clip
from evaluation.sync import loudness
from evaluation.takes import SpokenWord, Take
from evaluation.voices import identity_of, utterance
from training.corpora.faces import Pose, poses, render

FRAME_RATE = 24


@lru_cache(4)
def true_track(clip: Clip, sample_rate: int, frames_per_chunk: int) -> tuple[np.ndarray, list[Pose]]:
    """Samples (S,) and poses (N,) of a clip, a whole number of chunks long, cut at the clip's end."""
    spoken = utterance(clip.text, clip.voice, sample_rate)
    seconds = len(spoken.samples) / sample_rate if clip.seconds is None else clip.seconds
    chunks = -(-int(seconds * FRAME_RATE) // frames_per_chunk)
    frames, per_frame = chunks * frames_per_chunk, sample_rate // FRAME_RATE
    samples = np.pad(spoken.samples, (0, max(0, frames * per_frame - len(spoken.samples))))[: frames * per_frame]
    loud = loudness(samples, per_frame, frames)
    track = poses(spoken.phones, np.concatenate([[0], spoken.ends]), loud, frames, random.Random(clip.seed))
    return samples, track


def true_frames(clip: Clip, sample_rate: int, frames_per_chunk: int, side: int) -> Iterator[np.ndarray]:
    """The renderer's pictures, chunk by chunk: uint8 (frames_per_chunk, side, side, 3)."""
    _, track = true_track(clip, sample_rate, frames_per_chunk)
    for begin in range(0, len(track), frames_per_chunk):
        yield render(identity_of(clip.face), track[begin : begin + frames_per_chunk], side)


def true_words(clip: Clip, sample_rate: int, reading: Reading) -> list[SpokenWord]:
    """When each word begins, by the synthesiser's own phone times."""
    spoken = utterance(clip.text, clip.voice, sample_rate)
    begins = np.concatenate([[0], spoken.ends[:-1]])
    phones = [(name, float(begin)) for name, begin in zip(spoken.phones, begins, strict=True) if name != PAUSE]
    found = {}
    for block in Levenshtein.opcodes(reading.phones, [name for name, _ in phones]):
        if block.tag == "equal":
            for k in range(block.src_end - block.src_start):
                found[float(reading.places[block.src_start + k])] = phones[block.dest_start + k][1]
    starts = [(int(place), begin) for place, begin in found.items() if place.is_integer()]
    return [SpokenWord(index, round(begin, 3), round(begin, 3)) for index, begin in starts]


def true_take(models: Models, clip: Clip, reading: Reading) -> tuple[Take, np.ndarray]:
    """The true take, which has no latents, and its samples."""
    geometry = models.manifest.geometry
    samples, _ = true_track(clip, geometry.sample_rate, geometry.frames_per_chunk)
    nothing, words = np.zeros((0, 1, 1), np.float32), true_words(clip, geometry.sample_rate, reading)
    said = words_before(words, len(samples) / geometry.sample_rate, clip)
    return Take(clip, nothing, nothing, words=words, words_said=said), samples


def words_before(words: Sequence[SpokenWord], seconds: float, clip: Clip) -> int:
    """How many words are said to their end when a clip is cut: those before the last that has begun."""
    if all(word.start_s < seconds for word in words):
        return len(clip.text.split())
    return max((word.index for word in words if word.start_s < seconds), default=0)


def codec_take(models: Models, clip: Clip, reading: Reading) -> Take:
    """The true take as latents of both VAEs."""
    geometry = models.manifest.geometry
    samples, _ = true_track(clip, geometry.sample_rate, geometry.frames_per_chunk)
    with torch.inference_mode():
        audio = models.audio_codec.encode(torch.from_numpy(samples)[None])[0].numpy()
    chunks = []
    for frames in true_frames(clip, geometry.sample_rate, geometry.frames_per_chunk, geometry.width):
        pixels = torch.from_numpy(frames).permute(3, 0, 1, 2)[None].float().div(127.5).sub(1)
        with models.computing():
            chunks.append(models.video_vae.encode(pixels)[0].float().numpy())
    words = true_words(clip, geometry.sample_rate, reading)
    said = words_before(words, len(samples) / geometry.sample_rate, clip)
    return Take(clip, audio.reshape(len(chunks), -1, audio.shape[-1]), np.stack(chunks), words=words, words_said=said)
