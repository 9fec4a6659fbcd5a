"""Rotary positions: sound and picture of one instant share their phases; what came before a chunk lies before it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from dit_worker.model.dit import DiTConfig
from dit_worker.model.rope import audio_positions, axis_split, phases, video_positions

ROOT = Path(__file__).parents[3]
HEAD, THETA = 48, 256.0


@pytest.mark.parametrize("bundle", ["pocket", "stage-5b"])
def test_sound_and_picture_of_one_instant_share_their_time_phases(bundle: str) -> None:
    """24 audio and 6 video latents a second: the fourth, eighth ... audio latent stand where video latents do."""
    dit = DiTConfig(**json.loads((ROOT / "bundles" / bundle / "manifest.json").read_text())["dit"])
    audio = audio_positions(0, dit.audio_latents, dit.audio_time_scale)
    video = video_positions(0, dit.video_latents, 1, 1)
    time = axis_split(HEAD // 2)[0]
    assert torch.equal(phases(audio, HEAD, THETA)[:, ::4, :time], phases(video, HEAD, THETA)[..., :time])


def test_motion_ends_where_the_chunk_begins_and_comes_after_what_is_fixed() -> None:
    """Nine latents of motion lie at -9 to -1, a chunk's from 0 on; the sink before them, the reference before that."""
    first = DiTConfig().first_position
    motion = video_positions(first["motion"], 9, 2, 2)[:, 0]
    assert motion.unique().tolist() == list(range(-9, 0))
    assert first["reference"] < first["sink"] and first["sink"] + 9 <= first["motion"]
    assert audio_positions(-12, 12, 0.25)[-1, 0] == -0.25
