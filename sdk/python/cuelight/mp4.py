"""Muxes H.264 access units, Opus packets and captions into one MP4, untouched. The only module that imports PyAV."""

from __future__ import annotations

import heapq
import io
import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from typing import IO, TYPE_CHECKING

import av
from av.packet import Packet
from av.stream import Stream

from cuelight.captions import captions
from cuelight.events import Track, TrackInfo, Word

if TYPE_CHECKING:
    from cuelight.recording import Piece

_CAPTION_TIMESCALE = 1000
_OPUS_RATE = 48_000
_SILENT_OPUS_PACKET = b"\xf8\xff\xfe"
_ASS_HEADER = b"""[Script Info]
ScriptType: v4.00+
[V4+ Styles]
Format: Name, Fontname, Fontsize, PrimaryColour, SecondaryColour, OutlineColour, BackColour, Bold, Italic, Underline, \
StrikeOut, ScaleX, ScaleY, Spacing, Angle, BorderStyle, Outline, Shadow, Alignment, MarginL, MarginR, MarginV, Encoding
Style: Default,Sans,18,&Hffffff,&Hffffff,&H0,&H80000000,0,0,0,0,100,100,0,0,3,1,0,2,10,10,10,0
[Events]
Format: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text
"""


def write(
    path: os.PathLike[str],
    tracks: Mapping[Track, TrackInfo],
    pieces: Sequence[Piece],
    spool: IO[bytes],
    words: Sequence[Word],
) -> None:
    """Writes ``path``; time 0 of the file is where the first picture begins.

    Sound is heard ``pre-skip`` samples after its packets begin (RFC 7845): it is moved forward by as much, and what
    then lies before time 0 is cut off by the edit list that libav writes.
    """
    ordered = sorted(pieces, key=lambda piece: (piece.position, piece.track))
    start_s = Fraction(ordered[0].pts, tracks[ordered[0].track].timescale)
    with av.open(os.fspath(path), "w", format="mp4", options={"movflags": "+faststart"}) as output:
        streams = {track: _add_stream(output, tracks[track], ordered, spool) for track in sorted(tracks)}
        caption_stream = _add_caption_stream(output)
        queues = [_caption_packets(caption_stream, words, float(start_s))]
        for track, stream in streams.items():
            own = [piece for piece in ordered if piece.track is track]
            origin = int(start_s * tracks[track].timescale) + _pre_skip(tracks[track])
            queues.append(_packets(stream, tracks[track], own, spool, origin))
        for _, _, packet in heapq.merge(*queues, key=lambda item: item[:2]):
            output.mux(packet)


_Timed = tuple[Fraction, int, "Packet[Stream]"]


def _add_stream(
    output: av.container.OutputContainer, info: TrackInfo, pieces: Sequence[Piece], spool: IO[bytes]
) -> Stream:
    """A stream that takes encoded packets; its parameters are read from the track's own first bytes."""
    if info.track is Track.VIDEO:
        first = next(piece for piece in pieces if piece.track is Track.VIDEO)
        spool.seek(first.begin)
        head, form = info.init_data + spool.read(first.unit_sizes[0]), "h264"
    else:
        head, form = _ogg_of(info.init_data), "ogg"
    with av.open(io.BytesIO(head), format=form) as template:
        stream = output.add_stream_from_template(template.streams[0], opaque=True)
    stream.time_base = Fraction(1, info.timescale)
    return stream


def _add_caption_stream(output: av.container.OutputContainer) -> Stream:
    stream = output.add_stream("mov_text")
    stream.time_base = Fraction(1, _CAPTION_TIMESCALE)
    stream.codec_context.time_base = Fraction(1, _CAPTION_TIMESCALE)
    stream.codec_context.subtitle_header = _ASS_HEADER
    stream.metadata["language"] = "eng"
    return stream


def _packets(
    stream: Stream, info: TrackInfo, pieces: Sequence[Piece], spool: IO[bytes], origin: int
) -> Iterator[_Timed]:
    time_base = Fraction(1, info.timescale)
    for piece in pieces:
        spool.seek(piece.begin)
        data = io.BytesIO(spool.read(sum(piece.unit_sizes)))
        pts = piece.pts - origin
        for index, size in enumerate(piece.unit_sizes):
            packet = Packet(data.read(size))
            packet.stream, packet.time_base = stream, time_base
            packet.pts = packet.dts = pts
            packet.duration = piece.unit_duration
            packet.is_keyframe = info.track is Track.AUDIO or (index == 0 and piece.is_keyframe)
            yield pts * time_base, info.track, packet
            pts += piece.unit_duration


def _caption_packets(stream: Stream, words: Sequence[Word], start_s: float) -> Iterator[_Timed]:
    time_base = Fraction(1, _CAPTION_TIMESCALE)
    for caption in captions(words):
        begin = max(0, round((caption.start_s - start_s) * _CAPTION_TIMESCALE))
        end = round((caption.end_s - start_s) * _CAPTION_TIMESCALE)
        if end <= begin:
            continue
        packet = Packet(caption.tx3g)
        packet.stream, packet.time_base = stream, time_base
        packet.pts = packet.dts = begin
        packet.duration = end - begin
        packet.is_keyframe = True
        yield begin * time_base, stream.index, packet


def _pre_skip(info: TrackInfo) -> int:
    """Ticks of decoded sound to be dropped at the start, from the OpusHead."""
    if info.track is not Track.AUDIO:
        return 0
    (samples,) = struct.unpack_from("<H", info.init_data, 10)
    return int(samples) * info.timescale // _OPUS_RATE


def _ogg_of(opus_head: bytes) -> bytes:
    """The shortest Ogg stream with this header: how libav is told the parameters of bare Opus packets."""
    tags = b"OpusTags" + struct.pack("<II", 0, 0)
    return _page(opus_head, 0, 2) + _page(tags, 1, 0) + _page(_SILENT_OPUS_PACKET, 2, 4)


def _page(body: bytes, number: int, flags: int) -> bytes:
    """One Ogg page with one short packet (RFC 3533)."""
    assert len(body) < 255
    head = struct.pack("<4sBBqII", b"OggS", 0, flags, 0, 1, number)
    lacing = bytes([1, len(body)])
    checksum = _crc(head + bytes(4) + lacing + body)
    return head + struct.pack("<I", checksum) + lacing + body


def _crc(data: bytes) -> int:
    """CRC-32 as Ogg has it: polynomial 0x04C11DB7, not reflected, no inversion."""
    register = 0
    for byte in data:
        register ^= byte << 24
        for _ in range(8):
            register = (register << 1) ^ (0x04C11DB7 if register & 0x80000000 else 0)
        register &= 0xFFFFFFFF
    return register
