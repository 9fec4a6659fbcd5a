"""Access units: their number, their timestamps and what decodes from them."""

from __future__ import annotations

from itertools import pairwise

import av
import numpy as np
import pytest

from dit_worker.engine.encode import (
    OPUS_LOOKAHEAD,
    H264Encoder,
    OpusEncoder,
    Upsampler,
    opus_head,
    packet_span,
)

CHUNK_SAMPLES = 66_000
SOURCE_RATE = 15_360
SOURCE_CHUNK = 21_120
EMPTY = np.zeros(0, np.float32)


def nal_types(unit: bytes) -> list[int]:
    """Types of the NAL units of one access unit."""
    return [part[0] & 0x1F for part in unit.replace(b"\0\0\0\1", b"\0\0\1").split(b"\0\0\1") if part]


def tone(samples: int, rate: int, hertz: float = 440.0) -> np.ndarray:
    """A sine at half of full scale."""
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(samples) / rate)).astype(np.float32)


def decode_opus(packets: list[bytes]) -> np.ndarray:
    """Packets to 48 kHz samples, the encoder's delay left in."""
    decoder = av.CodecContext.create("libopus", "r")
    decoder.sample_rate, decoder.layout = 48_000, "mono"
    decoder.extradata = opus_head(SOURCE_RATE, 0)
    frames = [frame for data in packets for frame in decoder.decode(av.Packet(data))]
    return np.concatenate([frame.to_ndarray().reshape(-1) for frame in frames]).astype(np.float32)


def test_packets_of_a_chunk_are_a_pure_function_of_its_position() -> None:
    """68.75 packets a chunk: every packet is sent once, in order, with the chunk its last sample lies in."""
    spans = [packet_span(position, CHUNK_SAMPLES) for position in range(400)]
    assert [span.end - span.first for span in spans[:4]] == [68, 69, 69, 69]
    assert spans[0].first == 0
    for position, (span, after) in enumerate(pairwise(spans)):
        assert span.end == after.first
        for packet in (span.first, span.end - 1):
            assert ((packet + 1) * 960 - 1) // CHUNK_SAMPLES == position


@pytest.mark.parametrize("position", [0, 1, 2, 3, 7])
def test_a_fresh_encoder_makes_the_same_packets_as_one_that_ran_on(position: int) -> None:
    """Count and numbers of a chunk's packets do not depend on where the encoder was started."""
    samples = tone((position + 1) * CHUNK_SAMPLES, 48_000)
    encoder = OpusEncoder()
    before = samples[max(0, position * CHUNK_SAMPLES - 16_000) : position * CHUNK_SAMPLES]
    encoder.start(position, CHUNK_SAMPLES, before)
    assert encoder.next_packet == packet_span(position, CHUNK_SAMPLES).first
    packets = encoder.encode(samples[position * CHUNK_SAMPLES :])
    assert encoder.next_packet == packet_span(position, CHUNK_SAMPLES).end
    assert len(packets) == 69 - (position % 4 == 0)


def test_sound_survives_a_restart_at_a_border() -> None:
    """A tone encoded across a restart decodes to the tone: what came before settles the encoder."""
    samples = tone(2 * CHUNK_SAMPLES, 48_000)
    encoder = OpusEncoder()
    encoder.start(0, CHUNK_SAMPLES, EMPTY)
    packets = encoder.encode(samples[:CHUNK_SAMPLES])
    encoder.start(1, CHUNK_SAMPLES, samples[CHUNK_SAMPLES - 16_000 : CHUNK_SAMPLES])
    packets += encoder.encode(samples[CHUNK_SAMPLES:])
    heard = decode_opus(packets)[OPUS_LOOKAHEAD:]
    border = slice(CHUNK_SAMPLES - 2_000, CHUNK_SAMPLES + 2_000)
    inside = slice(30_000, 34_000)
    errors = [float(np.abs(heard[part] - samples[part]).max()) for part in (inside, border)]
    assert errors[1] <= 2 * errors[0] + 0.02


def test_chunks_are_upsampled_as_one_stream() -> None:
    """Piecewise equals whole, bit for bit, and the tone comes out late by exactly the stated delay."""
    upsampler = Upsampler(SOURCE_RATE)
    source = tone(3 * SOURCE_CHUNK, SOURCE_RATE)
    whole = upsampler(EMPTY, source)
    parts = []
    for start in range(0, len(source), SOURCE_CHUNK):
        parts.append(upsampler(source[max(0, start - 5_120) : start], source[start : start + SOURCE_CHUNK]))
    assert [len(part) for part in parts] == [CHUNK_SAMPLES] * 3
    assert np.concatenate(parts).tobytes() == whole.tobytes()
    steady = slice(1_000, 60_000)
    late = 0.5 * np.sin(2 * np.pi * 440 * (np.arange(len(whole)) - upsampler.delay) / 48_000)
    assert float(np.abs(whole[steady] - late[steady]).max()) < 1e-3


def test_a_chunk_is_one_closed_group_of_pictures() -> None:
    """One access unit a frame, an IDR picture first, only references back after it, no remarks inside."""
    frames = np.random.default_rng(0).integers(0, 255, (33, 128, 128, 3), dtype=np.uint8)
    encoder = H264Encoder(128, 128, 24)
    units = encoder.encode(frames)
    assert [nal_types(unit) for unit in units] == [[5]] + [[1]] * 32
    assert nal_types(encoder.parameter_sets) == [7, 8]
    assert encoder.parameter_sets[5:8].hex() == "42c01e"
    assert encoder.unit_ticks == 3_750


def test_chunks_decode_one_after_the_other_and_each_on_its_own() -> None:
    """Any chunk decodes after the parameter sets alone, and two in a row give all their frames, in order."""
    ramp = np.repeat(np.arange(33, dtype=np.uint8) * 7, 64 * 64 * 3).reshape(33, 64, 64, 3)
    encoder = H264Encoder(64, 64, 24)
    units = encoder.encode(ramp)
    assert units == encoder.encode(ramp), "the bytes depend on the frames alone"
    decoder = av.CodecContext.create("h264", "r")
    decoder.extradata = encoder.parameter_sets
    decoded = [frame for unit in [*units, *units] for frame in decoder.decode(av.Packet(unit))]
    decoded += decoder.decode(None)
    levels = [float(frame.to_ndarray(format="rgb24").mean()) for frame in decoded]
    assert len(levels) == 66
    np.testing.assert_allclose(levels[:33], np.arange(33) * 7, atol=4)
    np.testing.assert_allclose(levels[33:], levels[:33], atol=1e-6)


def test_the_opus_head_says_what_must_be_skipped() -> None:
    """RFC 7845: magic, version 1, one channel, pre-skip, source rate, no gain, mapping family 0."""
    assert opus_head(15_360, 362) == b"OpusHead" + bytes([1, 1, 0x6A, 0x01, 0, 0x3C, 0, 0, 0, 0, 0])
