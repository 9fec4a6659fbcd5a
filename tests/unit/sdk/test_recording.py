"""MP4 files: what went in comes out, untouched and in time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from cuelight import (
    Attached,
    Event,
    Media,
    Progress,
    Recording,
    Retired,
    Track,
    TrackInfo,
    Unavailable,
    Word,
    write_mp4,
)
from tests.fakes.media import FRAMES_PER_CHUNK, PACKET_SAMPLES, SAMPLE_RATE, TestMedia

CHUNK_S = 1.375
MEDIA = TestMedia()
TRACKS = (
    TrackInfo(Track.VIDEO, "avc1.42C01E", 24_000, MEDIA.parameter_sets),
    TrackInfo(Track.AUDIO, "opus", SAMPLE_RATE, MEDIA.opus_head),
)


def _media(track: Track, chunk: int, position: int, generation: int, pts: int, units: list[bytes]) -> Media:
    unit_duration = 1000 if track is Track.VIDEO else PACKET_SAMPLES
    return Media(
        offset=2 * chunk + track - 1,
        track=track,
        chunk_index=chunk,
        position=position,
        pts=pts,
        duration=len(units) * unit_duration,
        unit_duration=unit_duration,
        timescale=TRACKS[track - 1].timescale,
        unit_sizes=tuple(len(unit) for unit in units),
        is_keyframe=True,
        is_discontinuity=False,
        generation=generation,
        epoch=1,
        response_id="r",
        data=b"".join(units),
        crc32c=0,
    )


def _chunk(position: int, *, chunk: int | None = None, generation: int = 0, word: str = "word") -> Iterator[Event]:
    encoded = MEDIA.chunk(position)
    index = position if chunk is None else chunk
    video_pts, audio_pts = position * FRAMES_PER_CHUNK * 1000, encoded.first_audio_packet * PACKET_SAMPLES
    yield _media(Track.VIDEO, index, position, generation, video_pts, encoded.video)
    yield _media(Track.AUDIO, index, position, generation, audio_pts, encoded.audio)
    start = position * CHUNK_S
    words = tuple(Word(2 * index + n, f"{word}{n}", start + n * 0.6, start + n * 0.6 + 0.5) for n in range(2))
    yield Progress(index, position, generation, 2 * index + 2, 6, words, 0.4, CHUNK_S)


def _record(path: Path, events: list[Event]) -> None:
    with Recording() as recording:
        recording.add(Attached(TRACKS, 0, True, True))
        for event in events:
            recording.add(event)
        recording.save(path)


def _packets(path: Path, kind: str) -> list[av.Packet]:
    with av.open(str(path)) as source:
        stream = next(stream for stream in source.streams if stream.type == kind)
        return [packet for packet in source.demux(stream) if packet.size]


def test_every_access_unit_is_kept_byte_for_byte(tmp_path: Path) -> None:
    """Opus packets are identical; H.264 keeps its slices and only changes how they are framed."""
    path = tmp_path / "film.mp4"
    _record(path, [event for position in range(3) for event in _chunk(position)])
    audio = [unit for position in range(3) for unit in MEDIA.chunk(position).audio]
    assert [bytes(packet) for packet in _packets(path, "audio")] == audio
    video = _packets(path, "video")
    assert len(video) == 3 * FRAMES_PER_CHUNK
    assert [index for index, packet in enumerate(video) if packet.is_keyframe] == [0, 33, 66]
    slices = [bytes(unit)[-20:] for position in range(3) for unit in MEDIA.chunk(position).video]
    assert [bytes(packet)[-20:] for packet in video] == slices


def test_it_plays(tmp_path: Path) -> None:
    """Every picture decodes, at 24 a second from 0, and sound is there to the end."""
    path = tmp_path / "film.mp4"
    _record(path, [event for position in range(2) for event in _chunk(position)])
    with av.open(str(path)) as source:
        times = [frame.time for frame in source.decode(video=0)]
    assert times == [pytest.approx(index / 24, abs=1e-3) for index in range(66)]
    with av.open(str(path)) as source:
        samples = np.concatenate([frame.to_ndarray()[0] for frame in source.decode(audio=0)])
    assert len(samples) == pytest.approx(2 * CHUNK_S * SAMPLE_RATE, abs=2 * PACKET_SAMPLES)
    assert np.sqrt(np.mean(samples**2)) > 0.1


def test_sound_stands_where_the_media_clock_has_it(tmp_path: Path) -> None:
    """A click encoded at 0.5 s is heard at 0.5 s: the encoder's delay (pre-skip) is made up for."""
    path = tmp_path / "click.mp4"
    signal = np.zeros(SAMPLE_RATE, np.float32)
    signal[SAMPLE_RATE // 2] = 1.0
    encoder = av.CodecContext.create("libopus", "w")
    encoder.sample_rate, encoder.layout, encoder.format = SAMPLE_RATE, "mono", "flt"
    encoder.time_base = Fraction(1, SAMPLE_RATE)
    units: list[bytes] = []
    for number in range(len(signal) // PACKET_SAMPLES):
        piece = signal[number * PACKET_SAMPLES : (number + 1) * PACKET_SAMPLES]
        frame = av.AudioFrame.from_ndarray(piece[None], format="flt", layout="mono")
        frame.sample_rate, frame.pts = SAMPLE_RATE, number * PACKET_SAMPLES
        units += [bytes(packet) for packet in encoder.encode(frame)]
    _record(path, [_media(Track.VIDEO, 0, 0, 0, 0, MEDIA.chunk(0).video), _media(Track.AUDIO, 0, 0, 0, 0, units)])
    with av.open(str(path)) as source:
        frames = [(frame.time, np.abs(frame.to_ndarray()[0])) for frame in source.decode(audio=0)]
    start, loudest = max(frames, key=lambda each: each[1].max())
    assert start + loudest.argmax() / SAMPLE_RATE == pytest.approx(0.5, abs=0.001)


def test_captions_light_up_word_by_word(tmp_path: Path) -> None:
    """The caption track has a sample for every word, which begins with the word and holds its line."""
    path = tmp_path / "film.mp4"
    _record(path, [event for position in range(2) for event in _chunk(position)])
    samples = [packet for packet in _packets(path, "subtitle") if packet.size > 2]
    assert [packet.pts for packet in samples] == [0, 600, 1375, 1975]
    assert all(b"word0 word1" in bytes(packet) for packet in samples)
    with av.open(str(path)) as source:
        assert source.streams.subtitles[0].codec_context.name == "mov_text"


def test_what_an_interrupt_retires_is_left_out(tmp_path: Path) -> None:
    """Pictures, sound and words behind the cut are replaced by those of the next generation."""
    path = tmp_path / "film.mp4"
    before = [event for position in range(3) for event in _chunk(position, word="old")]
    after = list(_chunk(1, chunk=3, generation=1, word="new"))
    _record(path, [*before, Retired(1, 1, (1, 2)), *after])
    assert len(_packets(path, "video")) == 2 * FRAMES_PER_CHUNK
    text = b"".join(bytes(packet) for packet in _packets(path, "subtitle"))
    assert b"old0" in text
    assert b"new0" in text
    assert len([packet for packet in _packets(path, "subtitle") if packet.size > 2]) == 4


def test_nothing_to_write_is_said(tmp_path: Path) -> None:
    """A session without media gives a sentence, and no file."""
    with pytest.raises(ValueError, match="no media"):
        _record(tmp_path / "film.mp4", [])
    assert list(tmp_path.iterdir()) == []


async def test_a_broken_session_leaves_what_had_come(tmp_path: Path) -> None:
    """The error says where the part is that had come, and the part plays."""

    async def breaking() -> AsyncIterator[Event]:
        yield Attached(TRACKS, 0, True, True)
        for event in _chunk(0):
            yield event
        raise Unavailable("the line went dead")

    path = tmp_path / "film.mp4"
    with pytest.raises(Unavailable) as broken:
        await write_mp4(breaking(), path)
    assert "1.4 s" in broken.value.__notes__[0]
    assert len(_packets(path, "video")) == FRAMES_PER_CHUNK
