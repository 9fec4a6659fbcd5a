"""Whether another worker is still there, asked of itself: a process that was killed holds its leases for seconds more.

It knows addresses and ids of workers and no sessions.
"""

from __future__ import annotations

from enum import Enum, auto

import grpc
from grpc import aio

from cuelight.v1 import worker_pb2 as pb
from cuelight.v1 import worker_pb2_grpc
from services.errors import StoreUnavailable
from services.logs import get_logger
from services.serving import internal_certificates, open_channel
from services.settings import WorkerSettings
from services.state.store import SessionStore

log = get_logger(__name__)
_ANSWER_S = 1.0


class Presence(Enum):
    """What is known of a worker."""

    THERE = auto()
    GONE = auto()
    """Nobody listens at its address, or somebody else does: it was ended, or started anew."""
    UNKNOWN = auto()
    """It does not answer, or nobody knows where it is: it may hang, and wake up."""


async def presence(worker_id: str, store: SessionStore, settings: WorkerSettings) -> Presence:
    """Ask a worker who it is."""
    try:
        address = next((worker.address for worker in await store.list_workers() if worker.worker_id == worker_id), "")
    except StoreUnavailable:
        return Presence.UNKNOWN
    if not address:
        return Presence.UNKNOWN
    async with open_channel(address, settings.grpc_max_message_bytes, internal_certificates(settings)) as channel:
        try:
            stub: worker_pb2_grpc.WorkerServiceAsyncStub = worker_pb2_grpc.WorkerServiceStub(channel)
            status = await stub.GetStatus(pb.GetStatusRequest(), timeout=_ANSWER_S)
        except aio.AioRpcError as fault:
            found = Presence.GONE if fault.code() is grpc.StatusCode.UNAVAILABLE else Presence.UNKNOWN
        else:
            found = Presence.THERE if status.worker_id == worker_id else Presence.GONE
    log.info("neighbour_asked", worker_id=worker_id, found=found.name.lower())
    return found
