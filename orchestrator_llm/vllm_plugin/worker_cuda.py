"""The worker on CUDA; not run so far."""

from __future__ import annotations

from vllm.v1.worker.gpu_model_runner import GPUModelRunner
from vllm.v1.worker.gpu_worker import Worker

from orchestrator_llm.vllm_plugin.worker import Answering, Inspected


class AnsweringGPURunner(Answering, GPUModelRunner):
    """vLLM's CUDA runner, answering steps."""


class AnsweringGPUWorker(Inspected, Worker):
    """vLLM's CUDA worker with our runner."""

    def _make_model_runner(self) -> GPUModelRunner:
        return AnsweringGPURunner(self.vllm_config, self.device)
