"""Latents to media: counts, timestamps, and borders that are no different from any other place."""

from __future__ import annotations

import av
import numpy as np
import pytest
import torch

from dit_worker.engine.arrays import Floats, to_array, to_tensor
from dit_worker.engine.encode import packet_span
from dit_worker.engine.loader import Models
from dit_worker.engine.media import LATE_LATENTS, Decoder, MediaWriter

CHUNKS = 5
SAMPLES = 21_120
LATE = 640 * LATE_LATENTS


def buzz(seconds: float) -> Floats:
    """A voice-like sound: a pitch that wanders, overtones, breath, in syllables that come and go."""
    t = np.arange(round(seconds * 15_360)) / 15_360
    phase = 2 * np.pi * np.cumsum(130 + 30 * np.sin(2 * np.pi * 0.9 * t) + 8 * np.sin(2 * np.pi * 5.3 * t)) / 15_360
    voice = sum(np.sin(n * phase) / n for n in range(1, 20))
    breath = np.random.default_rng(3).standard_normal(len(t)) * 0.3
    syllables = np.clip(np.sin(2 * np.pi * 3.1 * t), 0, None) + 0.02
    return (0.1 * (voice + breath) * syllables).astype(np.float32)


@pytest.fixture(scope="module")
def spoken(models: Models) -> Models:
    """The models with a codec fitted to the sound of these tests, so that its latents say what they stand for."""
    codec = models.audio_codec
    frames = codec.log_mel(torch.from_numpy(buzz(20.0))[None])[0].reshape(-1, codec.mean.shape[0])
    codec.mean.copy_(frames.mean(0))
    codec.basis.copy_(torch.linalg.svd(frames - codec.mean, full_matrices=False).Vh[: codec.scale.shape[0]].T)
    codec.scale.fill_(3.0)
    return models


@pytest.fixture(scope="module")
def audio(spoken: Models) -> list[Floats]:
    """Audio latents of five chunks in a row."""
    latents = to_array(spoken.audio_codec.encode(torch.from_numpy(buzz(CHUNKS * 1.375))[None]))
    return [latents[33 * n : 33 * (n + 1)] for n in range(CHUNKS)]


def video_latents(models: Models) -> list[Floats]:
    """Video latents of five chunks that drift slowly, as a picture does."""
    still = np.random.default_rng(1).standard_normal((16, 1, 8, 8), dtype=np.float32)
    drift = np.random.default_rng(2).standard_normal((16, 1, 8, 8), dtype=np.float32) * 0.02
    whole = still + drift * np.arange(9 * CHUNKS, dtype=np.float32)[None, :, None, None]
    return [whole[:, 9 * n : 9 * (n + 1)] for n in range(CHUNKS)]


def decoded_in_chunks(models: Models, audio: list[Floats]) -> Floats:
    """Sound as a session decodes it, each chunk joined to the one before; it is late by LATE."""
    decoder = Decoder(models)
    context, parts = decoder.silence(), []
    for latents in audio:
        samples, context = decoder.samples(latents, context)
        parts.append(samples)
    return np.concatenate(parts)


def decoded_at_once(models: Models, audio: list[Floats]) -> Floats:
    """All of it in one decode, as late as the other."""
    whole = models.audio_codec.decode(to_tensor(np.concatenate(audio)))
    return np.concatenate([np.zeros(LATE, np.float32), to_array(whole)[:-LATE]])


def mel_error(models: Models, one: Floats, other: Floats) -> Floats:
    """Distance of two sounds by log-mel frame, 96 a second."""
    mels = [models.audio_codec.log_mel(torch.from_numpy(sound)[None])[0] for sound in (one, other)]
    return (mels[0] - mels[1]).abs().mean(1).numpy()


def test_sound_at_borders_is_as_near_the_whole_decode_as_inside(spoken: Models, audio: list[Floats]) -> None:
    """Log-mel distance to a decode of everything at once is no greater at chunk borders than between them."""
    pieces = decoded_in_chunks(spoken, audio)
    whole = decoded_at_once(spoken, audio)
    error = mel_error(spoken, pieces, whole)
    per_chunk = len(error) // CHUNKS
    borders = np.concatenate([error[n * per_chunk - 4 : n * per_chunk + 4] for n in range(1, CHUNKS)])
    inside = np.concatenate([error[n * per_chunk + 12 : (n + 1) * per_chunk - 12] for n in range(CHUNKS)])
    assert borders.mean() <= 1.25 * inside.mean()
    assert borders.max() <= inside.max()


