"""Clips of real corpora: what is packed comes back, in an order one can rely on, and what is wrong is said."""

from __future__ import annotations

import io
import json
import sys
import tarfile
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from training import check_clips, make_clips
from training.corpora.clip_format import Clip, ClipInvalid, Header, Timed, read_manifest
from training.corpora.clip_media import decode, to_mp4, to_wav
from training.corpora.clip_shards import Packed, read_shard, write_shards
from training.corpora.clip_stream import ClipStream

WAV = to_wav(np.sin(np.arange(8000) * 0.1).astype(np.float32) * 0.5, 8000)


def record(text: str = "one two", **changes: object) -> dict[str, object]:
    """A sidecar of a clip of one second."""
    words = [{"text": w, "begin": 0.3 * i, "end": 0.3 * i + 0.2} for i, w in enumerate(text.split())]
    return {"seconds": 1.0, "transcript": text, "words": words} | changes


def pack(folder: Path, count: int, per_shard: int) -> Path:
    """A folder of shards whose clips are named k0, k1, ..."""
    clips = (Packed(f"k{i}", Clip.model_validate(record()), {"wav": WAV}) for i in range(count))
    write_shards(folder, Header(kind="media"), "part", clips, per_shard)
    return folder


def run(monkeypatch: pytest.MonkeyPatch, main: Callable[[], None], *arguments: str) -> int:
    """The exit code of a command of the project."""
    monkeypatch.setattr(sys, "argv", ["command", *arguments])
    try:
        main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"transcript": "one"}, "the transcript has 1 words but 2 have times"),
        ({"transcript": "one too"}, "word 1 is 'too' in the transcript but 'two' among the times"),
        ({"seconds": 0.2}, r"words\[1\] ends at 0.5 s, but the clip lasts 0.2 s"),
        ({"captions": [{"text": "a", "begin": 0.9, "end": 0.1}]}, r"captions\[0\] ends at 0.1 s, before it begins"),
        ({"phones": [{"text": "t", "begin": b, "end": b + 0.1} for b in (0.5, 0.2)]}, r"phones\[1\] begins at 0.2 s"),
        ({"seconds": float("nan")}, "seconds: Input should be a finite number|seconds"),
        ({"seconds": 1e9}, "seconds: Input should be less than or equal to 120"),
        ({"emotion": "glad"}, "emotion: Extra inputs are not permitted"),
        ({"version": 2}, "version: Input should be 1"),
    ],
)
def test_a_record_that_is_wrong_is_refused_with_what_is_wrong(changes: dict[str, object], complaint: str) -> None:
    """One sentence names the clip, the field and the fault."""
    with pytest.raises(ClipInvalid, match=f"^k: .*({complaint})"):
        Clip.parse("k", json.dumps(record() | changes).encode())


def test_each_epoch_gives_every_clip_once_and_readers_share_none(tmp_path: Path) -> None:
    """Three readers of nine clips: together all of them, apart disjoint, and the second epoch in another order."""
    manifest = read_manifest(pack(tmp_path, 9, 3))
    parts = [[c.key for c in islice(ClipStream(manifest, 3, r, seed=5, buffer=2).clips(), 6)] for r in range(3)]
    for epoch in (slice(0, 3), slice(3, 6)):
        assert sorted(key for part in parts for key in part[epoch]) == [f"k{i}" for i in range(9)]
    whole = [c.key for c in islice(ClipStream(manifest, seed=5, buffer=4).clips(), 18)]
    assert whole[:9] != whole[9:] and sorted(whole[:9]) == sorted(whole[9:])
    with pytest.raises(ValueError, match="3 shards, too few for 4 readers"):
        ClipStream(manifest, 4, 0)


@pytest.mark.parametrize("start", [1, 4, 8, 9, 13])
def test_a_stream_goes_on_from_anywhere_as_if_it_had_not_stopped(tmp_path: Path, start: int) -> None:
    """Neither the shuffling buffer nor the epoch is forgotten."""
    stream = ClipStream(read_manifest(pack(tmp_path, 9, 2)), seed=1, buffer=4)
    undisturbed = [c.key for c in islice(stream.clips(), 20)]
    assert [c.key for c in islice(stream.clips(start), 20 - start)] == undisturbed[start:]


