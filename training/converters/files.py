"""Safetensors in and out in bounded memory: one tensor at a time is held, whatever the size of the files.

Knows names, shapes and bytes, nothing of models.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from hashlib import file_digest
from pathlib import Path
from typing import Self

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

DTYPE, DTYPE_NAME = torch.bfloat16, "BF16"


class ConversionFailed(ValueError):
    """A checkpoint cannot be converted; the message says what it lacks or has too much of."""


def read_tensors(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of a folder's safetensors, file by file. Raises ConversionFailed."""
    paths = sorted(folder.glob("*.safetensors"))
    if not paths:
        raise ConversionFailed(f"there are no safetensors in {folder}")
    for path in paths:
        try:
            with safe_open(path, "pt") as file:
                for name in file.keys():  # noqa: SIM118  (it is no mapping)
                    yield name, file.get_tensor(name)
        except (OSError, SafetensorError) as fault:
            raise ConversionFailed(f"{path} cannot be read: {fault}") from fault


class StreamedFile:
    """One safetensors file in bfloat16 whose tensors are written in any order, each to its own place."""

    def __init__(self, path: Path, shapes: Mapping[str, torch.Size]) -> None:
        self.path, self.shapes = path, shapes
        self.offsets: dict[str, int] = {}
        header, offset = {}, 0
        for name, shape in shapes.items():
            size = shape.numel() * DTYPE.itemsize
            header[name] = {"dtype": DTYPE_NAME, "shape": list(shape), "data_offsets": [offset, offset + size]}
            self.offsets[name], offset = offset, offset + size
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        self.begin = 8 + len(text)
        self.partial = path.with_suffix(".partial")
        self.file = self.partial.open("wb")
        self.file.write(len(text).to_bytes(8, "little") + text)
        self.file.truncate(self.begin + offset)
        self.missing = set(shapes)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *fault: object) -> None:
        """Leaves nothing of a file that was not ended."""
        if not self.file.closed:
            self.file.close()
            self.partial.unlink()

    def put(self, name: str, tensor: Tensor) -> None:
        """Writes one tensor. Raises ConversionFailed for a name or a shape the model has not."""
        if name not in self.shapes:
            raise ConversionFailed(f"the model has no {name}")
        if tensor.shape != self.shapes[name]:
            raise ConversionFailed(f"{name} is {tuple(tensor.shape)}, the model has {tuple(self.shapes[name])}")
        self.file.seek(self.begin + self.offsets[name])
        self.file.write(tensor.detach().to(DTYPE).contiguous().view(-1).view(torch.uint8).numpy().data)
        self.missing.discard(name)

    def close(self) -> str:
        """Ends the file, which appears now, and returns its SHA-256."""
        assert not self.missing, "every weight is written before the file is closed"
        self.file.close()
        self.partial.rename(self.path)
        with self.path.open("rb") as file:
            return file_digest(file, "sha256").hexdigest()
