"""Runs a DiT worker: `python -m dit_worker`, settings from CUELIGHT_* variables."""

from __future__ import annotations

import asyncio
import sys

from dit_worker.service.worker import START_FAULTS, serve
from services import logs, tracing
from services.settings import WorkerSettings, load

settings = load(WorkerSettings)
logs.configure(process="worker", level=settings.log_level, style=settings.log_style)
try:
    with tracing.exported(process="worker", collector=settings.traces_address, share=settings.traces_share):
        asyncio.run(serve(settings))
except START_FAULTS as fault:
    sys.exit(f"cuelight: the worker cannot run: {fault}")