def test_no_click_at_a_border(spoken: Models, audio: list[Floats]) -> None:
    """The largest jump between neighbouring samples at borders is no greater than inside the chunks."""
    jumps = np.abs(np.diff(decoded_in_chunks(spoken, audio), n=2))
    borders = np.concatenate([jumps[n * SAMPLES - 4 : n * SAMPLES + 2] for n in range(1, CHUNKS)])
    assert borders.max() <= np.quantile(jumps, 0.999) * 1.5


def test_pictures_are_those_of_a_whole_decode(spoken: Models) -> None:
    """Every frame, at borders as inside, is the one that a decode of all latents at once gives at its place."""
    video = video_latents(spoken)
    decoder = Decoder(spoken)
    whole = decoder.frames(np.concatenate(video, axis=1)).astype(np.int16)
    for position, latents in enumerate(video):
        first = 4 * 9 * position  # a chunk's first latent stands for one frame, the last of its four
        difference = np.abs(decoder.frames(latents).astype(np.int16) - whole[first : first + 33])
        assert difference.max() <= 1


def test_counts_and_timestamps_are_pure_functions_of_the_position(spoken: Models, audio: list[Floats]) -> None:
    """33 pictures of 3,750 ticks, and the packets whose last sample lies in the chunk, whoever started where."""
    whole, late = MediaWriter(spoken), MediaWriter(spoken)
    video = video_latents(spoken)
    chunks = [whole.write(position, video[position], audio[position]) for position in range(CHUNKS)]
    late.start(3, audio[2])
    for position, chunk in enumerate(chunks):
        span = packet_span(position, 66_000)
        assert (chunk.video.pts, len(chunk.video.units)) == (position * 33 * 3_750, 33)
        assert (chunk.audio.pts, len(chunk.audio.units)) == (span.first * 960, span.end - span.first)
    again = late.write(3, video[3], audio[3])
    assert again.video == chunks[3].video, "pictures depend on their latents alone"
    assert again.audio.pts == chunks[3].audio.pts
    assert len(again.audio.units) == len(chunks[3].audio.units)


def test_the_sound_that_is_sent_is_on_time(spoken: Models, audio: list[Floats]) -> None:
    """After the pre-skip that the track announces, what decodes from the packets is the sound that was decoded."""
    writer = MediaWriter(spoken)
    video = video_latents(spoken)
    packets = [unit for n in range(3) for unit in writer.write(n, video[n], audio[n]).audio.units]
    decoder = av.CodecContext.create("libopus", "r")
    decoder.sample_rate, decoder.layout, decoder.extradata = 48_000, "mono", writer.tracks()[1].init_data
    frames = [frame.to_ndarray().reshape(-1) for data in packets for frame in decoder.decode(av.Packet(data))]
    heard = np.concatenate(frames).astype(np.float32)[::25]  # the decoder drops the pre-skip itself
    meant = decoded_in_chunks(spoken, audio[:3])[LATE:][::8]
    assert best_lag(heard, meant) == 0


def best_lag(one: Floats, other: Floats) -> int:
    """Shift, in samples, at which two signals agree best."""
    length = min(len(one), len(other))
    product = np.fft.irfft(np.fft.rfft(one[:length], 2 * length) * np.conj(np.fft.rfft(other[:length], 2 * length)))
    lag = int(np.argmax(product))
    return lag if lag < length else lag - 2 * length


def test_chunks_out_of_order_are_our_bug(spoken: Models, audio: list[Floats]) -> None:
    """A writer that was not told of a cut stops instead of sending a broken stream."""
    writer = MediaWriter(spoken)
    video = video_latents(spoken)
    writer.write(0, video[0], audio[0])
    with pytest.raises(AssertionError, match="order"):
        writer.write(2, video[2], audio[2])
