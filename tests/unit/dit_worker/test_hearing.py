"""What a session goes on from after an interrupt."""

from __future__ import annotations

import numpy as np
import pytest

from dit_worker.service.hearing import heard

SILENCE = np.full(24, -1.0, np.float32)
LATENTS = np.arange(33 * 24, dtype=np.float32).reshape(33, 24)


@pytest.mark.parametrize(("heard_s", "frames"), [(None, 33), (1.375 / 2, 16), (0.0, 0), (-0.5, 0), (1.375, 33)])
def test_unheard_sound_is_silence_from_the_very_frame_on(heard_s: float | None, frames: int) -> None:
    """What an interrupt left unheard is not remembered as said."""
    kept = heard(LATENTS, heard_s, SILENCE, 1.375)
    assert kept.shape == LATENTS.shape
    assert np.array_equal(kept[:frames], LATENTS[:frames])
    assert (kept[frames:] == SILENCE).all()
