"""The voice of a session: the client's recording or the character's own, as reference latents.

It knows the bundle and the engine's bridge, not who speaks with the voice.
"""

from __future__ import annotations

import asyncio

from dit_worker.engine.arrays import Floats
from dit_worker.engine.errors import BadVoice
from dit_worker.engine.voice import read_voice
from dit_worker.service.station import Station
from services.errors import InvalidInput
from services.session import SessionConfig


async def voice_of(config: SessionConfig, station: Station) -> Floats:
    """Reference latents (R, C). Raises InvalidInput naming the field when the voice will not do."""
    try:
        samples = await asyncio.to_thread(_samples, config, station)
        return await station.bridge.voice(samples)
    except BadVoice as fault:
        field = "config.voice" if config.voice else "config.character"
        raise InvalidInput(f"{field} gives no voice: {fault}", field=field) from fault


def _samples(config: SessionConfig, station: Station) -> Floats:
    """Samples (S,) at the bundle's rate."""
    manifest = station.bundle.manifest
    if config.voice:
        return read_voice(config.voice, manifest.geometry.sample_rate)
    try:
        own = station.bundle.file(manifest.character(config.character).voice)
    except KeyError as fault:
        text = f"the bundle has no character {config.character[:64]!r}"
        raise InvalidInput(text, field="config.character") from fault
    return read_voice(own.read_bytes(), manifest.geometry.sample_rate)
