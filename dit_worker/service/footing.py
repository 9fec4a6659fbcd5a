"""Where a session stands, in the engine and at the orchestrator: both made to stand where a snapshot says.

A footing may be had before the lease, so that a session that is to move here finds its caches computed. It knows no
lease, no cues and no media.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from dit_worker.engine.arrays import Floats, Pixels
from dit_worker.engine.errors import BadPortrait
from dit_worker.engine.portrait import load_portrait, read_portrait
from dit_worker.service.direction import Direction, Opening
from dit_worker.service.hearing import heard_snapshot, standing_of
from dit_worker.service.station import Station
from dit_worker.service.voice import voice_of
from services.errors import InvalidInput
from services.session import SessionConfig, SessionSnapshot

_LOOK_S = 0.01


@dataclass(frozen=True, slots=True)
class Script:
    """What does not change in a session's life."""

    session_id: str
    config: SessionConfig
    portrait: Pixels


class Footing:
    """One session's place in the engine and its stream to the orchestrator."""

    def __init__(self, script: Script, station: Station) -> None:
        self.script = script
        self._station = station
        self._direction: Direction | None = None
        self._is_open = False

    @property
    def direction(self) -> Direction:
        """The stream to the orchestrator."""
        assert self._direction is not None, "stand first"
        return self._direction

    async def stand(self, snapshot: SessionSnapshot) -> None:
        """Stand there; what is known already is not computed again. Raises OrchestratorUnavailable."""
        await asyncio.gather(self._stand_engine(snapshot), self._stand_orchestrator(snapshot))

    async def warm(self) -> None:
        """Wait until the engine has computed what the next chunk attends to."""
        while not await self._station.bridge.is_warm(self.script.session_id):
            await asyncio.sleep(_LOOK_S)

    def close(self) -> None:
        """Let the orchestrator's stream go. Standing again opens another one."""
        if self._direction is not None:
            self._direction.close()
            self._direction = None

    async def _stand_engine(self, snapshot: SessionSnapshot) -> None:
        standing = standing_of(snapshot, self._silence, self._station.chunk_s)
        bridge, session_id = self._station.bridge, self.script.session_id
        if self._is_open:
            await bridge.restore(session_id, standing)
        else:
            config, portrait = self.script.config, self.script.portrait
            await bridge.open(session_id, config.seed, portrait, standing, is_repeatable=config.is_repeatable)
            self._is_open = True

    async def _stand_orchestrator(self, snapshot: SessionSnapshot) -> None:
        known = heard_snapshot(snapshot, self._silence, self._station.chunk_s)
        if self._direction is not None:
            await self._direction.replace(known)
            return
        reference = await voice_of(self.script.config, self._station)
        opening = Opening(self.script.session_id, self._station.bundle.manifest, reference, self.script.config)
        self._direction = await Direction.open(self._station.orchestrator, opening, known)

    @property
    def _silence(self) -> Floats:
        silence: Floats = self._station.models.sound_encoder.silence.numpy()
        return silence


async def script_of(session_id: str, config: SessionConfig, station: Station) -> Script:
    """What is performed, with its portrait read. Raises InvalidInput naming the field at fault."""
    return Script(session_id, config, await asyncio.to_thread(_portrait, config, station))


def _portrait(config: SessionConfig, station: Station) -> Pixels:
    geometry, character = station.bundle.manifest.geometry, config.character
    if config.portrait:
        try:
            return read_portrait(config.portrait, geometry.width, geometry.height)
        except BadPortrait as fault:
            raise InvalidInput(f"portrait: {fault}", field="config.portrait") from fault
    try:
        path = station.bundle.file(station.bundle.manifest.character(character).portrait)
    except KeyError as fault:
        raise InvalidInput(f"the bundle has no character {character[:64]!r}", field="config.character") from fault
    return load_portrait(path, geometry.width, geometry.height)
