"""The transformer on another device and in another precision than the CPU's float32."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from dit_worker.model.dit import DiTConfig, JointDiT, Memory, PromptMemory, Velocity
from dit_worker.model.prompt import PromptEncoder, PromptEncoderConfig
from tests.unit.dit_worker.conftest import random_weights

POCKET = DiTConfig(
    width=48, heads=2, layers=2, ffn=64, video_channels=4, video_height=4, video_width=4, audio_channels=6,
    condition_width=20, time_width=16, audio_motion=3, learned_positions=True, condition_to_video=True, prompt_width=24,
)  # fmt: skip
STAGE = replace(
    POCKET, audio_motion=0, learned_positions=False, condition_to_video=False, prompt_source_width=12,
    projection_bias=True, full_width_norm=True, heads_read_time=True,
)  # fmt: skip


def model(config: DiTConfig, device: str = "cpu", dtype: torch.dtype = torch.float32) -> JointDiT:
    """Random weights, products in `dtype`, as a loader makes it."""
    torch.manual_seed(4)
    dit = JointDiT(config)
    random_weights(dit)
    for name, parameter in dit.named_parameters():
        parameter.data = parameter.data.to(JointDiT.precision_of(name, dtype))
    return dit.to(device).requires_grad_(False)


def perform(dit: JointDiT, *, is_cached: bool = True) -> tuple[Velocity, Memory, PromptMemory]:
    """One step after a first chunk, under a prompt, with all inputs on the model's device."""
    c, device = dit.config, dit.no_prompt.device
    draw = torch.Generator().manual_seed(5)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=draw).to(device)

    video = {kind: noise(1, c.video_channels, n, 4, 4) for kind, n in (("reference", 1), ("sink", 9), ("motion", 9))}
    prompt = dit.encode_prompt(
        noise(1, 5, c.prompt_source_width or c.prompt_width), torch.ones(1, 5, dtype=torch.bool, device=device)
    )
    step: dict[str, Any] = {"noisy_video": noise(1, c.video_channels, 9, 4, 4), "noisy_audio": noise(1, 33, 6)}
    step |= {"t": torch.full((1,), 0.7, device=device), "condition": noise(1, 33, 20), "prompt": prompt}
    if c.audio_motion:
        step |= {"audio_motion": noise(1, 3, 6), "audio_motion_mask": torch.ones(1, 3, device=device)}
    memories = [dit.encode_condition("reference", video["reference"])]
    for kind in ("sink", "motion"):
        memories.append(dit.encode_condition(kind, video[kind], Memory.join(memories)))
    memory = Memory.join(memories)
    return (dit.velocity(memory, **step) if is_cached else dit(video, **step)), memory, prompt


@pytest.mark.parametrize("config", [POCKET, STAGE], ids=["pocket", "stage"])
def test_nothing_is_made_on_another_device(config: DiTConfig) -> None:
    """On `meta`, where any tensor of the CPU's raises, every path of the transformer runs without a default device."""
    dit = model(config, "meta")
    for is_cached in (True, False):
        velocity, memory, _ = perform(dit, is_cached=is_cached)
        found = {x.device.type for x in (*velocity, *memory.keys, *memory.values)}
        assert found == {"meta"} and velocity.video.shape == (1, 4, 9, 4, 4)
    bare = torch.zeros(1, 33, 6, device="meta")
    motion = (torch.zeros(1, 3, 6, device="meta"), torch.ones(1, 3, device="meta")) if config.audio_motion else ()
    speech = dit.audio_velocity(bare, bare[:, 0, 0], torch.zeros(1, 33, 20, device="meta"), *motion)
    assert speech.device.type == "meta"


def test_the_prompt_encoder_makes_nothing_on_another_device() -> None:
    """The pocket's words are read where its transformer is."""
    encoder = PromptEncoder(PromptEncoderConfig(words=5, width=16)).to("meta")
    ids = torch.zeros(1, 3, dtype=torch.long, device="meta")
    assert encoder(ids, torch.ones_like(ids, dtype=torch.bool)).device.type == "meta"


@pytest.mark.parametrize("config", [POCKET, STAGE], ids=["pocket", "stage"])
def test_products_in_bfloat16_give_the_same_velocity_within_its_rounding(config: DiTConfig) -> None:
    """Keys, values and prompts are held in half the bytes, velocities come out in float32 and 3 % apart at most."""
    (exact, memory, _), (rounded, half, words) = perform(model(config)), perform(model(config, dtype=torch.bfloat16))
    assert {x.dtype for x in (*half.keys, *half.values, *words.keys, *words.values)} == {torch.bfloat16}
    assert half.nbytes * 2 == memory.nbytes
    for found, expected in zip(rounded, exact, strict=True):
        assert found.dtype == torch.float32
        assert 0 < (found - expected).norm() / expected.norm() < 0.03


def test_time_is_kept_in_full_precision() -> None:
    """What all tokens of a step are modulated by is not rounded, matrices are."""
    kept = {n for n, p in model(STAGE, dtype=torch.bfloat16).named_parameters() if p.dtype == torch.float32}
    assert {
        "time_in.0.weight",
        "time_out.1.bias",
        "heads_table",
        "blocks.1.tables",
        "blocks.0.prompt.norm.bias",
    } <= kept
    assert not [n for n in kept if "experts" in n or "query" in n or n.startswith(("video_", "audio_in", "audio_out"))]
