"""Real H.264 and Opus with test content, cut into chunks as the worker publishes them.

Each picture is a flat colour that changes with the position, with a bar that moves with the frame; the sound is a tone.
It knows the published framing (an IDR picture first, packets that carry over the border) and no model.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from fractions import Fraction

import av
import numpy as np
from av.audio.codeccontext import AudioCodecContext
from av.video.codeccontext import VideoCodecContext

VIDEO_TRACK = 1
AUDIO_TRACK = 2
WIDTH = HEIGHT = 128
FRAMES_PER_SECOND = 24
FRAMES_PER_CHUNK = 33
SAMPLE_RATE = 48_000
PACKET_SAMPLES = 960
CHUNK_SAMPLES = SAMPLE_RATE * FRAMES_PER_CHUNK // FRAMES_PER_SECOND


def first_packet(position: int) -> int:
    """Number of the first Opus packet sent with the chunk at `position`: packet n goes where its last sample lies."""
    return position * CHUNK_SAMPLES // PACKET_SAMPLES


@dataclass(frozen=True)
class EncodedChunk:
    """The access units of one chunk; audio starts with packet `first_audio_packet`."""

    video: list[bytes]
    audio: list[bytes]
    first_audio_packet: int


@dataclass
class TestMedia:
    """Encodes chunk after chunk; `parameter_sets` and `opus_head` are the init data of the two tracks."""

    __test__ = False

    tone_hertz: float = 440.0
    parameter_sets: bytes = field(init=False)
    opus_head: bytes = field(init=False)

    def __post_init__(self) -> None:
        encoder = _video_encoder(global_header=True)
        encoder.open()
        self.parameter_sets = bytes(encoder.extradata or b"")
        audio = _audio_encoder()
        audio.open()
        self.opus_head = bytes(audio.extradata or b"")

    def chunk(self, position: int, is_silent: bool = False) -> EncodedChunk:
        """The chunk at `position` of the media timeline: a pure function of its arguments."""
        return EncodedChunk(_video_units(position), self._audio_units(position, is_silent), first_packet(position))

    def _audio_units(self, position: int, is_silent: bool) -> list[bytes]:
        begin, end = first_packet(position), first_packet(position + 1)
        time = np.arange(begin * PACKET_SAMPLES, end * PACKET_SAMPLES) / SAMPLE_RATE
        loudness = 0.0 if is_silent else 0.4 * (0.6 + 0.4 * np.sin(2 * math.pi * 3 * time))
        samples = (loudness * np.sin(2 * math.pi * self.tone_hertz * time)).astype(np.float32)
        encoder = _audio_encoder()
        units: list[bytes] = []
        for number in range(end - begin):
            piece = samples[number * PACKET_SAMPLES : (number + 1) * PACKET_SAMPLES]
            frame = av.AudioFrame.from_ndarray(piece[None, :], format="flt", layout="mono")
            frame.sample_rate = SAMPLE_RATE
            frame.pts = number * PACKET_SAMPLES
            units += [bytes(packet) for packet in encoder.encode(frame)]
        units += [bytes(packet) for packet in encoder.encode(None)]
        return units[: end - begin]


def _video_encoder(global_header: bool) -> VideoCodecContext:
    encoder = av.CodecContext.create("libx264", "w")
    assert isinstance(encoder, VideoCodecContext)
    encoder.width, encoder.height, encoder.pix_fmt = WIDTH, HEIGHT, "yuv420p"
    encoder.framerate = Fraction(FRAMES_PER_SECOND)
    encoder.time_base = Fraction(1, FRAMES_PER_SECOND)
    encoder.options = {"preset": "ultrafast", "tune": "zerolatency", "profile": "baseline", "threads": "1"}
    if global_header:
        encoder.flags |= 1 << 22  # AV_CODEC_FLAG_GLOBAL_HEADER
    return encoder


def _audio_encoder() -> AudioCodecContext:
    encoder = av.CodecContext.create("libopus", "w")
    assert isinstance(encoder, AudioCodecContext)
    encoder.sample_rate, encoder.layout, encoder.format = SAMPLE_RATE, "mono", "flt"  # type: ignore[assignment]
    encoder.bit_rate = 32_000
    return encoder


def _video_units(position: int) -> list[bytes]:
    encoder = _video_encoder(global_header=False)
    units: list[bytes] = []
    for number in range(FRAMES_PER_CHUNK):
        picture = np.empty((HEIGHT, WIDTH, 3), np.uint8)
        picture[:] = ((position * 53) % 256, (position * 97 + 80) % 256, 140)
        picture[:, number * 3 : number * 3 + 12] = 250
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="yuv420p")
        frame.pts = number
        units += [bytes(packet) for packet in encoder.encode(frame)]
    return units + [bytes(packet) for packet in encoder.encode(None)]
