"""Starts the vLLM engine that hosts a bundle's conditioner, or says why it cannot.

Where the bundle keeps its conditioner's language model, the same engine writes text by the same weights, and steps go
before text. It knows how vLLM is set up, and nothing of prompts and steps.
"""

from __future__ import annotations

import importlib.util
import json
import os
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from orchestrator_llm.engine.errors import BackendMissing
from orchestrator_llm.engine.loading import WEIGHTS, LanguageModel, language_model
from orchestrator_llm.engine.writing import MOST_TOKENS
from orchestrator_llm.model.causal_lm import BodyConfig
from orchestrator_llm.model.conditioner import ConditionerConfig
from orchestrator_llm.model.text import FIRST_PHONE
from services.bundle import Bundle
from services.errors import BundleInvalid

CPU_BLOCK, GPU_BLOCK = 32, 16
"""Rows of one block of the prefix cache: the fewest that vLLM has there."""
WIDEST_HEAD = 256
WRITERS = 8
"""Questions that are answered at the same time; others wait."""
STRUCTURED_OUTPUT = {"backend": "xgrammar", "disable_any_whitespace": True}
QUIET = {
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
    "VLLM_USE_V2_MODEL_RUNNER": "0",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",
    "VLLM_LOGGING_LEVEL": "ERROR",
}
"""What vLLM reads from the environment: it sends nothing away, fetches nothing, stays off standard output and in this
process; its first model runner is the one that `vllm_plugin.worker` extends. What is set already is left as it is."""


@dataclass(frozen=True, slots=True)
class VllmOptions:
    """How the engine is set up."""

    threads: int = 1
    bfloat16: bool = False
    device: str = "cpu"
    sessions: int = 64
    """Sessions to have room for."""
    rows_per_pass: int = 2048
    """Rows that one pass of the model computes at most; longer prompts take several."""


def longest_prompt(config: ConditionerConfig) -> int:
    """Rows of the longest prompt: reference, text, history and tail."""
    history = max(1, config.history_chunks) * config.chunk_frames
    return config.reference_frames + longest_words(config) + history + config.chunk_frames


def longest_words(config: ConditionerConfig) -> int:
    """Token ids of the longest text block."""
    return config.text_slots + config.earlier_slots(config.history_chunks)


def start_engine(bundle: Bundle, config: ConditionerConfig, options: VllmOptions) -> Any:
    """An `LLMEngine` in this process. Raises BackendMissing without vLLM, BundleInvalid for what it cannot host."""
    _check_hostable(config)
    writes = language_model(bundle)
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    if importlib.util.find_spec("vllm") is None:
        raise BackendMissing("vllm is not installed here; run `make vllm-env` and start with .venv-vllm/bin/python")
    from vllm.config import VllmConfig
    from vllm.engine.arg_utils import EngineArgs
    from vllm.v1.engine.llm_engine import LLMEngine
    from vllm.v1.executor import Executor

    from orchestrator_llm.vllm_plugin import register

    torch.set_num_threads(options.threads)
    register()
    with tempfile.TemporaryDirectory(prefix="cuelight-vllm-") as folder:
        _describe(bundle, config, writes, Path(folder), texts_kept=2 * options.sessions)
        try:
            arguments = _arguments(config, options, folder) | _writing(config, options, writes)
            settings: VllmConfig = EngineArgs(**arguments).create_engine_config()
            return LLMEngine(settings, Executor.get_class(settings), log_stats=False, multiprocess_mode=False)
        except (KeyError, ValueError, RuntimeError, OSError) as fault:
            raise BundleInvalid(f"vLLM cannot host this conditioner: {fault}") from fault


def _check_hostable(config: ConditionerConfig) -> None:
    """Refuses what vLLM's attention cannot express."""
    body = BodyConfig(**config.body)
    head = body.hidden_size // body.num_attention_heads
    if head > WIDEST_HEAD or head % 2:
        raise BundleInvalid(
            f"the conditioner's heads have {head} channels; vLLM's attention has even numbers up to {WIDEST_HEAD}"
        )
    if config.history_frames % config.chunk_frames:
        raise BundleInvalid(
            f"history_frames {config.history_frames} is not whole chunks of {config.chunk_frames} frames; in vLLM each "
            "chunk of history is an item of its own"
        )


