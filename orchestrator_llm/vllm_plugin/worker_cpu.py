"""The worker on a CPU. Importing vLLM's own puts stand-ins where torch has CUDA, so nothing on CUDA may import this."""

from __future__ import annotations

from vllm.v1.worker.cpu_worker import CPUWorker  # isort: skip  (wants to be the first of its kind)
from vllm.v1.worker.cpu_model_runner import CPUModelRunner

from orchestrator_llm.vllm_plugin.worker import Answering, Inspected


class AnsweringCPURunner(Answering, CPUModelRunner):
    """vLLM's CPU runner, answering steps."""


class AnsweringCPUWorker(Inspected, CPUWorker):
    """vLLM's CPU worker with our runner."""

    def init_device(self) -> None:
        """Sets the device up, then puts our runner where the worker has put its own."""
        super().init_device()
        self.model_runner = AnsweringCPURunner(self.vllm_config, self.device)
