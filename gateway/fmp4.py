"""Writes fragmented MP4: one init segment per track, one moof+mdat per chunk and track.

It frames access units that are already encoded (H.264 and Opus) and never decodes or re-encodes them. There is no
`mehd` and no duration in the header, so that browsers treat the stream as live and play it with little delay.
Box layout: ISO/IEC 14496-12 (files), 14496-15 (`avc1`, `avcC`), Opus in ISOBMFF 0.6.8 (`Opus`, `dOps`).
It knows nothing of sessions, sockets or Protocol Buffers.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

_NAL_IDR = 5
_NAL_SPS = 7
_NAL_PPS = 8
_NAL_DELIMITER = 9
# Parameter sets and delimiters live in `avcC`, never in samples of an `avc1` track.
_NAL_DROPPED = frozenset({_NAL_SPS, _NAL_PPS, _NAL_DELIMITER})

_SAMPLE_IS_SYNC = 0x02000000
_SAMPLE_IS_NOT_SYNC = 0x01010000

_TFHD_DEFAULT_BASE_IS_MOOF = 0x020000
_TFHD_DEFAULT_DURATION = 0x000008
_TFHD_DEFAULT_FLAGS = 0x000020
_TRUN_DATA_OFFSET = 0x000001
_TRUN_FIRST_SAMPLE_FLAGS = 0x000004
_TRUN_SAMPLE_SIZE = 0x000200

_UNITY_MATRIX = struct.pack(">9I", 0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)


@dataclass(frozen=True, slots=True)
class ParameterSets:
    """One H.264 sequence parameter set and one picture parameter set, without start codes."""

    sps: bytes
    pps: bytes

    @property
    def codec(self) -> str:
        """RFC 6381 string, for instance ``avc1.42C01E``: profile, constraints and level as the SPS says them."""
        return "avc1." + self.sps[1:4].hex().upper()


@dataclass(frozen=True, slots=True)
class OpusHead:
    """The fields of an Opus identification header (RFC 7845, section 5.1) that MP4 repeats."""

    channels: int
    pre_skip: int
    gain: int


@dataclass(frozen=True, slots=True)
class Fragment:
    """What one moof+mdat is made of. Times are in ticks of the track."""

    track: int
    sequence: int
    decode_time: int
    unit_duration: int
    units: Sequence[bytes]
    is_video: bool


def split_units(data: bytes, sizes: Sequence[int]) -> list[bytes]:
    """Cut `data` into access units of the given sizes, in order. ValueError when they do not add up."""
    if sum(sizes) != len(data):
        raise ValueError(f"unit sizes add up to {sum(sizes)} bytes, the data has {len(data)}")
    units, at = [], 0
    for size in sizes:
        units.append(data[at : at + size])
        at += size
    return units


def nal_units(annex_b: bytes) -> Iterator[bytes]:
    """The NAL units of an Annex B byte stream, without start codes and trailing zeros."""
    start = annex_b.find(b"\x00\x00\x01")
    while start >= 0:
        following = annex_b.find(b"\x00\x00\x01", start + 3)
        unit = annex_b[start + 3 : following if following >= 0 else len(annex_b)].rstrip(b"\x00")
        if unit:
            yield unit
        start = following


def parse_parameter_sets(annex_b: bytes) -> ParameterSets:
    """The first SPS and PPS of an Annex B byte stream. ValueError when one is missing or is not baseline or main."""
    found: dict[int, bytes] = {}
    for unit in nal_units(annex_b):
        found.setdefault(unit[0] & 0x1F, unit)
    if _NAL_SPS not in found or _NAL_PPS not in found:
        raise ValueError("the video init data has no SPS or no PPS")
    if len(found[_NAL_SPS]) < 4 or found[_NAL_SPS][1] not in (66, 77, 88):
        raise ValueError("the SPS is not of the baseline, main or extended profile")
    return ParameterSets(found[_NAL_SPS], found[_NAL_PPS])


def parse_opus_head(head: bytes) -> OpusHead:
    """The fields of an `OpusHead` of channel mapping family 0. ValueError on anything else."""
    if len(head) < 19 or head[:8] != b"OpusHead" or head[18] != 0:
        raise ValueError("the audio init data is not an OpusHead of mapping family 0")
    _, channels, pre_skip, _, gain = struct.unpack_from("<BBHIh", head, 8)
    return OpusHead(channels, pre_skip, gain)


def video_init(track: int, timescale: int, sets: ParameterSets, width: int, height: int) -> bytes:
    """The init segment of an H.264 track of `width` x `height` pixels."""
    configuration = struct.pack(">B3sBBH", 1, sets.sps[1:4], 0xFF, 0xE1, len(sets.sps)) + sets.sps
    configuration += struct.pack(">BH", 1, len(sets.pps)) + sets.pps
    entry = struct.pack(">6xH16x2H2I4xH32xHh", 1, width, height, 0x480000, 0x480000, 1, 0x18, -1)
    sample_entry = _box(b"avc1", entry, _box(b"avcC", configuration))
    header = _full_box(b"vmhd", 0, 1, bytes(8))
    return _init_segment(track, timescale, b"vide", header, sample_entry, (width, height))


def audio_init(track: int, timescale: int, head: OpusHead) -> bytes:
    """The init segment of an Opus track; `timescale` is ticks a second, 48,000 for Opus."""
    # The rate before encoding is of no use to a player, and Chromium wants the two rates of a track to be the same.
    configuration = struct.pack(">BBHIhB", 0, head.channels, head.pre_skip, timescale, head.gain, 0)
    entry = struct.pack(">6xH8x2H4xI", 1, head.channels, 16, timescale << 16)
    sample_entry = _box(b"Opus", entry, _box(b"dOps", configuration))
    header = _full_box(b"smhd", 0, 0, bytes(4))
    return _init_segment(track, timescale, b"soun", header, sample_entry, (0, 0))


def write_fragment(fragment: Fragment) -> bytes:
    """One moof+mdat. Only the first video sample may be a sync sample; every audio sample is one."""
    if fragment.decode_time < 0:
        raise ValueError(f"decode time {fragment.decode_time} lies before the start of the media clock")
    samples = [_length_prefixed(unit) if fragment.is_video else unit for unit in fragment.units]
    is_sync = not fragment.is_video or any(unit[0] & 0x1F == _NAL_IDR for unit in nal_units(fragment.units[0]))
    rest = _SAMPLE_IS_NOT_SYNC if fragment.is_video else _SAMPLE_IS_SYNC
    first = _SAMPLE_IS_SYNC if is_sync else _SAMPLE_IS_NOT_SYNC
    sizes = struct.pack(f">{len(samples)}I", *map(len, samples))

    def moof(data_offset: int) -> bytes:
        tfhd_flags = _TFHD_DEFAULT_BASE_IS_MOOF | _TFHD_DEFAULT_DURATION | _TFHD_DEFAULT_FLAGS
        tfhd = struct.pack(">3I", fragment.track, fragment.unit_duration, rest)
        trun_flags = _TRUN_DATA_OFFSET | _TRUN_FIRST_SAMPLE_FLAGS | _TRUN_SAMPLE_SIZE
        trun = struct.pack(">IiI", len(samples), data_offset, first) + sizes
        traf = _box(
            b"traf",
            _full_box(b"tfhd", 0, tfhd_flags, tfhd),
            _full_box(b"tfdt", 1, 0, struct.pack(">Q", fragment.decode_time)),
            _full_box(b"trun", 0, trun_flags, trun),
        )
        return _box(b"moof", _full_box(b"mfhd", 0, 0, struct.pack(">I", fragment.sequence)), traf)

    # The data offset counts from the start of the moof to the first byte inside the mdat.
    return moof(len(moof(0)) + 8) + _box(b"mdat", *samples)


def _length_prefixed(annex_b: bytes) -> bytes:
    kept = (unit for unit in nal_units(annex_b) if unit[0] & 0x1F not in _NAL_DROPPED)
    return b"".join(struct.pack(">I", len(unit)) + unit for unit in kept)


def _box(kind: bytes, *parts: bytes) -> bytes:
    return struct.pack(">I4s", 8 + sum(map(len, parts)), kind) + b"".join(parts)


def _full_box(kind: bytes, version: int, flags: int, payload: bytes) -> bytes:
    return _box(kind, struct.pack(">I", version << 24 | flags), payload)


def _init_segment(
    track: int, timescale: int, handler: bytes, header: bytes, sample_entry: bytes, size: tuple[int, int]
) -> bytes:
    volume = 0x0100 if handler == b"soun" else 0
    movie = struct.pack(">4IIH10x", 0, 0, timescale, 0, 0x10000, 0x0100) + _UNITY_MATRIX + bytes(24)
    movie += struct.pack(">I", track + 1)
    track_header = struct.pack(">5I8x3H2x", 0, 0, track, 0, 0, 0, 0, volume) + _UNITY_MATRIX
    track_header += struct.pack(">2I", size[0] << 16, size[1] << 16)
    media = _box(
        b"mdia",
        _full_box(b"mdhd", 0, 0, struct.pack(">4I2H", 0, 0, timescale, 0, 0x55C4, 0)),
        _full_box(b"hdlr", 0, 0, struct.pack(">I4s12x", 0, handler) + b"Cuelight\x00"),
        _box(b"minf", header, _data_information(), _sample_table(sample_entry)),
    )
    extends = _box(b"mvex", _full_box(b"trex", 0, 0, struct.pack(">5I", track, 1, 0, 0, 0)))
    moov = _box(
        b"moov",
        _full_box(b"mvhd", 0, 0, movie),
        _box(b"trak", _full_box(b"tkhd", 0, 7, track_header), media),
        extends,
    )
    return _box(b"ftyp", b"iso5", struct.pack(">I", 512), b"iso5iso6mp41") + moov


def _data_information() -> bytes:
    url = _full_box(b"url ", 0, 1, b"")
    return _box(b"dinf", _full_box(b"dref", 0, 0, struct.pack(">I", 1) + url))


def _sample_table(sample_entry: bytes) -> bytes:
    empty = [_full_box(kind, 0, 0, bytes(4)) for kind in (b"stts", b"stsc", b"stco")]
    description = _full_box(b"stsd", 0, 0, struct.pack(">I", 1) + sample_entry)
    return _box(b"stbl", description, *empty, _full_box(b"stsz", 0, 0, bytes(8)))
