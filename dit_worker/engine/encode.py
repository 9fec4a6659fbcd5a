"""Pictures and sound to access units: H.264 baseline and Opus.

Video: every chunk is a closed group of pictures from a fresh encoder, so its bytes depend on its frames alone and the
parameter sets are always the same. Audio: packets of 20 ms run on over chunk borders; which packets go with a chunk is
a pure function of its position. It knows nothing of latents, sessions or containers.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import av
import numpy as np
from av.audio.codeccontext import AudioCodecContext
from av.codec.context import Flags
from av.video.codeccontext import VideoCodecContext
from scipy.signal import firwin, upfirdn

from dit_worker.engine.arrays import Floats, Pixels

VIDEO_TIMESCALE = 90_000
OPUS_RATE = 48_000
OPUS_PACKET = 960
"""Samples of one 20 ms packet."""
OPUS_LOOKAHEAD = 312
"""Samples by which the Opus encoder's output is late."""
RESAMPLER_DELAY = 16
"""Source samples by which the resampler's output is late: its filter needs as many to come."""
VIDEO_CODEC = "avc1.42C01E"
AUDIO_CODEC = "opus"
_SEI, _SPS, _PPS = 6, 7, 8


class H264Encoder:
    """Frames of one size and rate to constrained-baseline H.264, Annex B."""

    def __init__(self, width: int, height: int, frames_per_second: int, quality: int = 18) -> None:
        """quality: x264's constant rate factor, lower is better."""
        self._width, self._height = width, height
        self._rate = Fraction(frames_per_second)
        self._quality = quality
        self.parameter_sets = _parameter_sets(self._open())

    @property
    def unit_ticks(self) -> int:
        """Ticks of VIDEO_TIMESCALE that one frame lasts."""
        return int(VIDEO_TIMESCALE / self._rate)

    def encode(self, frames: Pixels) -> list[bytes]:
        """(F, H, W, 3) 8-bit RGB -> F access units, the first an IDR picture."""
        context = self._open()
        packets = []
        for index, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format="yuv420p")
            frame.pts = index
            packets += context.encode(frame)
        packets += context.encode(None)
        units = [_without_remarks(bytes(packet)) for packet in packets]
        assert len(units) == len(frames), "one access unit a frame"
        return units

    def _open(self) -> VideoCodecContext:
        context = av.CodecContext.create("libx264", "w")
        context.width, context.height = self._width, self._height
        context.pix_fmt = "yuv420p"
        context.framerate, context.time_base = self._rate, 1 / self._rate
        context.thread_count = 1
        context.flags |= Flags.global_header
        context.options = {
            "preset": "veryfast",
            "tune": "zerolatency",
            "profile": "baseline",
            "level": "3.0",
            "crf": str(self._quality),
            "x264-params": "bframes=0:keyint=infinite:scenecut=0:open-gop=0",
        }
        context.open()
        return context


def _parameter_sets(context: VideoCodecContext) -> bytes:
    """SPS and PPS as Annex B."""
    return _select(context.extradata or b"", lambda kind: kind in (_SPS, _PPS))


def _without_remarks(unit: bytes) -> bytes:
    """An access unit without the encoder's own remarks, which it repeats at every start."""
    return _select(unit, lambda kind: kind != _SEI)


def _select(annex_b: bytes, is_wanted: Callable[[int], bool]) -> bytes:
    """The NAL units whose type is wanted, each after a four-byte start code."""
    units = annex_b.replace(b"\x00\x00\x00\x01", b"\x00\x00\x01").split(b"\x00\x00\x01")
    return b"".join(b"\x00\x00\x00\x01" + unit for unit in units if unit and is_wanted(unit[0] & 0x1F))


@dataclass(frozen=True, slots=True)
class PacketSpan:
    """Packets first .. end - 1, counted from the start of the media clock."""

    first: int
    end: int


