"""Weights of one model carried over to another of other sizes: what was learned of words is worth keeping when the
audio latents, the history or the reference change.

Old latents are an affine map of new ones (both are projections of the same log-mels), so layers that read latents are
multiplied through; what has no counterpart starts as the new model initialised it.
C latent channels of the new codec, O of the old one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from dit_worker.model.codec import AudioCodec

READS_LATENTS = ("reference_in", "history_in", "noisy_in", "audio_in", "audio_motion_in")
WRITES_LATENTS = ("audio_out",)


class LatentMap(NamedTuple):
    """old = new @ matrix + shift, and roughly new = old @ back: (C, O), (O,), (O, C)."""

    matrix: Tensor
    shift: Tensor
    back: Tensor


def latent_map(old: AudioCodec, new: AudioCodec) -> LatentMap:
    """How latents of one codec are told in another's."""
    overlap = new.basis.T @ old.basis
    matrix = new.scale[:, None] * overlap / old.scale
    shift = (new.mean - old.mean) @ old.basis / old.scale
    return LatentMap(matrix, shift, old.scale[:, None] * overlap.T / new.scale)


def carry_over(old: Mapping[str, Tensor], fresh: Mapping[str, Tensor], latents: LatentMap | None) -> dict[str, Tensor]:
    """A full state for the new model: old weights where they fit or can be told anew, fresh ones elsewhere."""
    state = {name: value.detach().clone() for name, value in fresh.items()}
    if latents is not None:
        old = dict(old) | _through(old, latents)
    for name, value in old.items():
        if name not in state:
            continue
        if state[name].shape == value.shape:
            state[name] = value.clone()
        elif value.ndim == state[name].ndim and value.shape[1:] == state[name].shape[1:]:
            state[name] = _stretch(value, len(state[name]))
    return state


def _through(old: Mapping[str, Tensor], latents: LatentMap) -> dict[str, Tensor]:
    changed: dict[str, Tensor] = {}
    for name, weight in old.items():
        layer = name.removesuffix(".weight").rsplit(".", 1)[-1]
        if not name.endswith(".weight") or layer not in READS_LATENTS + WRITES_LATENTS:
            continue
        bias = name.removesuffix("weight") + "bias"
        if layer in READS_LATENTS:
            changed[name], changed[bias] = weight @ latents.matrix.T, old[bias] + weight @ latents.shift
        else:
            changed[name], changed[bias] = latents.back.T @ weight, latents.back.T @ old[bias]
    return changed


def _stretch(table: Tensor, count: int) -> Tensor:
    """Rows of a table of places, the last ones kept in place and the first repeated before them."""
    if count <= len(table):
        return table[len(table) - count :].clone()
    return torch.cat([table[:1].expand(count - len(table), *table.shape[1:]), table])
