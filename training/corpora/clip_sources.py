"""Where clips come from: a folder of media with sidecar files, or the synthetic corpus, spoken and drawn on the spot.

Both yield what a shard is packed from. Of a folder nothing is decoded here but its length: `training.check_clips` does
that. Word times of synthetic speech come from the phones that the front-end reads each word as, laid over those spoken.
"""

from __future__ import annotations

import difflib
import json
import math
import random
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
import torch
from av.error import FFmpegError
from pydantic import ValidationError

from dit_worker.model.codec import AudioCodec, AudioCodecConfig
from orchestrator_llm.model.text import FIRST_PHONE, PAUSE, TextFrontEnd
from training.corpora.captions import captions
from training.corpora.clip_format import LARGEST_MEMBER, LARGEST_RECORD, Caption, Clip, ClipInvalid, Timed, explain
from training.corpora.clip_media import to_mp4, to_wav
from training.corpora.clip_shards import MEDIA, Packed
from training.corpora.faces import poses, render
from training.corpora.identities import random_identity
from training.corpora.speech import speak
from training.corpora.states import looks, plan
from training.make_video import FRAMES, MEL_RATE, RATE, loudness
from training.train_vae import SIZE

SAMPLE_RATE = 48_000
Bad = Callable[[ClipInvalid], None]


def refuse(fault: ClipInvalid) -> None:
    """Ends at the first bad clip."""
    raise fault


def folder_clips(folder: Path, bad: Bad = refuse) -> Iterator[Packed]:
    """Every NAME.json under a folder with its NAME.mp4 and/or NAME.wav, in the order of their paths.

    `seconds` may be missing from a sidecar: the container's length stands in. A bad clip goes to `bad` and is left out.
    """
    seen: dict[str, Path] = {}
    for path in sorted(folder.rglob("*.json")):
        key = re.sub(r"[^A-Za-z0-9_-]", "_", str(path.relative_to(folder).with_suffix("")))[:128]
        try:
            if key in seen:
                raise ClipInvalid(f"{path} and {seen[key]} would both be called {key}")
            seen[key] = path
            yield _packed(key, path)
        except ClipInvalid as fault:
            bad(fault)


def _packed(key: str, path: Path) -> Packed:
    members = {}
    for extension in MEDIA:
        media = path.with_suffix(f".{extension}")
        if media.is_file():
            if media.stat().st_size > LARGEST_MEMBER:
                raise ClipInvalid(f"{media} is larger than {LARGEST_MEMBER} bytes")
            members[extension] = media.read_bytes()
    if not members:
        raise ClipInvalid(f"{path} has neither .mp4 nor .wav beside it")
    if path.stat().st_size > LARGEST_RECORD:
        raise ClipInvalid(f"{path} is larger than {LARGEST_RECORD} bytes")
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(record, dict) and "seconds" not in record:
            record["seconds"] = _seconds(path.with_suffix(f".{next(iter(members))}"))
        return Packed(key, Clip.model_validate_json(json.dumps(record)), members)
    except ValidationError as fault:
        raise ClipInvalid(f"{path}: {explain(fault)}") from fault
    except (ValueError, RecursionError, FFmpegError) as fault:
        raise ClipInvalid(f"{path}: {fault}") from fault


def _seconds(path: Path) -> float:
    with av.open(str(path), "r") as container:
        if not container.duration or container.duration < 0:
            raise ClipInvalid(f"{path} does not say how long it is; give `seconds` in its sidecar")
        return round(container.duration / 1e6, 3)


