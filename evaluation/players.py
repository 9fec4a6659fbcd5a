"""Takes as things a page can play and show: MP4 and Opus in data addresses, contact sheets, spectrograms with words.

It measures nothing and knows no models.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from fractions import Fraction

import av
import numpy as np
from PIL import Image
from scipy.signal import resample_poly

RATE = 48_000
FRAME_RATE = 24
OPUS_FRAME = 960
VIDEO_QUALITY = "27"
SOUND_BITS = 24_000
JPEG_QUALITY = 82


def data_address(kind: str, data: bytes) -> str:
    """Bytes as a data address."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def _at_rate(samples: np.ndarray, sample_rate: int) -> np.ndarray:
    common = math.gcd(RATE, sample_rate)
    return np.asarray(resample_poly(samples, RATE // common, sample_rate // common), np.float32).clip(-1, 1)


def movie(frames: np.ndarray | None, samples: np.ndarray, sample_rate: int) -> bytes:
    """MP4 of H.264 and Opus: uint8 (N, H, W, 3) at 24 a second and samples (S,); of Opus alone without frames."""
    target = io.BytesIO()
    with av.open(target, "w", format="mp4") as container:
        video = None
        if frames is not None:
            video = container.add_stream("libx264", rate=FRAME_RATE)
            video.width, video.height, video.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
            video.options = {"crf": VIDEO_QUALITY, "preset": "veryslow", "threads": "1"}
        sound = container.add_stream("libopus", rate=RATE)
        sound.layout, sound.bit_rate, sound.format = "mono", SOUND_BITS, "flt"
        for number, pixels in enumerate(() if frames is None else frames):
            assert video is not None
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, FRAME_RATE)
            container.mux(video.encode(frame))
        if video is not None:
            container.mux(video.encode(None))
        heard = _at_rate(samples, sample_rate)
        heard = np.pad(heard, (0, -len(heard) % OPUS_FRAME))
        for begin in range(0, len(heard), OPUS_FRAME):
            piece = av.AudioFrame.from_ndarray(heard[None, begin : begin + OPUS_FRAME], format="flt", layout="mono")
            piece.sample_rate, piece.pts = RATE, begin
            container.mux(sound.encode(piece))
        container.mux(sound.encode(None))
    return target.getvalue()


def jpeg(pixels: np.ndarray) -> bytes:
    """uint8 (H, W, 3) as JPEG."""
    target = io.BytesIO()
    Image.fromarray(pixels).save(target, "JPEG", quality=JPEG_QUALITY, optimize=True)
    return target.getvalue()


def strip(stills: Sequence[np.ndarray], side: int = 96) -> np.ndarray:
    """Stills uint8 (H, W, 3) side by side, each brought to `side`: (side, side * n, 3)."""
    small = [np.asarray(Image.fromarray(s).resize((side, side), Image.Resampling.LANCZOS)) for s in stills]
    return np.concatenate(small, 1)