def packet_span(position: int, chunk_samples: int) -> PacketSpan:
    """Packets sent with the chunk at this position: those whose last sample lies in it. chunk_samples at 48 kHz."""
    return PacketSpan(position * chunk_samples // OPUS_PACKET, (position + 1) * chunk_samples // OPUS_PACKET)


class Upsampler:
    """Source rate to 48 kHz by a polyphase filter whose delay is constant, so that chunks join without a click."""

    def __init__(self, source_rate: int) -> None:
        ratio = Fraction(OPUS_RATE, source_rate)
        self._up, self._down = ratio.numerator, ratio.denominator
        taps = 2 * RESAMPLER_DELAY * self._up + 1
        cutoff = 0.97 / max(self._up, self._down)
        self._filter = (firwin(taps, cutoff, window=("kaiser", 8.0)) * self._up).astype(np.float32)

    @property
    def delay(self) -> float:
        """Samples at 48 kHz by which the output is late."""
        return RESAMPLER_DELAY * self._up / self._down

    def __call__(self, before: Floats, samples: Floats) -> Floats:
        """Samples (S,), with those just before them, at least 2 * RESAMPLER_DELAY: (S * 48,000 / source rate,)."""
        context = 2 * RESAMPLER_DELAY
        padded = np.concatenate([np.zeros(context, np.float32), before])[-self._context_length(context) :]
        skipped = len(padded) * self._up // self._down
        count = len(samples) * self._up // self._down
        output = upfirdn(self._filter, np.concatenate([padded, samples]), self._up, self._down)
        return np.asarray(output[skipped : skipped + count], dtype=np.float32)

    def _context_length(self, least: int) -> int:
        """The least context that is a whole number of output samples."""
        return -(-least // self._down) * self._down


class OpusEncoder:
    """A run of packets on the media clock; what does not fill a packet waits for the next chunk."""

    def __init__(self, bits_per_second: int = 48_000) -> None:
        self._bits_per_second = bits_per_second
        self._context = self._open()
        self._waiting = np.zeros(0, np.float32)
        self.next_packet = 0

    def start(self, position: int, chunk_samples: int, before: Floats) -> None:
        """Begin anew at a chunk. before: the 48 kHz samples just before it; what is missing counts as silence.

        The packets that end before the chunk are encoded and dropped, so that the encoder has settled by its first.
        """
        self._context = self._open()
        span = packet_span(position, chunk_samples)
        carried = position * chunk_samples - span.first * OPUS_PACKET
        warm_up = min(len(before) // OPUS_PACKET, 4) * OPUS_PACKET
        needed = carried + warm_up
        held = np.concatenate([np.zeros(needed, np.float32), before])[len(before) :]
        self.next_packet = span.first - warm_up // OPUS_PACKET
        self._waiting = np.zeros(0, np.float32)
        self.encode(held)

    def encode(self, samples: Floats) -> list[bytes]:
        """48 kHz samples (S,) -> the packets they complete."""
        waiting = np.concatenate([self._waiting, samples])
        count = len(waiting) // OPUS_PACKET
        packets: list[bytes] = []
        for index in range(count):
            packets += self._packet(waiting[index * OPUS_PACKET : (index + 1) * OPUS_PACKET])
        self._waiting = waiting[count * OPUS_PACKET :]
        assert len(packets) == count, "one packet every 20 ms"
        self.next_packet += count
        return packets

    def _packet(self, samples: Floats) -> list[bytes]:
        frame = av.AudioFrame.from_ndarray(np.clip(samples, -1, 1)[None], format="flt", layout="mono")
        frame.sample_rate = OPUS_RATE
        return [bytes(packet) for packet in self._context.encode(frame)]

    def _open(self) -> AudioCodecContext:
        context = av.CodecContext.create("libopus", "w")
        context.sample_rate, context.layout, context.format = OPUS_RATE, "mono", "flt"
        context.bit_rate = self._bits_per_second
        context.options = {"application": "audio", "frame_duration": "20", "vbr": "on"}
        context.open()
        return context


def opus_head(source_rate: int, pre_skip: int) -> bytes:
    """OpusHead of RFC 7845: one channel, `pre_skip` samples at 48 kHz to be dropped."""
    return struct.pack("<8sBBHIhB", b"OpusHead", 1, 1, pre_skip, source_rate, 0, 0)