def synthetic_clips(
    texts: Iterator[str], voices: Sequence[str], front_end: TextFrontEnd, seed: int = 0
) -> Iterator[Packed]:
    """Texts spoken by flite in turn, each with a face of its own: 24 frames a second, sound at 48 kHz.

    The clip begins with its first word and lasts whole chunks, silence to their end.
    """
    codec = AudioCodec(AudioCodecConfig())
    for index, text in enumerate(texts):
        voice, rng = voices[index % len(voices)], random.Random(f"{seed}/{index}")
        low, high = speak(text, voice, codec.config.sample_rate), speak(text, voice, SAMPLE_RATE)
        cut = int(low.ends[0] * RATE) if low.phones[0] == PAUSE else 0
        ends = low.ends - cut / RATE
        chunks = math.ceil(float(ends[-1]) * RATE / FRAMES)
        whole = len(low.samples) // codec.samples_per_latent * codec.samples_per_latent
        log_mel = codec.log_mel(torch.from_numpy(low.samples[:whole])[None])[0].numpy()
        loud = loudness(log_mel[cut * MEL_RATE // int(RATE) :], chunks * FRAMES)
        edges = np.concatenate([[0.0], np.maximum(ends, 0)])
        states = plan(rng, chunks)
        track = poses(low.phones, edges, loud, chunks * FRAMES, rng)
        pictures = render(random_identity(rng), track, SIZE, looks(states, FRAMES))
        samples = np.zeros(chunks * FRAMES * SAMPLE_RATE // int(RATE), np.float32)
        spoken = high.samples[cut * SAMPLE_RATE // int(RATE) :][: len(samples)]
        samples[: len(spoken)] = spoken
        seconds = chunks * FRAMES / RATE
        record = describe(text, Spoken(voice, low.phones, ends), seconds, captions(states, rng), front_end)
        members = {"mp4": to_mp4(pictures, int(RATE), (SIZE, SIZE)), "wav": to_wav(samples, SAMPLE_RATE)}
        yield Packed(f"{voice.replace('@', '-')}-{seed}-{index:06d}", record, members)


class Spoken(NamedTuple):
    """Who spoke which phones, and when each ends, in seconds of the clip."""

    voice: str
    phones: Sequence[str]
    ends: np.ndarray


def describe(text: str, spoken: Spoken, seconds: float, said: Sequence[str], front_end: TextFrontEnd) -> Clip:
    """The record of a spoken text whose pictures `said` describes, chunk by chunk, "" where there is nothing to say."""
    ends = [round(end, 4) for end in np.clip(spoken.ends, 0, seconds).tolist()]
    begins = [0.0, *ends[:-1]]
    phones = [
        Timed(text=name, begin=begin, end=end)
        for name, begin, end in zip(spoken.phones, begins, ends, strict=True)
        if end > 0
    ]
    words = [
        Timed(text=word, begin=begins[first], end=ends[last])
        for word, first, last in word_places(text, spoken.phones, front_end)
    ]
    chunk = FRAMES / RATE
    return Clip(
        seconds=seconds,
        transcript=" ".join(word.text for word in words),
        words=tuple(words),
        phones=tuple(phones),
        captions=tuple(
            Caption(text=caption, begin=k * chunk, end=(k + 1) * chunk) for k, caption in enumerate(said) if caption
        ),
        speaker=spoken.voice,
        licence="synthetic",
        source="flite and procedural faces",
    )


def word_places(text: str, phones: Sequence[str], front_end: TextFrontEnd) -> list[tuple[str, int, int]]:
    """The written words of a text with the first and last place of each among the phones that were spoken.

    Words the front-end has no phones for are left out. Where flite read a word otherwise, its border is that of the
    nearest phone both agree on.
    """
    utterance = front_end.tokenize(text)
    names = front_end.phones
    expected = [names[token - FIRST_PHONE] for token in utterance.tokens]
    place = np.full(len(expected) + 1, -1)
    place[-1] = len(phones)
    matcher = difflib.SequenceMatcher(None, expected, list(phones), autojunk=False)
    for first, there, size in matcher.get_matching_blocks():
        place[first : first + size] = range(there, there + size)
    known = np.flatnonzero(place >= 0)
    borders = np.round(np.interp(np.arange(len(place)), known, place[known])).astype(int)
    found = []
    for word in utterance.words:
        first, last = int(borders[word.begin]), max(int(borders[word.begin]), int(borders[word.end]) - 1)
        if word.end > word.begin:
            while last > first and phones[last] == PAUSE:
                last -= 1
            found.append((word.text, first, last))
    return found
