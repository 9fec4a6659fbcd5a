"""Runs the fleet controller: `python -m services.fleet`, settings from CUELIGHT_* variables."""

from __future__ import annotations

import asyncio
import sys

from services import logs
from services.fleet.process import START_FAULTS, serve
from services.settings import FleetSettings, load

settings = load(FleetSettings)
logs.configure(process="fleet", level=settings.log_level, style=settings.log_style)
try:
    asyncio.run(serve(settings))
except START_FAULTS as fault:
    sys.exit(f"cuelight: the fleet controller cannot run: {fault}")
