"""vLLM as host of the conditioner: a general plugin, found by vLLM itself in every process it starts.

    items.py      what a prompt is made of: latents and words, each under a key for the prefix cache
    processing.py declares those two modalities to vLLM
    model.py      the conditioner around vLLM's own Qwen2 body
    attention.py  heads of a width that vLLM's kernels have, by padding
    answers.py    text states kept between the steps of a chunk, and the answers at the tail
    worker.py     what makes a worker's one-token requests answer with the tail; worker_cpu.py, worker_cuda.py

Only this package and `engine/backend_vllm.py` import vllm. It knows no sessions, no messages and no settings.
"""

from __future__ import annotations

__all__ = ["ARCHITECTURE", "register"]

ARCHITECTURE = "CuelightConditioner"
"""The model's name in `config.json`."""


def register() -> None:
    """Makes the conditioner known to vLLM; called once or often."""
    from vllm import ModelRegistry

    if ARCHITECTURE not in ModelRegistry.get_supported_archs():
        ModelRegistry.register_model(ARCHITECTURE, f"{__name__}.model:HostedConditioner")
