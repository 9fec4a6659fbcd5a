"""Committed latents to published media: decode, then encode, outside the step loop.

Video decoding starts anew at each chunk. Audio decoding joins to what came before, so a session's sound has a context
that runs on from chunk to chunk. It knows no session, no generation and no transport.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from dit_worker.engine.arrays import Floats, Pixels, to_tensor
from dit_worker.engine.encode import (
    OPUS_LOOKAHEAD,
    OPUS_PACKET,
    VIDEO_TIMESCALE,
    H264Encoder,
    OpusEncoder,
    Upsampler,
    opus_head,
    packet_span,
)
from dit_worker.engine.loader import Models
from dit_worker.engine.sound import SoundContext, continue_sound, silent_context
from dit_worker.model.audio_vae import LATE_LATENTS


@dataclass(frozen=True, slots=True)
class EncodedTrack:
    """Access units of one chunk; pts and unit_ticks in ticks of the track's timescale."""

    pts: int
    unit_ticks: int
    units: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class EncodedChunk:
    """One chunk ready to be sent."""

    video: EncodedTrack
    audio: EncodedTrack


@dataclass(frozen=True, slots=True)
class TrackStart:
    """What a decoder needs before the first unit of a track."""

    timescale: int
    init_data: bytes


class Decoder:
    """Latents to frames and samples."""

    def __init__(self, models: Models) -> None:
        self._models = models
        self._sound = models.sound
        self.samples_per_latent = models.manifest.geometry.samples_per_audio_latent

    def frames(self, video: Floats) -> Pixels:
        """(C, T, H', W') -> (F, H, W, 3), 8-bit RGB."""
        with self._models.decoding():
            decoded = self._models.video_vae.decode(to_tensor(video))[0].float()
            pixels = ((decoded.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
        return np.ascontiguousarray(pixels.permute(1, 2, 3, 0).cpu().numpy())

    def silence(self) -> SoundContext:
        """What came before a chunk that follows nothing that was heard."""
        return silent_context(self._models.sound_encoder.silence, self.samples_per_latent)

    def samples(self, audio: Floats, context: SoundContext) -> tuple[Floats, SoundContext]:
        """(A, D) -> (A * samples per latent,), LATE_LATENTS late, joined to its context; and the next context."""
        return continue_sound(self._sound, audio, context, self.samples_per_latent)


class MediaWriter:
    """One session's media, chunk after chunk along its timeline. Not for two threads at once."""

    def __init__(self, models: Models) -> None:
        geometry = models.manifest.geometry
        self._decoder = Decoder(models)
        self._h264 = H264Encoder(geometry.width, geometry.height, geometry.frames_per_second)
        self._opus = OpusEncoder()
        self._upsampler = Upsampler(geometry.sample_rate)
        self._source_rate = geometry.sample_rate
        self._frames = geometry.frames_per_chunk
        source_samples = geometry.samples_per_audio_latent * geometry.audio_latents_per_chunk
        self._chunk_samples = round(source_samples * 48_000 / geometry.sample_rate)
        self._context = self._decoder.silence()
        self._next_position: int | None = None

    def tracks(self) -> tuple[TrackStart, TrackStart]:
        """Starts of the video and of the audio track. The audio's pre-skip makes up for all delays of the path."""
        late_samples = LATE_LATENTS * self._decoder.samples_per_latent
        pre_skip = OPUS_LOOKAHEAD + round(self._upsampler.delay + late_samples * 48_000 / self._source_rate)
        return (
            TrackStart(VIDEO_TIMESCALE, self._h264.parameter_sets),
            TrackStart(48_000, opus_head(self._source_rate, pre_skip)),
        )

    def start(self, position: int, parent_audio: Floats | None) -> None:
        """Stand before the chunk at `position`, after a parent whose audio latents (A, D) are given, or silence."""
        self._context, before = self._decoder.silence(), np.zeros(0, np.float32)
        if parent_audio is not None:
            before, self._context = self._decoder.samples(parent_audio, self._context)
        self._opus.start(position, self._chunk_samples, self._upsampler(np.zeros(0, np.float32), before))
        self._next_position = position

    def write(self, position: int, video: Floats, audio: Floats) -> EncodedChunk:
        """Decode and encode the next chunk of the timeline."""
        if self._next_position is None:
            self.start(position, None)
        assert position == self._next_position, "chunks come in order of the timeline; start anew after a cut"
        before = self._context.samples
        samples, self._context = self._decoder.samples(audio, self._context)
        units = self._h264.encode(self._decoder.frames(video))
        packets = self._opus.encode(self._upsampler(before, samples))
        self._next_position = position + 1
        first = packet_span(position, self._chunk_samples).first
        ticks = self._h264.unit_ticks
        return EncodedChunk(
            EncodedTrack(position * self._frames * ticks, ticks, tuple(units)),
            EncodedTrack(first * OPUS_PACKET, OPUS_PACKET, tuple(packets)),
        )
