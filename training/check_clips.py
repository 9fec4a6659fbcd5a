"""Checks a folder of clip shards and says what is in it: `python -m training.check_clips data/clips`.

Every record is validated, every digest compared, every clip decoded (`--no-decode` trusts the media). Bad clips are
listed; with any of them the exit code is 2.
"""

from __future__ import annotations

import argparse
import collections
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from tqdm import tqdm

from training.corpora.clip_format import Clip, ClipInvalid, Manifest, Shard, read_manifest
from training.corpora.clip_media import decode
from training.corpora.clip_shards import RawClip, digest, read_shard

PROBE_RATE = 16_000
PROBE_SIZE = (64, 64)
TOLERANCE = 0.25
"""Seconds by which the media may be longer or shorter than their record says."""


@dataclass
class Statistics:
    """What was counted, and what is wrong."""

    clips: int = 0
    seconds: float = 0.0
    words: int = 0
    spoken: float = 0.0
    pictures: int = 0
    captioned: int = 0
    longest: float = 0.0
    speakers: collections.Counter[str] = field(default_factory=collections.Counter)
    languages: collections.Counter[str] = field(default_factory=collections.Counter)
    licences: collections.Counter[str] = field(default_factory=collections.Counter)
    bad: list[str] = field(default_factory=list)

    def add(self, raw: RawClip, clip: Clip) -> None:
        """Counts a good clip."""
        self.clips, self.seconds = self.clips + 1, self.seconds + clip.seconds
        self.words, self.longest = self.words + len(clip.words), max(self.longest, clip.seconds)
        self.spoken += sum(word.end - word.begin for word in clip.words)
        self.pictures += "mp4" in raw.members
        self.captioned += bool(clip.captions)
        self.speakers[clip.speaker or "unknown"] += 1
        self.languages[clip.language] += 1
        self.licences[clip.licence or "none named"] += 1

    def table(self) -> str:
        """The figures, one a line."""
        words_per_minute = 60 * self.words / self.spoken if self.spoken else 0.0
        rows = [
            ("clips", f"{self.clips:,}"),
            ("hours", f"{self.seconds / 3600:.2f}"),
            ("longest clip", f"{self.longest:.1f} s"),
            ("words", f"{self.words:,}, {words_per_minute:.0f} a minute of speech"),
            ("with a picture", f"{self.pictures:,}"),
            ("with captions", f"{self.captioned:,}"),
            ("speakers", f"{len(self.speakers):,}: {_most(self.speakers)}"),
            ("languages", _most(self.languages)),
            ("licences", _most(self.licences)),
            ("bad clips", f"{len(self.bad):,}"),
        ]
        return "\n".join(f"{name:<16}{value}" for name, value in rows)


def _most(counter: collections.Counter[str], names: int = 5) -> str:
    listed = ", ".join(f"{name} {count:,}" for name, count in counter.most_common(names))
    return listed + (", ..." if len(counter) > names else "")


def check(manifest: Manifest, has_decoding: bool = True) -> Statistics:
    """Reads every clip once."""
    found = Statistics()
    for shard in tqdm(manifest.shards, unit="shard"):
        try:
            found.bad += _differences(manifest.folder / shard.name, shard)
            for raw in _clips(manifest.folder / shard.name, shard):
                _check_clip(raw, has_decoding, found)
        except ClipInvalid as fault:  # nothing more can be read of this shard
            found.bad.append(str(fault))
    return found


def _differences(path: Path, shard: Shard) -> list[str]:
    try:
        return [] if digest(path) == shard.sha256 else [f"{path} is not the shard its manifest describes"]
    except OSError as fault:
        raise ClipInvalid(f"{path} cannot be read: {fault.strerror}") from fault


def _clips(path: Path, shard: Shard) -> Iterator[RawClip]:
    count = 0
    for place, raw in read_shard(path):
        count = place + 1
        yield raw
    if count != shard.clips:
        raise ClipInvalid(f"{path} holds {count} clips, its manifest names {shard.clips}")


def _check_clip(raw: RawClip, has_decoding: bool, found: Statistics) -> None:
    try:
        clip = raw.record
        if has_decoding:
            _check_media(raw, clip)
        found.add(raw, clip)
    except ClipInvalid as fault:
        found.bad.append(str(fault))


def _check_media(raw: RawClip, clip: Clip) -> None:
    if "safetensors" in raw.members:
        try:
            load_tensors(raw.members["safetensors"])
        except (SafetensorError, ValueError) as fault:
            raise ClipInvalid(f"{raw.key}: its latents cannot be read: {fault}") from fault
        return
    media = decode(raw.key, raw.members, 24.0, PROBE_RATE, PROBE_SIZE)
    lengths = {"sound": len(media.samples) / PROBE_RATE}
    if media.frames is not None:
        lengths["picture"] = len(media.frames) / 24.0
    for name, seconds in lengths.items():
        if abs(seconds - clip.seconds) > TOLERANCE:
            raise ClipInvalid(f"{raw.key}: its {name} lasts {seconds:.2f} s, its record says {clip.seconds:.2f} s")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shards", type=Path, help="folder of the shards and their manifest")
    parser.add_argument("--no-decode", action="store_true", help="check records and digests only")
    options = parser.parse_args()
    try:
        found = check(read_manifest(options.shards), not options.no_decode)
    except ClipInvalid as fault:
        parser.exit(2, f"{fault}\n")
    for line in found.bad:
        print(f"bad: {line}")
    print(found.table())
    parser.exit(2 if found.bad else 0)


if __name__ == "__main__":
    main()
