"""Makes one MP4 of a render's chunks: pictures and sound as they were encoded, and captions. It knows no store."""

from __future__ import annotations

from hashlib import file_digest

from cuelight import convert
from cuelight.events import Attached, TrackInfo
from cuelight.recording import Recording
from render_worker.spool import Spool
from services.render import RenderFile


def write_film(spool: Spool) -> RenderFile:
    """Write the result of all chunks that are there. Blocks; raises OSError, and ValueError when there is none."""
    hosted = spool.tracks
    if hosted is None or spool.count == 0:
        raise ValueError("nothing was made: none of its words could be spoken")
    tracks: tuple[TrackInfo, ...] = tuple(convert.track_info(track) for track in hosted.tracks)
    timescales = {int(track.track): track.timescale for track in tracks}
    with Recording() as recording, spool.result() as path:
        recording.add(Attached(tracks, media_offset=0, state_preserved=True, is_first=True))
        for index in range(spool.count):
            chunk = spool.chunk(index)
            recording.add(convert.progress(chunk.progress))
            recording.add(convert.media(chunk.video, timescales))
            recording.add(convert.media(chunk.sound, timescales))
        summary = recording.save(path)
        with path.open("rb") as file:
            digest = file_digest(file, "sha256").hexdigest()
    return RenderFile(summary.size_bytes, digest, summary.duration_s)
