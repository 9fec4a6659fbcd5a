"""Arrays as bytes, dtype and shape. What a peer sends is checked before it is believed."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from cuelight.v1.types_pb2 import Tensor
from services.errors import InvalidInput
from services.session import Latents

DTYPE = "float32"
MOST_AXES = 8
MOST_ELEMENTS = 2 * 1024 * 1024
"""8 MiB of float32: no message is longer."""


def tensor_to_proto(array: Latents) -> Tensor:
    """Return the message of a float32 array, row-major and little-endian."""
    assert array.dtype == np.float32, f"a tensor on the wire is float32, not {array.dtype}"
    return Tensor(data=np.asarray(array, dtype="<f4", order="C").tobytes(), dtype=DTYPE, shape=array.shape)


def tensor_from_proto(
    message: Tensor, *, expect_shape: Sequence[int | None] | None = None, field: str = "tensor"
) -> Latents:
    """Return a writable array. Raises InvalidInput, which names `field`.

    `expect_shape` gives each axis's length, None for any. Values must be finite.
    """
    shape = tuple(message.shape)
    if message.dtype != DTYPE:
        raise InvalidInput(f"{field} must be {DTYPE}, not {message.dtype[:32]!r}", field=f"{field}.dtype")
    if len(shape) > MOST_AXES or math.prod(shape) > MOST_ELEMENTS:
        raise InvalidInput(f"{field} is too large", field=f"{field}.shape")
    if expect_shape is not None and not _fits(shape, expect_shape):
        wanted = ", ".join("any" if length is None else str(length) for length in expect_shape)
        raise InvalidInput(f"{field} must have shape ({wanted}), not {shape}", field=f"{field}.shape")
    if len(message.data) != 4 * math.prod(shape):
        raise InvalidInput(f"{field} has {len(message.data)} bytes for shape {shape}", field=f"{field}.data")
    array = np.frombuffer(message.data, dtype="<f4").reshape(shape).astype(np.float32)
    if not np.isfinite(array).all():
        raise InvalidInput(f"{field} holds values that are not finite", field=f"{field}.data")
    return array


def _fits(shape: Sequence[int], expected: Sequence[int | None]) -> bool:
    return len(shape) == len(expected) and all(
        length is None or length == found for found, length in zip(shape, expected, strict=True)
    )
