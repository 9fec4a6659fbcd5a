"""Which planner a new session would have now: as the deployment was started, or as it was swapped to since.

It asks the store only where the answer matters, and knows no orchestrator.
"""

from __future__ import annotations

from cuelight.v1 import session_pb2 as pb
from gateway.sessions.validation import PlannerNames
from services.state.planning import PlanningStore


async def planners_for(config: pb.SessionConfig, started: PlannerNames, store: PlanningStore) -> PlannerNames:
    """The planners as a session's configuration is to be judged by. Raises StoreUnavailable."""
    if config.planner or not config.instructions.strip():
        return started
    return started.after((await store.decision()).planner)
