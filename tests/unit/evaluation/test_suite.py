"""The suite's own arithmetic: the renderer's mouth for what is heard, and a minute watched."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from dit_worker.model.vae import VideoVAE, VideoVAEConfig
from evaluation import suite as suite_module
from evaluation.performers import Character
from evaluation.suite import Suite, renderer_mouth, watch_minute


def test_the_renderers_mouth_follows_what_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    """Open at a vowel, shut at an m and in the pause after it, at the moments the judge hears them."""
    pytest.importorskip("cv2")
    heard = SimpleNamespace(timed=[("m", 0.1), ("aa", 0.5), ("m", 0.9), ("pau", 1.2)])
    monkeypatch.setattr(suite_module, "listen", lambda *arguments: heard)
    panel = SimpleNamespace(judge=None, codec=None)
    opening = renderer_mouth(panel, np.zeros(0), np.ones(48))  # type: ignore[arg-type]  # only handed on to `listen`
    assert opening[12] > 0.8
    assert opening[2] < 0.2 and opening[22] < 0.2 and opening[40] < 0.05


def test_a_watched_minute_keeps_what_the_pictures_need() -> None:
    """Drift, the worst along the way and the border jump are told; frames for the contact sheet are kept."""
    torch.manual_seed(0)
    vae = VideoVAE(VideoVAEConfig()).eval()
    models = SimpleNamespace(vae=vae, dit=SimpleNamespace(config=SimpleNamespace(audio_latents=33)))
    suite = Suite(SimpleNamespace(models=models), None, [], 0)  # type: ignore[arg-type]  # nothing else is asked
    character = Character("ada", torch.zeros(24, 24), torch.zeros(3, 128, 128))
    still = torch.randn(16, 9, 8, 8)
    figures = watch_minute(suite, character, [still] * 8, "ada")
    assert figures["seconds"] == 11.0
    assert max(figures["against_first_seconds"]["colours"].values()) < 3
    assert len(suite.kept["sheet ada"]) == 9 and len(suite.kept["along ada"]) == 2
