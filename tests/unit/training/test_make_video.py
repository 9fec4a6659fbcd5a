"""Rendering and encoding of passages: a shard of pictures with the words that asked for them."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from dit_worker.model.vae import VideoVAE, VideoVAEConfig
from training.corpora.captions import WORDS, words_of
from training.corpora.shards import Passage, write_shard
from training.make_video import FRAMES, LONGEST, encode_shard

SMALL = VideoVAEConfig(width=16)


@pytest.fixture(name="shard", scope="module")
def shard_of_pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three passages of 2, 3 and 20 chunks, rendered and encoded."""
    tmp_path = tmp_path_factory.mktemp("video")
    passages = []
    for chunks in (2, 3, 20):
        seconds = chunks * FRAMES / 24 - 0.1
        phones = ("pau", "hh", "ax", "l", "ow")
        ends = np.linspace(seconds / 5, seconds, 5).astype(np.float32)
        mel = np.full((int(seconds * 96), 80), -3, np.float16)
        passages.append(Passage("hello", "rms", mel, phones, ends))
    write_shard(tmp_path / "rms-0000.npz", passages)
    save_file(VideoVAE(SMALL).state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(asdict(SMALL)))
    out = tmp_path / "video.safetensors"
    encode_shard((tmp_path / "rms-0000.npz", out, tmp_path / "model.safetensors", 3))
    return out


def test_a_shard_holds_chunks_a_reference_and_a_caption_for_each_chunk(shard: Path) -> None:
    """Latents by chunk, at most so many of them, and as many captions, in words of the list."""
    tensors, said = load_file(shard), json.loads(shard.with_suffix(".json").read_text())
    assert len(said) == 3
    for i, captions in enumerate(said):
        video = tensors[f"video.{i}"]
        assert video.shape[1:] == (16, 9, 8, 8) and len(video) == len(captions) <= LONGEST
        assert tensors[f"reference.{i}"].shape == (16, 1, 8, 8)
        assert f"silent.{i}" in tensors
        assert all(set(words_of(text)) <= set(WORDS) for text in captions)
    assert len(said[2]) == LONGEST


def test_a_shard_that_is_there_is_not_made_again(shard: Path) -> None:
    """Rendering resumes by shard: what stands is left as it is."""
    before = shard.stat().st_mtime_ns
    encode_shard((shard.with_name("rms-0000.npz"), shard, shard.with_name("model.safetensors"), 3))
    assert shard.stat().st_mtime_ns == before
