"""What every performer of this process works with.

One value made at the start and handed down, so that nothing reaches for globals.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

from cuelight.v1 import orchestrator_pb2_grpc
from dit_worker.engine.admission import Admission
from dit_worker.engine.costs import Costs
from dit_worker.engine.ladder import Pace
from dit_worker.engine.loader import Models
from dit_worker.engine.pacing import Pacing, PacingLimits, Unhurried
from dit_worker.service.bridge import EngineBridge
from dit_worker.service.figures import Figures
from dit_worker.service.pipeline import Executors
from services.bundle import Bundle
from services.session import ChunkPolicy, Priority, Regime, SessionConfig
from services.settings import WorkerSettings
from services.state.store import SessionStore

MAX_AHEAD_CHUNKS = 64


@dataclass(frozen=True)
class Station:
    """The worker's parts, shared by its sessions."""

    settings: WorkerSettings
    bundle: Bundle
    models: Models
    bridge: EngineBridge
    store: SessionStore
    orchestrator: orchestrator_pb2_grpc.OrchestratorServiceAsyncStub
    executors: Executors
    figures: Figures
    costs: Costs
    admission: Admission
    pace: Pace

    @property
    def chunk_s(self) -> float:
        """Seconds of one chunk."""
        return self.bundle.manifest.chunk_seconds

    def now(self) -> float:
        """Monotonic seconds: the clock of deadlines and leases."""
        return time.monotonic()

    def ahead_chunks(self, config: SessionConfig) -> int:
        """Chunks that may be made beyond the playhead: as the client asked, else as the regime has it."""
        if config.max_ahead_s is not None:
            return min(MAX_AHEAD_CHUNKS, max(1, math.floor(config.max_ahead_s / self.chunk_s)))
        if config.regime is Regime.SCRIPTED:
            return self.settings.scripted_run_ahead_chunks
        return self.settings.run_ahead_chunks

    def policy(self, config: SessionConfig) -> ChunkPolicy:
        """What the store keeps of a session's chunks."""
        manifest = self.bundle.manifest
        frames = int(manifest.conditioner.get("history_frames", 0))
        history_chunks = math.ceil(frames / manifest.geometry.audio_latents_per_chunk)
        return ChunkPolicy(self.chunk_s, history_chunks, self.ahead_chunks(config))

    def pacing(self, config: SessionConfig) -> Pacing:
        """A playhead at the beginning."""
        limits = PacingLimits(
            chunk_s=self.chunk_s,
            max_ahead_s=self.ahead_chunks(config) * self.chunk_s,
            first_chunk_target_s=self.settings.first_chunk_target_ms / 1000,
            margin_s=self.settings.deadline_margin_ms / 1000,
        )
        kind = Unhurried if config.priority is Priority.RENDER else Pacing
        return kind(self.now, limits, media=lambda: self.costs.media_s)
