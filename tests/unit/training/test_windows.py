"""Training windows: what is said of a chunk is true of it."""

from __future__ import annotations

import random

import numpy as np
import torch

from orchestrator_llm.model.conditioner import AFTER, BEFORE, ConditionerConfig
from training.windows import Track, WindowSource

CONFIG = ConditionerConfig(vocabulary=40)


def source(tokens: int = 40, frames_per_token: int = 2) -> tuple[WindowSource, Track]:
    """One track whose frame f holds the value f, token i lasting from frame 2 i to 2 i + 2."""
    frames = tokens * frames_per_token
    latents = torch.arange(frames, dtype=torch.float32)[:, None].expand(-1, 24).contiguous()
    track = Track(latents, np.arange(3, 3 + tokens) % 30 + 3, np.arange(tokens + 1) * float(frames_per_token))
    return WindowSource(CONFIG, {"voice": [track]}, torch.full((24,), -1.0), {"voice": 1.0}), track


def test_a_window_in_mid_passage_points_at_its_own_tokens() -> None:
    """Frame 40 is where token 20 begins: history before, tokens around, the end 16.5 tokens on."""
    windows, track = source()
    rng = random.Random(1)
    window = windows.window(rng, track, 40, torch.zeros(24, 24))
    origin = 20 - window.start.item()
    assert window.clean[0, 0] == 40 and window.history[-1, 0] == 39 and window.history_mask.all()
    assert window.ids[int(window.start)] == track.ids[20]
    assert abs(origin + window.end.item() - 36.5) < 1e-4
    assert abs(origin + window.positions[0].item() - 20.25) < 1e-4


def test_what_follows_the_last_word_is_silence() -> None:
    """A chunk that outlasts its transcript falls silent, and the pointer stays at the end."""
    windows, track = source()
    window = windows.window(random.Random(2), track, 70, torch.zeros(24, 24))
    assert (window.clean[10:] == -1).all() and (window.clean[:10, 0] == torch.arange(70.0, 80.0)).all()
    assert (window.ids == AFTER).any()
    assert abs(window.end.item() - (40 - (35 - window.start.item()))) < 1e-4


def test_the_first_chunk_has_no_words_and_no_sound_behind_it() -> None:
    """Unless something was said earlier, what is before the beginning is marked so."""
    windows, track = source()
    window = windows.window(random.Random(0), track, 0, torch.zeros(24, 24))
    assert not window.history_mask.any()
    assert (window.ids[: int(window.start)] == BEFORE).all()


def test_an_idle_chunk_is_silent_and_stays_where_it_is() -> None:
    """With nothing to say the pointer does not move."""
    windows, track = source()
    for seed in range(20):
        window = windows.idle(random.Random(seed), track, torch.zeros(24, 24))
        assert (window.clean == -1).all()
        assert window.end == window.start == CONFIG.text_back
        assert (window.ids[CONFIG.text_back :] == AFTER).all()


def test_drawn_windows_have_one_shape() -> None:
    """A batch stacks, whatever cases were drawn."""
    windows, _ = source()
    batch = windows.batch(random.Random(3), 64)
    assert batch.clean.shape == (64, 33, 24) and batch.ids.shape == (64, 32)
    assert torch.isfinite(batch.positions).all()
