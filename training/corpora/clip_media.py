"""Sound and pictures of clips, in and out of mp4 and wav, by PyAV.

What is decoded was made by others: its length, its size and its rate are bounded before anything is kept. Frames come
at the rate asked for, the nearest in time; sound comes as one channel. Knows nothing of shards or models.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping
from fractions import Fraction
from typing import NamedTuple

import av
import cv2
import numpy as np
from av.error import FFmpegError

from training.corpora.clip_format import LONGEST_CLIP, ClipInvalid

LARGEST_SIDE = 4096
"""Pixels."""
MOST_FRAMES = int(LONGEST_CLIP * 240)
"""Frames of a picture, or packets' worth of sound, that are decoded at most."""


class Media(NamedTuple):
    """Frames uint8 (N, H, W, 3) at the rate asked for, None without a picture; samples float32 (S,) in [-1, 1]."""

    frames: np.ndarray | None
    samples: np.ndarray


def decode(key: str, members: Mapping[str, bytes], frame_rate: float, sample_rate: int, size: tuple[int, int]) -> Media:
    """The media of one clip: a .wav is its sound where there is one, else the .mp4's. `size` is (height, width).

    A picture is scaled to cover `size` and cut around its centre. Raises ClipInvalid.
    """
    try:
        frames = _frames(members["mp4"], frame_rate, size) if "mp4" in members else None
        samples = _samples(members["wav"] if "wav" in members else members["mp4"], sample_rate)
    except KeyError as fault:
        raise ClipInvalid(f"{key}: has no media") from fault
    except (FFmpegError, ValueError) as fault:
        raise ClipInvalid(f"{key}: cannot be decoded: {fault}") from fault
    return Media(frames, samples)


def _frames(content: bytes, rate: float, size: tuple[int, int]) -> np.ndarray | None:
    with av.open(io.BytesIO(content), "r") as container:
        if not container.streams.video:
            return None
        stream = container.streams.video[0]
        if not 0 < stream.width <= LARGEST_SIDE or not 0 < stream.height <= LARGEST_SIDE:
            raise ValueError(f"a picture of {stream.width}x{stream.height} pixels, more than {LARGEST_SIDE} a side")
        timed = ((_time(frame), frame) for frame in _bounded(container.decode(stream)))
        kept = [cover(frame.to_ndarray(format="rgb24"), size) for frame in nearest(timed, rate)]
    if not kept:
        raise ValueError("no frame in its picture")
    return np.stack(kept)


def nearest(timed: Iterable[tuple[float, av.VideoFrame]], rate: float) -> Iterator[av.VideoFrame]:
    """For each time i / rate the frame that stands closest to it; the last one stands as long as the one before."""
    count, before, lasts = 0, None, 1 / rate
    for time, frame in timed:
        if before is not None:
            lasts = time - before[0]
            while count / rate < (before[0] + time) / 2:
                yield before[1]
                count += 1
        before = time, frame
    if before is not None:
        while (count + 0.5) / rate < before[0] + lasts:
            yield before[1]
            count += 1


def _time(frame: av.VideoFrame | av.AudioFrame) -> float:
    if frame.time is None or not -1 <= frame.time <= LONGEST_CLIP:
        raise ValueError(f"a frame without a time, or later than {LONGEST_CLIP:g} s")
    return float(frame.time)


def _bounded(frames: Iterator[av.VideoFrame]) -> Iterator[av.VideoFrame]:
    for count, frame in enumerate(frames):
        if count >= MOST_FRAMES:
            raise ValueError(f"more than {MOST_FRAMES} frames")
        yield frame


def _samples(content: bytes, rate: int) -> np.ndarray:
    with av.open(io.BytesIO(content), "r") as container:
        if not container.streams.audio:
            raise ValueError("there is no sound")
        resampler, pieces, first, total = av.AudioResampler("flt", "mono", rate), list[np.ndarray](), 0.0, 0
        for frame in container.decode(container.streams.audio[0]):
            first = first if pieces else _time(frame)
            for out in resampler.resample(frame):
                pieces.append(out.to_ndarray()[0])
                total += len(pieces[-1])
            if total > rate * LONGEST_CLIP:
                raise ValueError(f"sound longer than {LONGEST_CLIP:g} s")
        pieces += [out.to_ndarray()[0] for out in resampler.resample(None)]
    samples = np.concatenate(pieces) if pieces else np.zeros(0, np.float32)
    if not len(samples) or not np.isfinite(samples).all():
        raise ValueError("its sound is empty or not a number")
    delay = round(first * rate)
    shifted = np.concatenate([np.zeros(max(0, delay), np.float32), samples[max(0, -delay) :]])
    clipped: np.ndarray = np.clip(shifted, -1, 1)
    return clipped


def cover(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Scales a picture (H, W, 3) to cover (height, width) and cuts around its centre."""
    height, width = size
    scale = max(height / picture.shape[0], width / picture.shape[1])
    if scale != 1:
        shape = max(width, round(picture.shape[1] * scale)), max(height, round(picture.shape[0] * scale))
        picture = cv2.resize(picture, shape, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    top, left = (picture.shape[0] - height) // 2, (picture.shape[1] - width) // 2
    cut: np.ndarray = picture[top : top + height, left : left + width]
    return cut


def to_wav(samples: np.ndarray, rate: int) -> bytes:
    """Float samples (S,) as a 16-bit wav of one channel."""
    file = io.BytesIO()
    with av.open(file, "w", format="wav") as container:
        stream = container.add_stream("pcm_s16le", rate=rate, layout="mono")
        frame = av.AudioFrame.from_ndarray((np.clip(samples, -1, 1) * 32767).astype(np.int16)[None], "s16", "mono")
        frame.rate = rate
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return file.getvalue()


def to_mp4(frames: Iterable[np.ndarray], rate: int, size: tuple[int, int]) -> bytes:
    """Frames uint8 (H, W, 3) as a silent H.264 film of good quality; `size` is (height, width)."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(rate), options={"crf": "14", "preset": "veryfast"})
        stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
        for picture in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return file.getvalue()
