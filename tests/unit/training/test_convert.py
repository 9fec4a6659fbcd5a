"""Public checkpoints become this project's weights: the same numbers come out of them as out of the originals."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from dit_worker.model.dit import DiTConfig, JointDiT
from orchestrator_llm.model.conditioner import Conditioner, ConditionerConfig
from services.bundle import load_manifest
from tests.fixtures.public_checkpoints import STATES, qwen, sizes, wan
from training.convert import convert_conditioner, convert_dit
from training.converters.files import ConversionFailed
from training.converters.layout import wan_name


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, Any]:
    """The folder of converted weights, and the two models they come from."""
    folder, fields = tmp_path_factory.mktemp("convert"), sizes()
    originals = wan(folder / "wan"), qwen(folder / "qwen")
    convert_dit(folder / "wan", DiTConfig(**fields["dit"]), folder, is_random=True)
    convert_conditioner(folder / "qwen", ConditionerConfig(**fields["conditioner"]), folder, is_random=True)
    return folder, *originals


def video_alone(dit: JointDiT, noisy: Tensor, t: Tensor, states: Tensor) -> Tensor:
    """What the blocks make of video tokens by themselves under a prompt, which is all that Wan knows."""
    time = dit._time(t)
    groups = [dit._video_group(noisy, torch.zeros(len(noisy), 33, 16), time)]
    everything = torch.ones(len(noisy), 1, 1, states.shape[1], dtype=torch.bool)
    for block in dit.blocks:
        groups, _ = block(groups, None, prompt=(*block.words(dit.prompt_in(states)), everything))
    return dit._unpatchify(dit.video_out(dit._final(groups[0].x, time, 0)))


@torch.no_grad()
def test_the_dit_computes_on_video_what_wan_computes(converted: tuple[Path, Any, Any]) -> None:
    """Rotary phases, norms, time, prompt and heads are all Wan's, and both experts begin as its FFN."""
    folder, theirs, _ = converted
    dit = JointDiT(DiTConfig(**sizes()["dit"]))
    dit.load_state_dict(load_file(folder / "dit.safetensors"))
    noisy, states, t = torch.randn(2, 2, 9, 4, 4), torch.randn(2, 5, STATES), torch.tensor([0.3, 0.9])
    expected = theirs(noisy, timestep=t * 1000, encoder_hidden_states=states).sample
    torch.testing.assert_close(video_alone(dit, noisy, t, states), expected, rtol=1e-4, atol=1e-4)
    for block in dit.blocks:
        for video, audio in zip(block.experts[0].parameters(), block.experts[1].parameters(), strict=True):
            assert torch.equal(video, audio)
    empty = dit.prompt_in(torch.zeros(1, 1, STATES))[0, 0]
    torch.testing.assert_close(dit.no_prompt, empty, rtol=1e-2, atol=1e-2)


@torch.no_grad()
def test_the_body_computes_what_qwen_computes(converted: tuple[Path, Any, Any]) -> None:
    """Token 3 of the conditioner is token 0 of the language model, and the states agree."""
    folder, _, theirs = converted
    conditioner = Conditioner(ConditionerConfig(**sizes()["conditioner"]))
    conditioner.load_state_dict(load_file(folder / "conditioner.safetensors"))
    ids = torch.randint(0, 40, (2, 7))
    ours, _ = conditioner.body(conditioner.tokens(ids + 3))
    torch.testing.assert_close(ours, theirs(ids).last_hidden_state, rtol=1e-4, atol=1e-4)


def test_wans_own_files_give_the_same_weights(converted: tuple[Path, Any, Any], tmp_path: Path) -> None:
    """The original layout's names lead to the same bytes; without leave to begin the rest, it is listed instead."""
    folder, theirs, _ = converted
    (tmp_path / "original").mkdir()
    state = {wan_name(name): value.contiguous() for name, value in theirs.state_dict().items()}
    assert "blocks.1.cross_attn.norm_k.weight" in state and "head.modulation" in state
    save_file(state, tmp_path / "original" / "diffusion_pytorch_model.safetensors")
    config = DiTConfig(**sizes()["dit"])
    made = convert_dit(tmp_path / "original", config, tmp_path, is_random=True)
    assert (tmp_path / "dit.safetensors").read_bytes() == (folder / "dit.safetensors").read_bytes()
    assert "audio_in.weight" in made.begun
    assert not [n for n in made.begun if re.match(r"blocks|video_|time_out|prompt_in", n)]
    (tmp_path / "strict").mkdir()
    with pytest.raises(ConversionFailed, match=r"audio_encoder\.0\.experts\.0\.0\.bias"):
        convert_dit(tmp_path / "original", config, tmp_path / "strict", is_random=False)
    assert not list((tmp_path / "strict").iterdir())


def test_the_manifest_of_the_full_size_is_the_papers() -> None:
    """Wan2.2-TI2V-5B and Qwen2.5-3B by their sizes, counted without making them."""
    bundle = load_manifest(Path("bundles/stage-5b"))
    with torch.device("meta"):
        dit = JointDiT(DiTConfig(**bundle.dit))
        conditioner = Conditioner(ConditionerConfig(**bundle.conditioner))

    def billions(module: torch.nn.Module) -> float:
        return sum(p.numel() for p in module.parameters()) / 1e9

    experts = sum(billions(block.experts[1]) for block in dit.blocks)
    assert 4.9 < billions(dit) - experts - billions(dit.audio_encoder) - billions(dit.audio_decoder) < 5.1
    assert 3.0 < billions(conditioner.body) + billions(conditioner.tokens) < 3.2
    assert bundle.chunk_seconds == 1.375 and bundle.geometry.video_shape == (48, 9, 32, 32)
