"""Array types at the engine's border and the one way between arrays and tensors.

Latents leave and enter the engine as float32 numpy arrays, without a batch axis; inside it they are tensors of batch
one. It knows no shapes.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Floats = npt.NDArray[np.float32]
Pixels = npt.NDArray[np.uint8]


def to_tensor(array: Floats) -> Tensor:
    """(...) -> (1, ...), a copy that the caller's array does not share, on the device in force."""
    return torch.tensor(array, dtype=torch.float32)[None]


def to_array(tensor: Tensor) -> Floats:
    """(1, ...) -> (...), a copy."""
    return np.array(tensor[0].detach().float().cpu().numpy(), dtype=np.float32, order="C")
