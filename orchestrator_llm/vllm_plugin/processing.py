"""Declares the conditioner's two modalities to vLLM: how many items there may be, and how long one is at most.

Prompts come ready made (`items.prompt`), so there is nothing to process and no tokenizer, and profiling with dummies is
switched off: embedding an item takes a few rows of memory. It knows the sizes in `config.json`, not what items mean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import BatchFeature
from vllm.multimodal.inputs import MultiModalFieldConfig
from vllm.multimodal.processing import (
    BaseDummyInputsBuilder,
    BaseMultiModalProcessor,
    BaseProcessingInfo,
    PromptUpdate,
)

from orchestrator_llm.vllm_plugin.items import FIELDS, LATENTS, WORDS


class Info(BaseProcessingInfo):
    """Limits of the two modalities."""

    def get_supported_mm_limits(self) -> Mapping[str, int | None]:
        return {LATENTS: None, WORDS: 1}

    def get_mm_max_tokens_per_item(self, seq_len: int, mm_counts: Mapping[str, int]) -> Mapping[str, int]:
        config = self.get_hf_config()
        return {LATENTS: min(seq_len, config.longest_latents), WORDS: min(seq_len, config.longest_words)}


class Dummies(BaseDummyInputsBuilder[Info]):
    """None are needed."""

    def get_dummy_text(self, mm_counts: Mapping[str, int]) -> str:
        return ""

    def get_dummy_mm_data(self, seq_len: int, mm_counts: Mapping[str, int], mm_options: Any) -> dict[str, Any]:
        return {}


class Processor(BaseMultiModalProcessor[Info]):
    """Has no work."""

    requires_tokenizer = False

    def _get_mm_fields_config(
        self, hf_inputs: BatchFeature, hf_processor_mm_kwargs: Mapping[str, object]
    ) -> Mapping[str, MultiModalFieldConfig]:
        return FIELDS

    def _get_prompt_updates(
        self, mm_items: Any, hf_processor_mm_kwargs: Mapping[str, Any], out_mm_kwargs: Any
    ) -> Sequence[PromptUpdate]:
        return []
