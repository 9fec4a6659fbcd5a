"""Sharding by accelerate's FSDP 2, the moving average of sharded weights, and tensors whole again.

The same code runs sharded on accelerators, sharded over gloo on CPUs, and whole in one process.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from accelerate import Accelerator, FullyShardedDataParallelPlugin
from accelerate.utils import DistributedType
from accelerate.utils.fsdp_utils import fsdp2_prepare_model
from torch import Tensor, nn
from torch.distributed.fsdp import MixedPrecisionPolicy, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

from dit_worker.model.dit import Block
from training.distributed.model import LAYERS
from training.distributed.recipe import RecipeInvalid


def sharding_plugin(path: Path, mixed_precision: str) -> FullyShardedDataParallelPlugin:
    """FSDP as accelerate's configuration file has it. Raises RecipeInvalid."""
    try:
        config: Mapping[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))["fsdp_config"]
        names = [name.strip() for name in config["fsdp_transformer_layer_cls_to_wrap"].split(",")]
        if config["fsdp_version"] != 2 or sorted(names) != sorted(layer.__name__ for layer in LAYERS):
            raise RecipeInvalid(f"{path}: fsdp_version is 2 and the layers to wrap are Block and Layer")
        reshard, offload = bool(config["fsdp_reshard_after_forward"]), bool(config["fsdp_offload_params"])
    except (OSError, yaml.YAMLError, KeyError, TypeError, AttributeError) as fault:
        raise RecipeInvalid(f"{path} is not a configuration of accelerate with FSDP: {fault!r}") from fault
    low = mixed_precision == "bf16"
    # Inputs stay as they are: targets and positions do not survive bfloat16, and autocast casts where it must.
    policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False) if low else None
    return FullyShardedDataParallelPlugin(
        fsdp_version=2,
        auto_wrap_policy="transformer_based_wrap",
        transformer_cls_names_to_wrap=names,
        reshard_after_forward=reshard,
        cpu_offload=offload,
        mixed_precision_policy=policy,
        cpu_ram_efficient_loading=False,
    )


def make_accelerator(sharding: Path, mixed_precision: str, accumulation: int) -> Accelerator:
    """This process among those that train."""
    plugin = sharding_plugin(sharding, mixed_precision)
    accelerator = Accelerator(
        gradient_accumulation_steps=accumulation,
        mixed_precision=mixed_precision,
        fsdp_plugin=plugin,
        cpu=not torch.cuda.is_available(),
    )
    if accelerator.distributed_type == DistributedType.MULTI_CPU:
        # accelerate shards on accelerators only; told so, it walks the same path over gloo, and that is what is tested
        accelerator.state.fsdp_plugin = plugin
        accelerator.state.distributed_type = DistributedType.FSDP
    return accelerator


def shard(accelerator: Accelerator, module: nn.Module, is_meta: bool) -> nn.Module:
    """Spreads a module over the processes; a module on the meta device gets memory, but no values, afterwards."""
    if accelerator.distributed_type == DistributedType.FSDP:
        module = fsdp2_prepare_model(accelerator, module)
        for layer in module.modules():
            if isinstance(layer, Block):  # entered by these too, when condition tokens and prompts are encoded
                for method in ("keys_values", "words"):
                    register_fsdp_forward_method(layer, method)
    if is_meta:
        module.to_empty(device=accelerator.device)
    return module.to(accelerator.device)


def local(tensor: Tensor) -> Tensor:
    """This process's part of a tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor, on the CPU; every process has to ask."""
    full = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return full.detach().cpu()


@torch.no_grad()
def fill(tensor: Tensor, full: Tensor) -> None:
    """Puts a whole tensor's values into this process's part."""
    if isinstance(tensor, DTensor):
        part = distribute_tensor(full.to(tensor.device), tensor.device_mesh, tensor.placements, src_data_rank=None)
        local(tensor).copy_(part.to_local())
    else:
        tensor.copy_(full)


class Average:
    """Exponential moving average of the parameters, in float32, each process keeping its own part."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.tensors = {name: p.detach().clone() for name, p in module.named_parameters()}

    @torch.no_grad()
    def follow(self, module: nn.Module, step: int) -> None:
        """Moves towards the weights after step `step`; faster in the beginning, when there is little to remember."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, parameter in module.named_parameters():
            local(self.tensors[name]).lerp_(local(parameter), 1 - decay)
