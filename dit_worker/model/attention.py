"""Attention: one function, several backends, chosen by name.

    sdpa    torch's fused kernels, everywhere and with any mask
    flash   the package `flash-attn`, on CUDA and in half precision; what has a mask goes to `sdpa`
    plain   three products, whose gradient is the fastest on a CPU, so what the pocket is trained with

A causal order is a mask like any other. It knows no tokens, caches or weights.
B batch, H heads, L queries, P keys, K head width.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Attention = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]
"""Queries (B, H, L, K), keys and values (B, H, P, K) and a mask that broadcasts to (B, H, L, P), True where a query may
look, to (B, H, L, K). Each backend agrees with the others within what its precision rounds off."""
Choice = Literal["auto", "sdpa", "flash", "plain"]
FlashKernel = Callable[[Tensor, Tensor, Tensor], Tensor]
"""`flash_attn_func`: queries (B, L, H, K), keys and values (B, P, H, K), in half precision, to (B, L, H, K)."""


def fused_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    """Torch's own kernels."""
    return F.scaled_dot_product_attention(query, key, value, mask)


def plain_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attention in three products: on a CPU its gradient is half again as fast as the fused kernel's."""
    logits = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
    if mask is not None:
        logits = logits.masked_fill(~mask, -math.inf)
    return logits.softmax(-1).to(value.dtype) @ value


def flash_attention(kernel: FlashKernel) -> Attention:
    """The attention of a kernel that takes tokens before heads, no mask and nothing but half precision."""

    def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        if mask is not None:
            return fused_attention(query, key, value, mask)
        # Norms leave float32 where products leave half precision (autocast): the values' precision is the products'.
        tokens_first = (x.to(value.dtype).transpose(1, 2) for x in (query, key, value))
        return kernel(*tokens_first).transpose(1, 2)

    return attend


def why_not_flash(device: str, dtype: torch.dtype) -> str:
    """What keeps `flash` from computing in `dtype` on `device`, "" when nothing does."""
    if torch.device(device).type != "cuda":
        return f"it computes on CUDA devices, not on {device!r}"
    if dtype not in (torch.bfloat16, torch.float16):
        return f"it computes in half precision, not in {str(dtype).removeprefix('torch.')}"
    if importlib.util.find_spec("flash_attn") is None:
        return "it needs: pip install 'cuelight-server[cuda]'"
    if torch.cuda.get_device_capability(device) < (8, 0):
        return "it needs a GPU of the Ampere generation or newer"
    return ""


def choose_attention(choice: Choice, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Attention:
    """The backend of a name; "auto" is `flash` where it can compute, else `sdpa`.

    Raises ValueError, saying why, when the one that is asked for cannot compute here.
    """
    if choice == "auto":
        choice = "sdpa" if why_not_flash(device, dtype) else "flash"
    if choice != "flash":
        return plain_attention if choice == "plain" else fused_attention
    if reason := why_not_flash(device, dtype):
        raise ValueError(f"attention 'flash' cannot be used: {reason}")
    from flash_attn import flash_attn_func

    return flash_attention(flash_attn_func)