def test_what_is_packed_comes_back_in_time(tmp_path: Path) -> None:
    """A flash and a click at half a second are at half a second after mp4, wav and a change of both rates."""
    frames = np.zeros((30, 32, 48, 3), np.uint8)
    frames[15:] = 255
    samples = np.zeros(8000, np.float32)
    samples[4000:4080] = 0.9
    media = decode("k", {"mp4": to_mp4(frames, 30, (32, 48)), "wav": to_wav(samples, 8000)}, 24.0, 16_000, (16, 16))
    assert media.frames is not None and media.frames.shape == (24, 16, 16, 3) and abs(len(media.samples) - 16_000) < 20
    assert media.frames[11].mean() < 30 and media.frames[12].mean() > 220
    assert 7990 < np.argmax(np.abs(media.samples) > 0.4) < 8010


def test_hostile_shards_are_refused(tmp_path: Path) -> None:
    """Paths, links, torn files, repeated keys and missing records never reach a decoder."""
    for name, entries in {
        "path.tar": [("../k.json", b"{}")],
        "lone.tar": [("k.wav", WAV)],
        "empty.tar": [("k.json", b"{}")],
        "twice.tar": [("k.json", b"{}"), ("k.wav", WAV), ("j.json", b"{}"), ("j.wav", WAV), ("k.mp4", b"")],
        "pickle.tar": [("k.json", b"{}"), ("k.pyd", b"")],
    }.items():
        with tarfile.open(tmp_path / name, "w") as archive:
            for member, content in entries:
                info = tarfile.TarInfo(member)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
        with pytest.raises(ClipInvalid):
            list(read_shard(tmp_path / name))
    whole = pack(tmp_path / "whole", 1, 1) / "part-00000.tar"
    (tmp_path / "torn.tar").write_bytes(whole.read_bytes()[:9000])
    with pytest.raises(ClipInvalid, match="torn.tar"):
        list(read_shard(tmp_path / "torn.tar"))
    with pytest.raises(ClipInvalid, match="k: cannot be decoded"):
        decode("k", {"mp4": b"\0" * 500, "wav": WAV}, 24, 8000, (16, 16))


def test_a_folder_is_packed_and_checked_from_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Good clips are counted in a table; a bad one is named, and the exit code is 2."""
    folder = tmp_path / "videos" / "a b"
    folder.mkdir(parents=True)
    for name in ("first", "second"):
        (folder / f"{name}.wav").write_bytes(WAV)
        (folder / f"{name}.json").write_text(json.dumps(record(speaker=name)))
    shards = str(tmp_path / "clips")
    arguments = ("--from", str(tmp_path / "videos"), "--out", shards, "--clips-per-shard", "1")
    assert run(monkeypatch, make_clips.main, *arguments) == 0
    assert read_manifest(tmp_path / "clips").clips == 2
    assert run(monkeypatch, check_clips.main, shards) == 0
    assert "speakers        2" in capsys.readouterr().out
    (folder / "third.json").write_text(json.dumps(record()))
    assert run(monkeypatch, make_clips.main, *arguments) == 2
    assert "third.json has neither .mp4 nor .wav beside it" in capsys.readouterr().err
    (tmp_path / "clips" / "clips-00001.tar").write_bytes(b"not a tar")
    assert run(monkeypatch, check_clips.main, shards) == 2
    assert "clips-00001.tar is not a whole tar file" in capsys.readouterr().out


def test_words_of_synthetic_speech_lie_on_its_phones() -> None:
    """Where flite reads a word otherwise than the front-end, the border stays with the phones both agree on."""
    from orchestrator_llm.model.text import TextFrontEnd
    from services.bundle import load_manifest
    from training.corpora.clip_sources import Spoken, describe

    bundle = Path("bundles/pocket")
    front_end = TextFrontEnd.load(bundle, load_manifest(bundle).text)
    phones = "pau hh ax l ow t ax d ey pau".split()
    spoken = Spoken("slt", phones, np.arange(1, 11) * 0.1)
    clip = describe("Hello today.", spoken, 1.375, ["smiles"], front_end)
    assert clip.transcript == "Hello today."
    assert [(round(w.begin, 3), round(w.end, 3)) for w in clip.words] == [(0.1, 0.5), (0.5, 0.9)]
    assert clip.phones[0] == Timed(text="pau", begin=0.0, end=0.1) and clip.captions[0].text == "smiles"
