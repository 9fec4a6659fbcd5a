"""A transcript becomes a film through the real stack."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import av
import numpy as np

import cuelight
from tests.fixtures.stack import RunningStack

TEXT = "Hello there, my friend. This is a small character that speaks the words you give it. It idles when it is done."


def _film(path: Path) -> tuple[list[np.ndarray], np.ndarray, list[bytes]]:
    with av.open(str(path)) as source:
        frames = [frame.to_ndarray(format="rgb24") for frame in source.decode(video=0)]
    with av.open(str(path)) as source:
        samples = np.concatenate([frame.to_ndarray()[0] for frame in source.decode(audio=0)])
    with av.open(str(path)) as source:
        captions = [bytes(packet) for packet in source.demux(source.streams.subtitles[0]) if packet.size > 2]
    return frames, samples, captions


def test_render_makes_a_film_with_captions(stack: RunningStack, tmp_path: Path) -> None:
    """Pictures at 24 a second, as much sound, and a caption for every word."""
    transcript, path = tmp_path / "t.txt", tmp_path / "film.mp4"
    transcript.write_text(TEXT)
    ran = stack.cuelight("render", str(transcript), "-o", str(path), "--seed", "1")
    assert ran.returncode == 0, ran.stderr
    assert "RTF p50" in ran.stdout
    frames, samples, captions = _film(path)
    assert len(frames) % 33 == 0
    assert len(frames) >= 66
    assert abs(len(samples) / 48_000 - len(frames) / 24) < 0.2
    assert np.abs(samples).max() > 0.001
    spoken = [line for line in captions if b"friend" in line]
    assert spoken
    assert len(captions) >= 0.9 * len(TEXT.split())


async def test_the_same_seed_gives_the_same_performance(stack: RunningStack) -> None:
    """Two sessions with one seed agree bit for bit in every encoded unit."""

    async def perform() -> list[bytes]:
        async with (
            cuelight.connect(stack.address) as client,
            client.create_session(regime="scripted", seed=11, queue_timeout_s=20) as session,
        ):
            await session.say("Hello there, my friend.")
            await session.end()
            return [media.data async for media in session.media()]

    first, second = await perform(), await perform()
    assert first
    assert first == second


async def test_media_is_complete_and_in_order(stack: RunningStack) -> None:
    """Every offset once, video before audio, time without a gap, every word once."""
    async with (
        cuelight.connect(stack.address) as client,
        client.create_session(regime="scripted", queue_timeout_s=20) as session,
    ):
        await session.say(TEXT)
        await session.end()
        events = [event async for event in session]
    media = [event for event in events if isinstance(event, cuelight.Media)]
    assert [each.offset for each in media] == list(range(len(media)))
    for track in cuelight.Track:
        own = [each for each in media if each.track is track]
        assert all(after.pts == before.pts + before.duration for before, after in pairwise(own))
        assert all(sum(each.unit_sizes) == len(each.data) for each in own)
    words = [word for event in events if isinstance(event, cuelight.Progress) for word in event.words]
    assert [word.index for word in words] == list(range(len(TEXT.split())))
    assert [word.text.strip(",.") for word in words] == [word.strip(",.") for word in TEXT.split()]
    assert session.state is cuelight.SessionState.CLOSED
