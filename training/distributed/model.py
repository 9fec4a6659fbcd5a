"""What is trained, as one module whose forward is the objective: that is the call that sharding hooks on to.

Models and losses are the pocket's own; here they get fused attention and, on an accelerator, their constants there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dit_worker.model.dit import Block, DiTConfig, JointDiT
from dit_worker.model.prompt import PromptEncoder, PromptEncoderConfig
from orchestrator_llm.model.causal_lm import Layer
from orchestrator_llm.model.conditioner import Conditioner, ConditionerConfig
from training.loop import Losses
from training.scenes import Scene
from training.train_audio import AudioModel, audio_losses
from training.train_joint import joint_losses
from training.windows import Window

LAYERS = (Block, Layer)
"""What is sharded, gathered and recomputed as a unit."""
PICTURE = re.compile(
    r"prompt\.|dit\.(video_|places|kinds|prompt_in|no_prompt|condition_to_video|blocks\.\d+\.(experts\.0|prompt)\.)"
)
"""Weights that only a picture needs: on sound alone they rest."""


class GivenStates(nn.Module):
    """Stands where a prompt encoder would: the states were made beforehand by a frozen text encoder."""

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """(B, S, P) -> the same, zero where mask (B, S) is False."""
        return states * mask[..., None]


class StageModel(AudioModel):
    """Conditioner, DiT and prompt encoder with torch's fused attention."""

    def __init__(self, conditioner: ConditionerConfig, dit: DiTConfig, prompt: PromptEncoderConfig | None) -> None:
        nn.Module.__init__(self)
        self.conditioner = Conditioner(conditioner)
        self.dit = JointDiT(dit)
        self.prompt = GivenStates() if prompt is None else PromptEncoder(prompt)  # type: ignore[assignment]

    @staticmethod
    def of(config: Mapping[str, Any]) -> StageModel:
        """The model of a manifest's `conditioner`, `dit` and, where it has words of its own, `prompt.encoder`."""
        reads = config.get("prompt") or {}
        prompt = None
        if reads.get("words"):
            sizes = {"words": len(reads["words"]), "max_words": reads["max_words"]}
            prompt = PromptEncoderConfig(**(reads["encoder"] | sizes))
        return StageModel(ConditionerConfig(**config["conditioner"]), DiTConfig(**config["dit"]), prompt)


class Objective(nn.Module):
    """Losses of a batch of windows (`speech`) or of scenes. The noise drawn is that of torch's generator.

    A share of the chunks is `unconditioned`.
    """

    def __init__(self, model: StageModel, is_speech: bool, unconditioned: float = 0.0) -> None:
        super().__init__()
        self.model, self.unconditioned = model, unconditioned
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(not (is_speech and PICTURE.match(name)))

    def forward(self, batch: Window | Scene) -> Losses:
        """Named losses, whose sum is minimised."""
        device = batch.clean.device if isinstance(batch, Window) else batch.video.device
        with torch.device(device):  # positions, masks and draws are made inside the models and losses
            share = self.unconditioned
            if isinstance(batch, Scene):
                losses = joint_losses(self.model, batch, unconditioned=share)
            else:
                losses = audio_losses(self.model, batch, unconditioned=share)
            # a batch may leave a weight unread (no prompt, short history); the processes still exchange its gradient
            unread = torch.stack([p.sum() for p in outside_layers(self) if p.requires_grad]).sum()
        return losses | {"audio": losses["audio"] + 0.0 * unread}


def outside_layers(module: nn.Module) -> Iterator[nn.Parameter]:
    """Parameters that belong to no layer."""
    yield from module.parameters(recurse=False)
    for child in module.children():
        if not isinstance(child, LAYERS):
            yield from outside_layers(child)


def to_device(batch: Any, device: torch.device) -> Any:  # noqa: ANN401  (tuples and dataclasses of tensors)
    """The same batch with its tensors on a device."""
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, tuple | list):
        moved = [to_device(x, device) for x in batch]
        return type(batch)(*moved) if hasattr(batch, "_fields") else type(batch)(moved)
    if is_dataclass(batch) and not isinstance(batch, type):
        return type(batch)(**{f.name: to_device(getattr(batch, f.name), device) for f in fields(batch)})
    return batch


def recompute_layers(module: nn.Module) -> None:
    """Gradient checkpointing: each layer keeps its inputs alone and is run again when its gradient is due."""
    for layer in module.modules():
        if isinstance(layer, LAYERS):
            layer.forward = _recomputed(layer.forward)  # type: ignore[method-assign]


def _recomputed(forward: Callable[..., Any]) -> Callable[..., Any]:
    def run(*arguments: Any, **options: Any) -> Any:  # noqa: ANN401  (whatever the layer takes)
        return checkpoint(forward, *arguments, use_reentrant=False, **options)

    return run
