"""Layers of the body whose heads are as wide as the attention kernels want them.

vLLM's CPU kernels have heads of 32, 64, 80, ... channels; the pocket's have 48. Queries, keys and values are filled up
with zeros, which change no product, and the scale stays that of the true width. It knows no embeddings and no requests.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from vllm.config import CacheConfig
from vllm.distributed import get_tensor_model_parallel_world_size
from vllm.model_executor.layers.attention import Attention
from vllm.model_executor.layers.layernorm import RMSNorm
from vllm.model_executor.layers.linear import QKVParallelLinear, RowParallelLinear
from vllm.model_executor.layers.quantization import QuantizationConfig
from vllm.model_executor.layers.rotary_embedding import get_rope
from vllm.model_executor.models.qwen2 import Qwen2DecoderLayer, Qwen2MLP
from vllm.platforms import current_platform


def hosted_width(width: int) -> int:
    """The narrowest head that this platform's kernels have and that holds `width` channels. Raises ValueError."""
    if not current_platform.is_cpu():
        return width
    from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend

    wide_enough = [size for size in CPUAttentionBackend.get_supported_head_sizes() if size >= width]
    if not wide_enough:
        raise ValueError(f"heads of {width} channels are wider than any that vLLM's attention has on a CPU")
    return min(wide_enough)


class PaddedAttention(nn.Module):
    """Qwen2's attention with its heads filled up to `hosted_width`."""

    def __init__(self, config: Any, cache: CacheConfig | None, quant: QuantizationConfig | None, prefix: str) -> None:
        super().__init__()
        self.width = config.hidden_size // config.num_attention_heads
        self.padding = hosted_width(self.width) - self.width
        heads, groups = config.num_attention_heads, config.num_key_value_heads
        self.qkv_proj = QKVParallelLinear(
            config.hidden_size, self.width, heads, groups, bias=True, quant_config=quant, prefix=f"{prefix}.qkv_proj"
        )
        self.o_proj = RowParallelLinear(
            heads * self.width, config.hidden_size, bias=False, quant_config=quant, prefix=f"{prefix}.o_proj"
        )
        self.rotary_emb = get_rope(
            self.width, max_position=config.max_position_embeddings, rope_parameters=config.rope_parameters
        )
        ranks = get_tensor_model_parallel_world_size()
        self.heads, self.groups = heads // ranks, max(1, groups // ranks)
        self.attn = Attention(
            self.heads,
            self.width + self.padding,
            self.width**-0.5,
            num_kv_heads=self.groups,
            cache_config=cache,
            quant_config=quant,
            prefix=f"{prefix}.attn",
        )

    def forward(self, positions: Tensor, hidden_states: Tensor) -> Tensor:
        """hidden_states (tokens, D), their positions (tokens,) -> (tokens, D)."""
        qkv, _ = self.qkv_proj(hidden_states)
        sizes = [self.heads * self.width, self.groups * self.width, self.groups * self.width]
        query, key, value = qkv.split(sizes, dim=-1)
        query, key = self.rotary_emb(positions, query.contiguous(), key.contiguous())
        out = self.attn(*(self._filled(x) for x in (query, key, value)))
        out = out.unflatten(-1, (self.heads, -1))[..., : self.width].flatten(-2)
        return self.o_proj(out.contiguous())[0]

    def _filled(self, x: Tensor) -> Tensor:
        return F.pad(x.unflatten(-1, (-1, self.width)), (0, self.padding)).flatten(-2)


class PaddedLayer(Qwen2DecoderLayer):
    """Qwen2's layer with that attention."""

    def __init__(
        self,
        config: Any,
        cache_config: CacheConfig | None = None,
        quant_config: QuantizationConfig | None = None,
        prefix: str = "",
    ) -> None:
        nn.Module.__init__(self)
        self.hidden_size = config.hidden_size
        self.self_attn = PaddedAttention(config, cache_config, quant_config, f"{prefix}.self_attn")
        self.mlp = Qwen2MLP(
            config.hidden_size,
            config.intermediate_size,
            config.hidden_act,
            quant_config=quant_config,
            prefix=f"{prefix}.mlp",
        )
        self.input_layernorm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)


def layer_type(config: Any) -> type[nn.Module]:
    """The plain layer where the kernels have the body's heads as they are, else the padded one."""
    width = config.hidden_size // config.num_attention_heads
    return Qwen2DecoderLayer if hosted_width(width) == width else PaddedLayer
