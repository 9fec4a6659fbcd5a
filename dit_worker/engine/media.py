"""Committed latents to published media: decode, then encode, two stages outside the step loop.

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
class Restart:
    """The timeline goes on at `position`, after these samples (S,) at the source's rate; none are silence."""

    position: int
    before: Floats


@dataclass(frozen=True, slots=True)
class Decoded:
    """One chunk between the stages: pictures (F, H, W, 3), samples (S,) at the source's rate and those before them."""

    position: int
    pixels: Pixels
    before: Floats
    samples: Floats


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

    def frames(self, video: Floats, *, is_light: bool = False) -> Pixels:
        """(C, T, H', W') -> (F, H, W, 3), 8-bit RGB; is_light: by the bundle's light decoder, if it has one."""
        light = self._models.light_video if is_light else None
        with self._models.decoding():
            decoded = (light or self._models.video_vae).decode(to_tensor(video))[0].float()
            pixels = ((decoded.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
        return np.ascontiguousarray(pixels.permute(1, 2, 3, 0).cpu().numpy())

    def silence(self) -> SoundContext:
        """What came before a chunk that follows nothing that was heard."""
        return silent_context(self._models.sound_encoder.silence, self.samples_per_latent)

    def samples(self, audio: Floats, context: SoundContext) -> tuple[Floats, SoundContext]:
        """(A, D) -> (A * samples per latent,), LATE_LATENTS late, joined to its context; and the next context."""
        return continue_sound(self._sound, audio, context, self.samples_per_latent)


class MediaWriter:
    """One session's media, chunk after chunk along its timeline.

    Two halves that share nothing: `stand` and `decode` carry the sound's context on, `restart` and `encode` what the
    encoders know. Each half is for one thread at a time; `start` and `write` are both in one.
    """

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
        self._next_decoded: int | None = None
        self._next_encoded: int | None = None

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
        self.restart(self.stand(position, parent_audio))

    def write(self, position: int, video: Floats, audio: Floats) -> EncodedChunk:
        """Decode and encode the next chunk of the timeline."""
        if self._next_decoded is None:
            self.start(position, None)
        return self.encode(self.decode(position, video, audio))

    def stand(self, position: int, parent_audio: Floats | None) -> Restart:
        """Decode from the chunk at `position` on, after a parent whose audio latents (A, D) are given, or silence."""
        self._context, before = self._decoder.silence(), np.zeros(0, np.float32)
        if parent_audio is not None:
            before, self._context = self._decoder.samples(parent_audio, self._context)
        self._next_decoded = position
        return Restart(position, before)

    def decode(self, position: int, video: Floats, audio: Floats, *, is_light: bool = False) -> Decoded:
        """The next chunk's latents, video (C, T, H, W) and audio (A, D), as pictures and samples.

        is_light: pictures by the bundle's light decoder.
        """
        assert position == self._next_decoded, "chunks come in order of the timeline; stand anew after a cut"
        before = self._context.samples
        samples, self._context = self._decoder.samples(audio, self._context)
        self._next_decoded = position + 1
        return Decoded(position, self._decoder.frames(video, is_light=is_light), before, samples)

    def restart(self, restart: Restart) -> None:
        """Encode from there on."""
        before = self._upsampler(np.zeros(0, np.float32), restart.before)
        self._opus.start(restart.position, self._chunk_samples, before)
        self._next_encoded = restart.position

    def encode(self, decoded: Decoded) -> EncodedChunk:
        """The next chunk as access units."""
        assert decoded.position == self._next_encoded, "chunks come in order of the timeline; restart after a cut"
        units = self._h264.encode(decoded.pixels)
        packets = self._opus.encode(self._upsampler(decoded.before, decoded.samples))
        self._next_encoded = decoded.position + 1
        first = packet_span(decoded.position, self._chunk_samples).first
        ticks = self._h264.unit_ticks
        return EncodedChunk(
            EncodedTrack(decoded.position * self._frames * ticks, ticks, tuple(units)),
            EncodedTrack(first * OPUS_PACKET, OPUS_PACKET, tuple(packets)),
        )
