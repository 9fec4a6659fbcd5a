"""How a worker computes: precision, attention, compilation, graphs. None of it changes what is meant to come out.

It knows no bundle and no session; the defaults are what a CPU needs.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import Literal

import torch

from dit_worker.engine.errors import BadDevice
from dit_worker.model.attention import Attention, Choice, choose_attention
from dit_worker.model.dit import JointDiT

_SHAPES = 32
"""Compilations of a block that are kept: blocks of condition, first and later steps, with and without a prompt."""
COMPILERS = ("g++", "clang++", "c++")
Precision = Literal["auto", "float32", "bfloat16"]


@dataclass(frozen=True, slots=True)
class Compute:
    """Choices of a worker's start."""

    precision: Precision = "auto"
    """Of weights and products; "auto" is bfloat16 on CUDA and float32 elsewhere."""
    is_autocast: bool = False
    """Make products in bfloat16 though weights are float32, where the device may."""
    attention: Choice = "auto"
    is_compiled: bool = False
    """Compile the transformer's blocks with `torch.compile`: the first chunks take minutes longer."""
    uses_graphs: bool = False
    """Capture a step of each shape as a CUDA graph and replay it."""

    def dtype(self, device: str) -> torch.dtype:
        """Precision of weights on a device."""
        if self.precision == "auto":
            return torch.bfloat16 if torch.device(device).type == "cuda" else torch.float32
        return torch.bfloat16 if self.precision == "bfloat16" else torch.float32

    def choose_attention(self, device: str) -> Attention:
        """The backend for that device and precision. Raises BadDevice when it cannot compute there."""
        products = torch.bfloat16 if self.is_autocast else self.dtype(device)
        try:
            return choose_attention(self.attention, device, products)
        except ValueError as error:
            raise BadDevice(str(error)) from error


def compile_blocks(dit: JointDiT, backend: str = "inductor") -> None:
    """Have each block compiled at its first call. They are alike, so one compilation of each shape serves all."""
    from torch._dynamo import config  # importing it takes seconds, which only who compiles should wait

    config.recompile_limit = max(config.recompile_limit, _SHAPES)
    for block in (*dit.audio_encoder, *dit.blocks, *dit.audio_decoder):
        block.compile(backend=backend)


def check_device(device: str, compute: Compute) -> None:
    """Raises BadDevice, saying why, for a device that is not there or cannot do what is asked of it."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch asserts that it was built for the device
        reason = str(error).partition("\n")[0]
        raise BadDevice(f"device {device!r} cannot be used: {reason}") from error
    if compute.is_compiled and not any(map(shutil.which, COMPILERS)):
        raise BadDevice("torch.compile needs a C++ compiler, and none is on the PATH")
    if compute.uses_graphs and compute.is_autocast:
        raise BadDevice("CUDA graphs cannot be used with autocast, whose copies of weights they would outlive")
    if compute.uses_graphs and torch.device(device).type != "cuda":
        raise BadDevice(f"CUDA graphs cannot be used on device {device!r}")
    compute.choose_attention(device)
