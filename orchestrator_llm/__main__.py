"""Runs the orchestrator: `python -m orchestrator_llm`."""

from __future__ import annotations

import asyncio
import sys

from orchestrator_llm.service.process import run
from services import logs, tracing
from services.errors import CuelightError
from services.settings import OrchestratorSettings, load

settings = load(OrchestratorSettings)
logs.configure(process="orchestrator", level=settings.log_level, style=settings.log_style)
try:
    with tracing.exported(process="orchestrator", collector=settings.traces_address, share=settings.traces_share):
        asyncio.run(run(settings))
except (CuelightError, OSError) as fault:
    sys.exit(f"cuelight: the orchestrator cannot run: {fault}")