def _describe(
    bundle: Bundle, config: ConditionerConfig, writes: LanguageModel | None, folder: Path, *, texts_kept: int
) -> None:
    """Writes the `config.json` that vLLM reads beside the bundle's weights, which are linked, not copied."""
    if WEIGHTS not in bundle.manifest.files:
        raise BundleInvalid(f"the manifest lists no {WEIGHTS}")
    from orchestrator_llm.vllm_plugin import ARCHITECTURE

    body = BodyConfig(**config.body)
    described = {
        **asdict(body),
        "rope_parameters": {"rope_type": "default", "rope_theta": body.rope_theta},
        "architectures": [ARCHITECTURE],
        "model_type": "qwen2",
        "hidden_act": "silu",
        "vocab_size": config.vocabulary - FIRST_PHONE,
        "tie_word_embeddings": writes is None or not writes.has_head,
        "max_position_embeddings": max(longest_prompt(config) + 1, MOST_TOKENS),
        "conditioner": asdict(config),
        "longest_latents": max(config.reference_frames, config.chunk_frames),
        "longest_words": longest_words(config),
        "texts_kept": texts_kept,
    }
    (folder / "config.json").write_text(json.dumps(described))
    (folder / "model.safetensors").symlink_to(bundle.file(WEIGHTS).resolve())
    for path in () if writes is None else writes.files:
        (folder / path.name).symlink_to(path.resolve())


def _arguments(config: ConditionerConfig, options: VllmOptions, folder: str) -> dict[str, Any]:
    on_cpu = options.device == "cpu"
    block = CPU_BLOCK if on_cpu else GPU_BLOCK
    rows = block * (longest_prompt(config) // block + 2)
    worker = "worker_cpu.AnsweringCPUWorker" if on_cpu else "worker_cuda.AnsweringGPUWorker"
    return {
        "model": folder,
        "runner": "generate",
        "skip_tokenizer_init": True,
        "load_format": "safetensors",
        "use_tqdm_on_load": False,
        "dtype": "bfloat16" if options.bfloat16 else "float32",
        "max_model_len": longest_prompt(config) + 1,
        "block_size": block,
        "enable_prefix_caching": True,
        "kv_cache_memory_bytes": 2 * options.sessions * rows * _bytes_per_row(config, options),
        "max_num_seqs": options.sessions,
        "max_num_batched_tokens": options.rows_per_pass,
        "enable_chunked_prefill": True,
        "async_scheduling": False,
        "enforce_eager": on_cpu,
        "worker_cls": f"orchestrator_llm.vllm_plugin.{worker}",
        "mm_processor_cache_gb": 0,
        "limit_mm_per_prompt": {"latents": config.history_chunks + 2, "words": 1},
        "skip_mm_profiling": True,
        "disable_log_stats": True,
    }


def _writing(config: ConditionerConfig, options: VllmOptions, writes: LanguageModel | None) -> dict[str, Any]:
    """What is otherwise where the engine writes too: room for texts, and passes that texts do not make long."""
    if writes is None:
        return {}
    steps, texts = _arguments(config, options, ""), WRITERS * MOST_TOKENS * _bytes_per_row(config, options)
    return {
        "skip_tokenizer_init": False,
        "max_model_len": max(steps["max_model_len"], MOST_TOKENS),
        "kv_cache_memory_bytes": steps["kv_cache_memory_bytes"] + texts,
        "max_num_seqs": options.sessions + WRITERS,
        "long_prefill_token_threshold": longest_prompt(config),
        "scheduling_policy": "priority",
        "structured_outputs_config": STRUCTURED_OUTPUT,
    }


def _bytes_per_row(config: ConditionerConfig, options: VllmOptions) -> int:
    """Keys and values of one row in all layers; a head takes up to twice its width where kernels want it so."""
    body = BodyConfig(**config.body)
    head = max(32, 2 * (body.hidden_size // body.num_attention_heads))
    return 2 * body.num_hidden_layers * body.num_key_value_heads * head * (2 if options.bfloat16 else 4)
