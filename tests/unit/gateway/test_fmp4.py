"""The fragmented MP4 we write is read back by FFmpeg exactly as it went in."""

from __future__ import annotations

import io

import av
import pytest

from gateway import fmp4
from tests.fakes import media

VIDEO_TIMESCALE = 24_000


def video_file(chunks: list[tuple[int, media.EncodedChunk]], sets: fmp4.ParameterSets) -> bytes:
    """An init segment and one fragment per (position, chunk)."""
    data = fmp4.video_init(1, VIDEO_TIMESCALE, sets, media.WIDTH, media.HEIGHT)
    for position, chunk in chunks:
        time = position * media.FRAMES_PER_CHUNK * 1000
        data += fmp4.write_fragment(fmp4.Fragment(1, position + 1, time, 1000, chunk.video, is_video=True))
    return data


def audio_file(chunks: list[tuple[int, media.EncodedChunk]], head: bytes) -> bytes:
    """An init segment and one fragment per (position, chunk)."""
    data = fmp4.audio_init(2, media.SAMPLE_RATE, fmp4.parse_opus_head(head))
    for position, chunk in chunks:
        time = chunk.first_audio_packet * media.PACKET_SAMPLES
        data += fmp4.write_fragment(fmp4.Fragment(2, position + 1, time, 960, chunk.audio, is_video=False))
    return data


@pytest.fixture(scope="module")
def source() -> media.TestMedia:
    """Encoders of test pictures and tones."""
    return media.TestMedia()


@pytest.fixture(scope="module")
def chunks(source: media.TestMedia) -> list[tuple[int, media.EncodedChunk]]:
    """Four chunks in a row: two whole turns of a packet that carries over the border."""
    return [(position, source.chunk(position)) for position in range(4)]


def test_video_is_read_back(source: media.TestMedia, chunks: list[tuple[int, media.EncodedChunk]]) -> None:
    """Every picture comes back at its time, the first of each chunk as a keyframe, and all of them decode."""
    sets = fmp4.parse_parameter_sets(source.parameter_sets)
    with av.open(io.BytesIO(video_file(chunks, sets)), format="mp4") as container:
        stream = container.streams.video[0]
        assert (stream.codec.name, stream.width, stream.height) == ("h264", media.WIDTH, media.HEIGHT)
        packets = [packet for packet in container.demux(stream) if packet.size]
        assert [packet.pts for packet in packets] == [1000 * number for number in range(4 * 33)]
        assert [number for number, packet in enumerate(packets) if packet.is_keyframe] == [0, 33, 66, 99]
    with av.open(io.BytesIO(video_file(chunks, sets)), format="mp4") as container:
        frames = list(container.decode(video=0))
    assert len(frames) == 4 * 33
    left_edges = [frame.to_ndarray(format="rgb24")[64, 4].mean() for frame in frames]
    assert left_edges[0] > 230 and left_edges[33] > 230, "the bar starts on the left in every chunk"


def test_audio_is_read_back(source: media.TestMedia, chunks: list[tuple[int, media.EncodedChunk]]) -> None:
    """Every Opus packet comes back with its bytes and its time, and the tone is heard."""
    data = audio_file(chunks, source.opus_head)
    with av.open(io.BytesIO(data), format="mp4") as container:
        stream = container.streams.audio[0]
        assert (stream.codec.name, stream.rate, stream.channels) == ("opus", 48_000, 1)
        packets = [packet for packet in container.demux(stream) if packet.size]
    sent = [unit for _, chunk in chunks for unit in chunk.audio]
    assert [bytes(packet) for packet in packets] == sent
    assert packets[1].pts - packets[0].pts == 960 and packets[-1].pts == 960 * (len(sent) - 1)
    with av.open(io.BytesIO(data), format="mp4") as container:
        loudest = max(float(abs(frame.to_ndarray()).max()) for frame in container.decode(audio=0))
    assert loudest > 0.1


def test_packets_tile_the_timeline() -> None:
    """Packets carry over the border: 68 or 69 in a chunk, none lost and none twice, 275 in four chunks."""
    counts = [media.first_packet(p + 1) - media.first_packet(p) for p in range(4)]
    assert counts == [68, 69, 69, 69] and sum(counts) == 275


def test_header_says_nothing_of_a_duration(source: media.TestMedia) -> None:
    """Without `mehd` and with duration 0 a browser takes the stream as live."""
    init = fmp4.audio_init(2, 48_000, fmp4.parse_opus_head(source.opus_head))
    assert b"mehd" not in init and init.count(b"moov") == 1


def test_codec_string_comes_from_the_parameter_set(source: media.TestMedia) -> None:
    """Profile, constraint flags and level are those of the SPS."""
    sets = fmp4.parse_parameter_sets(source.parameter_sets)
    assert sets.codec.startswith("avc1.42") and len(sets.codec) == len("avc1.42E01F")


def test_a_fragment_in_the_middle_is_placed_by_its_time(source: media.TestMedia) -> None:
    """A reader that joins late sees the media clock, not zero."""
    sets = fmp4.parse_parameter_sets(source.parameter_sets)
    with av.open(io.BytesIO(video_file([(7, source.chunk(7))], sets)), format="mp4") as container:
        assert next(iter(container.demux(video=0))).dts == 7 * 33 * 1000


@pytest.mark.parametrize("data", [b"", b"\x00\x00\x01\x67", b"\x00\x00\x00\x01\x09\x10"])
def test_broken_parameter_sets_are_refused(data: bytes) -> None:
    """Init data without both parameter sets is our ValueError, not an index error."""
    with pytest.raises(ValueError, match="SPS"):
        fmp4.parse_parameter_sets(data)


def test_broken_opus_head_is_refused() -> None:
    """An OpusHead that is cut short is refused."""
    with pytest.raises(ValueError, match="OpusHead"):
        fmp4.parse_opus_head(b"OpusHead\x01")


def test_sizes_must_add_up() -> None:
    """Unit sizes that do not cover the data are refused."""
    with pytest.raises(ValueError, match="add up"):
        fmp4.split_units(b"abc", [1, 1])


def test_negative_decode_time_is_refused() -> None:
    """Nothing lies before the start of the media clock."""
    with pytest.raises(ValueError, match="media clock"):
        fmp4.write_fragment(fmp4.Fragment(2, 1, -1, 960, [b"x"], is_video=False))


def test_the_rate_before_encoding_does_not_matter(source: media.TestMedia) -> None:
    """An OpusHead that names another input rate gives the same init segment, with 48 kHz in both places."""
    head = bytearray(source.opus_head)
    head[12:16] = (15_360).to_bytes(4, "little")
    plain = fmp4.audio_init(2, 48_000, fmp4.parse_opus_head(source.opus_head))
    assert fmp4.audio_init(2, 48_000, fmp4.parse_opus_head(bytes(head))) == plain
    assert plain.count((48_000).to_bytes(4, "big")) == 4, "two headers, the sample entry and dOps"
