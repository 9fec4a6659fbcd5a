"""Training windows: what is said of a chunk is true of it."""

from __future__ import annotations

import random

import numpy as np
import torch

from orchestrator_llm.model.conditioner import AFTER, BEFORE, PAD, ConditionerConfig
from training.windows import Before, Track, WindowSource

CONFIG = ConditionerConfig(vocabulary=40)
LONG = ConditionerConfig(vocabulary=40, history_frames=330, text_per_chunk=20)


def source(
    tokens: int = 40, frames_per_token: int = 2, config: ConditionerConfig = CONFIG
) -> tuple[WindowSource, Track]:
    """One track whose frame f holds the value f, token i lasting from frame 2 i to 2 i + 2."""
    frames = tokens * frames_per_token
    latents = torch.arange(frames, dtype=torch.float32)[:, None].expand(-1, 24).contiguous()
    track = Track(latents, np.arange(3, 3 + tokens) % 30 + 3, np.arange(tokens + 1) * float(frames_per_token))
    return WindowSource(config, {"voice": [track]}, torch.full((24,), -1.0), {"voice": 1.0}), track


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


def test_history_and_its_text_reach_back_together() -> None:
    """Three chunks of history: the sound of frames 61 to 159 beside tokens 30 on, and nothing of what was before."""
    windows, track = source(tokens=120, config=LONG)
    window = windows.window(random.Random(4), track, 160, torch.zeros(24, 24), chunks=3)
    assert window.history.shape == (99, 24) and window.history[0, 0] == 61 and window.history[-1, 0] == 159
    earlier = window.ids[: LONG.earlier_slots(3)]
    spoken = earlier[earlier != PAD]
    origin = 80 - int(window.start)
    assert (earlier[: len(earlier) - len(spoken)] == PAD).all()
    assert spoken.tolist() == track.ids[30:origin].tolist()


def test_what_was_spoken_before_the_passage_fills_the_history() -> None:
    """An earlier passage comes first, its sound and its words, then this one's; older history is marked as none."""
    windows, track = source(tokens=120, config=LONG)
    before = Before(torch.full((33, 24), -7.0), np.array([38, 39]))
    window = windows.window(random.Random(4), track, 33, torch.zeros(24, 24), chunks=3, before=before)
    assert not window.history_mask[:33].any() and window.history_mask[33:].all()
    assert (window.history[33:66] == -7).all() and window.history[66, 0] == 0
    earlier = window.ids[: LONG.earlier_slots(3)].tolist()
    begin = earlier.index(39)
    assert earlier[begin - 1] == 38 and earlier[begin - 2] == PAD
    assert earlier[begin + 1 :] == track.ids[: len(earlier) - begin - 1].tolist()


def test_a_batch_has_one_number_of_history_chunks() -> None:
    """Shapes follow from the number of chunks alone, so nothing is padded for its neighbours' sake."""
    windows, _ = source(tokens=400, config=LONG)
    rng = random.Random(3)
    for chunks in (1, 4, 10):
        batch = windows.batch(rng, 6, chunks)
        assert batch.history.shape == (6, 33 * chunks, 24) and batch.history_mask.shape == (6, 33 * chunks)
        assert batch.ids.shape == (6, 20 * chunks + 32)
    drawn = {windows.history_chunks(rng) for _ in range(300)}
    assert min(drawn) == 1 and max(drawn) == 10
