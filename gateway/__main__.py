"""Runs the gateway: `python -m gateway`."""

from __future__ import annotations

import asyncio
import os
import sys
import warnings

# Read when gRPC is loaded: its own notes would quote what strangers send, past our logs and as it came.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")

from gateway.process import run
from services import logs, tracing
from services.errors import CuelightError
from services.settings import GatewaySettings, load

# What a picture is too broken for is answered in a sentence; Pillow would also write it, past our logs.
warnings.filterwarnings("ignore", module=r"PIL\.")
settings = load(GatewaySettings)
logs.configure(process="gateway", level=settings.log_level, style=settings.log_style)
try:
    with tracing.exported(process="gateway", collector=settings.traces_address, share=settings.traces_share):
        asyncio.run(run(settings))
except (CuelightError, OSError) as fault:
    sys.exit(f"cuelight: the gateway cannot run: {fault}")
