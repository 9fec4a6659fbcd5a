"""Frames media for a client: as the worker made it, or as fragmented MP4.

A fragment is made once for each chunk and track, however many clients read it. It knows the containers, not the
streams they travel in.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import google_crc32c

from cuelight.v1.session_pb2 import MediaChunk, TrackInit
from gateway import fmp4
from services.bundle import Geometry
from services.session import VIDEO_TRACK, Container

_FRAGMENTS_KEPT = 64


class Framing:
    """The tracks of one session in both containers."""

    def __init__(self, tracks: Sequence[TrackInit], geometry: Geometry) -> None:
        """Take the worker's tracks; ValueError when their init data cannot be read."""
        self._elementary = list(tracks)
        self._fragmented = [_fragmented_init(track, geometry) for track in tracks]
        self._fragments: OrderedDict[tuple[int, int], MediaChunk] = OrderedDict()

    def tracks(self, container: Container) -> list[TrackInit]:
        """The start of each track in `container`."""
        return self._fragmented if container is Container.FMP4 else self._elementary

    def frame(self, media: MediaChunk, container: Container) -> MediaChunk:
        """`media`, which is elementary, in `container`."""
        if container is Container.ELEMENTARY:
            return media
        key = (media.offset, media.epoch)
        found = self._fragments.get(key)
        if found is None:
            found = self._fragments[key] = _fragmented(media)
            if len(self._fragments) > _FRAGMENTS_KEPT:
                self._fragments.popitem(last=False)
        return found


def _fragmented_init(track: TrackInit, geometry: Geometry) -> TrackInit:
    if track.track == VIDEO_TRACK:
        sets = fmp4.parse_parameter_sets(track.init_data)
        data = fmp4.video_init(track.track, track.timescale, sets, geometry.width, geometry.height)
        codec = sets.codec
    else:
        data = fmp4.audio_init(track.track, track.timescale, fmp4.parse_opus_head(track.init_data))
        codec = "opus"
    return TrackInit(track=track.track, codec=codec, timescale=track.timescale, init_data=data)


def _fragmented(media: MediaChunk) -> MediaChunk:
    fragment = fmp4.Fragment(
        track=media.track,
        sequence=media.offset + 1,
        decode_time=media.pts,
        unit_duration=media.unit_duration,
        units=fmp4.split_units(media.data, media.unit_sizes),
        is_video=media.track == VIDEO_TRACK,
    )
    framed = MediaChunk()
    framed.CopyFrom(media)
    framed.data = fmp4.write_fragment(fragment)
    framed.unit_sizes[:] = [len(framed.data)]
    framed.crc32c = google_crc32c.value(framed.data)
    return framed
