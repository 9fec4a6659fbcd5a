"""Text of a prompt to the states that the transformer reads.

The pocket's encoder knows a few hundred words and was learned with the transformer; the full size reads a pretrained
UMT5, as the body it begins from did. Either is a `PromptStates`. It knows no session and keeps nothing.
Letters: S tokens of a text, P width of the states.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from dit_worker.engine.errors import BadBundle
from dit_worker.model.prompt import PromptEncoder
from services.prompts import PromptWords


class PromptStates(Protocol):
    """A text encoder. Call it in the models' computing mode."""

    @property
    def width(self) -> int:
        """P."""

    def __call__(self, text: str) -> Tensor:
        """States (S, P) of a text, S = 0 for one in which there is nothing to read."""


class WordStates:
    """States by a word list and the bundle's own encoder. Unknown words are left out, words beyond the longest too."""

    def __init__(self, encoder: PromptEncoder, words: PromptWords) -> None:
        self._encoder = encoder
        self._words = words
        self.width = encoder.config.width

    def __call__(self, text: str) -> Tensor:
        ids = torch.tensor([self._words.read(text).ids[: self._encoder.config.max_words]], dtype=torch.long)
        states: Tensor = self._encoder(ids, torch.ones_like(ids, dtype=torch.bool))[0]
        return states


class Umt5States:
    """States by a UMT5 encoder and its tokenizer, both in one folder as transformers writes them."""

    def __init__(self, folder: Path, max_tokens: int, device: str = "cpu", dtype: torch.dtype = torch.float32) -> None:
        """Reads the folder only; `dtype` is the weights'.

        Raises BadBundle when it does not hold them or transformers is not installed.
        """
        try:
            from transformers import AutoTokenizer, UMT5EncoderModel
        except ImportError as error:
            raise BadBundle("this bundle's prompts are read by UMT5, which needs: pip install transformers") from error
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            encoder: Any = UMT5EncoderModel.from_pretrained(
                folder, local_files_only=True, use_safetensors=True, dtype=dtype
            )
        except (OSError, ValueError) as error:
            raise BadBundle(f"{folder.name} holds no UMT5 encoder: {str(error).partition(chr(10))[0]}") from error
        self._encoder = encoder.to(device).eval().requires_grad_(False)
        self._max_tokens, self._device = max_tokens, device
        self.width = int(encoder.config.d_model)

    def __call__(self, text: str) -> Tensor:
        if not text:
            return torch.zeros(0, self.width, device=self._device)
        tokens = self._tokenizer(text, truncation=True, max_length=self._max_tokens)["input_ids"]
        states: Tensor = self._encoder(torch.tensor([tokens], device=self._device)).last_hidden_state[0]
        return states.float()
