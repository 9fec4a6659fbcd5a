"""The state of sessions and of the fleet, kept in Redis."""

from services.state.embedded import EmbeddedRedis
from services.state.fleet import Slot, WorkerReport, WorkerStatus
from services.state.lease import Lease
from services.state.store import SessionPage, SessionStore

__all__ = ["EmbeddedRedis", "Lease", "SessionPage", "SessionStore", "Slot", "WorkerReport", "WorkerStatus"]
