"""Corpus shards: ragged arrays of many passages in one .npz file, with their texts beside them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Passage:
    """One passage of speech as the trainings read it.

    log_mel: float16 (F, M); phones: P names; ends: float32 (P,) seconds.
    """

    text: str
    voice: str
    log_mel: np.ndarray
    phones: tuple[str, ...]
    ends: np.ndarray


def write_shard(path: Path, passages: Sequence[Passage]) -> None:
    """Writes one shard: arrays in .npz, words in .json; the .npz comes last, so that a half-written shard is unseen."""
    meta = [{"text": p.text, "voice": p.voice, "phones": " ".join(p.phones)} for p in passages]
    path.with_suffix(".json").write_text(json.dumps(meta))
    partial = path.with_suffix(".partial.npz")
    np.savez(
        partial,
        log_mel=np.concatenate([p.log_mel for p in passages]),
        frames=np.array([len(p.log_mel) for p in passages]),
        ends=np.concatenate([p.ends for p in passages]),
    )
    partial.rename(path)


def read_shard(path: Path) -> Iterator[Passage]:
    """The passages of one shard."""
    meta = json.loads(path.with_suffix(".json").read_text())
    arrays = np.load(path)
    mels = np.split(arrays["log_mel"], np.cumsum(arrays["frames"])[:-1])
    phones = [tuple(m["phones"].split()) for m in meta]
    ends = np.split(arrays["ends"], np.cumsum([len(p) for p in phones])[:-1])
    for m, mel, names, end in zip(meta, mels, phones, ends, strict=True):
        yield Passage(m["text"], m["voice"], mel, names, end)


def read_corpus(folder: Path) -> list[Passage]:
    """Every passage under a folder, in a fixed order. Raises FileNotFoundError when there is none."""
    paths = [p for p in sorted(folder.glob("*.npz")) if not p.name.endswith(".partial.npz")]
    if not paths:
        raise FileNotFoundError(f"no shards in {folder}: run `python -m training.make_corpus` first")
    return [passage for path in paths for passage in read_shard(path)]
