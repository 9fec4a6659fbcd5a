"""The conditioner as vLLM runs it: our embeddings and heads around vLLM's own Qwen2 body.

vLLM owns batching, keys and values; this owns what goes in and what is read off at the end. Weights are the bundle's
`conditioner.safetensors` under their own names, and the language model's head where it has one of its own. To vLLM the
vocabulary is the language model's: the conditioner's without the special tokens that it begins with. Nothing here
raises once the model is loaded, since an exception would end the pass for all sessions: an item that cannot be embedded
becomes rows that are no numbers, and so does the answer to the step that brought it. n rows of an item, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from vllm.config import VllmConfig
from vllm.logger import init_logger
from vllm.model_executor.layers.logits_processor import LogitsProcessor
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead
from vllm.model_executor.models.interfaces import SupportsMultiModal
from vllm.model_executor.models.qwen2 import Qwen2Model
from vllm.model_executor.models.utils import AutoWeightsLoader, maybe_prefix
from vllm.multimodal import MULTIMODAL_REGISTRY

from orchestrator_llm.model.conditioner import ConditionerConfig, ConditionerShell
from orchestrator_llm.model.text import FIRST_PHONE
from orchestrator_llm.vllm_plugin.attention import layer_type
from orchestrator_llm.vllm_plugin.items import Role
from orchestrator_llm.vllm_plugin.processing import Dummies, Info, Processor

log = init_logger(__name__)
SPECIAL_TOKENS = FIRST_PHONE
HEAD = "lm_head.weight"
"""The name of a head that scores tokens by other weights than those that embed them."""


class Tokens(nn.Module):
    """Embeds ids of the conditioner's vocabulary: its special tokens by rows of its own, the others by the body's."""

    def __init__(self, words: nn.Module, width: int) -> None:
        super().__init__()
        self.words = words
        self.special = nn.Parameter(torch.empty(SPECIAL_TOKENS, width))

    def forward(self, ids: Tensor) -> Tensor:
        """Ids of any shape -> (..., D)."""
        words = self.words((ids - SPECIAL_TOKENS).clamp(min=0))
        special = self.special[ids.clamp(max=SPECIAL_TOKENS - 1)]
        return torch.where((ids < SPECIAL_TOKENS)[..., None], special, words)


@MULTIMODAL_REGISTRY.register_processor(Processor, info=Info, dummy_inputs=Dummies)
class HostedConditioner(nn.Module, SupportsMultiModal):
    """Embeddings, body, pointer and projection; tokens are scored by the embedding that reads them, or by a head."""

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        super().__init__()
        config = vllm_config.model_config.hf_config
        self.body = Qwen2Model(
            vllm_config=vllm_config, prefix=maybe_prefix(prefix, "body"), decoder_layer_type=layer_type(config)
        )
        tokens = Tokens(self.body.embed_tokens, config.hidden_size)
        self.shell = ConditionerShell(ConditionerConfig(**config.conditioner), tokens)
        self.head = None
        if not config.tie_word_embeddings:
            self.head = ParallelLMHead(config.vocab_size, config.hidden_size, prefix=maybe_prefix(prefix, "head"))
        self.logits_processor = LogitsProcessor(config.vocab_size)

    @classmethod
    def get_placeholder_str(cls, modality: str, i: int) -> str | None:
        """None: prompts are made of ids, never of text."""
        return None

    def embed_multimodal(self, **fields: Any) -> list[Tensor]:
        """Items (n, D) in order: of words where `ids` came, else of latents."""
        if "ids" in fields:
            return [self._embedded(self.shell.embed_text, ids) for ids in fields["ids"]]
        roles, times = fields["role"].flatten().tolist(), fields["time"].flatten().float()
        return [
            self._embedded(partial(self._embed_latents, role=role, time=time[None]), frames)
            for frames, role, time in zip(fields["frames"], roles, times, strict=True)
        ]

    def _embedded(self, embed: Callable[[Tensor], Tensor], values: Tensor) -> Tensor:
        """One item (n, ...) -> (n, D)."""
        try:
            return embed(values[None])[0]
        except Exception:
            log.exception("an item could not be embedded")
            weight = self.shell.reference_in.weight
            return weight.new_full((len(values), weight.shape[0]), torch.nan)

    def _embed_latents(self, frames: Tensor, role: int, time: Tensor) -> Tensor:
        shell = self.shell
        frames = frames.to(shell.reference_in.weight.dtype)
        match Role(role):
            case Role.REFERENCE:
                return shell.embed_reference(frames)
            case Role.OLDER:
                return shell.embed_older(frames)
            case Role.NOISY:
                return shell.embed_noisy(frames, time)
            case _:
                mask = torch.full(frames.shape[:2], float(role == Role.NEWEST), device=frames.device)
                return shell.embed_history(frames, mask)

    def embed_input_ids(
        self,
        input_ids: Tensor,
        multimodal_embeddings: Any = None,
        *,
        is_multimodal: Tensor | None = None,
    ) -> Tensor:
        """Rows (tokens, D): those of items where items stand, embedded token ids elsewhere."""
        embedded = self.body.embed_input_ids(input_ids)
        if multimodal_embeddings is None or not len(multimodal_embeddings) or is_multimodal is None:
            return embedded
        embedded[is_multimodal] = torch.cat(list(multimodal_embeddings)).to(embedded.dtype)
        return embedded

    def forward(
        self,
        input_ids: Tensor | None,
        positions: Tensor,
        intermediate_tensors: Any = None,
        inputs_embeds: Tensor | None = None,
        **_: Any,
    ) -> Any:
        """Final states (tokens, D)."""
        return self.body(input_ids, positions, intermediate_tensors, inputs_embeds)

    def compute_logits(self, hidden_states: Tensor) -> Tensor | None:
        """Scores of the next token (tokens, vocabulary)."""
        head = self.body.embed_tokens if self.head is None else self.head
        return self.logits_processor(head, hidden_states)

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        """Takes the bundle's weights; a name that does not fit ends the load."""
        loaded: set[str] = AutoWeightsLoader(self).load_weights(_placed(weights))
        return loaded


def _placed(weights: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """Names in a bundle, which are those of `Conditioner`, as names here."""
    for name, weight in weights:
        if name == "tokens.weight":
            yield "shell.tokens.special", weight[:SPECIAL_TOKENS]
            yield "body.embed_tokens.weight", weight[SPECIAL_TOKENS:]
        elif name == HEAD:
            yield "head.weight", weight
        else:
            yield name if name.startswith("body.") else f"shell.{name}", weight
