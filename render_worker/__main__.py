"""Runs a render worker: `python -m render_worker`, settings from CUELIGHT_* variables."""

from __future__ import annotations

import sys

from render_worker.process import run
from services import logs
from services.errors import CuelightError
from services.settings import RenderSettings, SettingsError, load

settings = load(RenderSettings)
logs.configure(process="render", level=settings.log_level, style=settings.log_style)
try:
    run(settings)
except SettingsError as fault:
    sys.stderr.write(f"cuelight: {fault}\n")
    sys.exit(2)
except (CuelightError, OSError) as fault:
    sys.exit(f"cuelight: the render worker cannot run: {fault}")
