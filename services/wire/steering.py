"""What a worker is told from outside: to give its sessions away, or one of them, and to say how it stands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import grpc
from grpc import aio

from cuelight.v1 import worker_pb2 as pb
from cuelight.v1 import worker_pb2_grpc
from services.errors import CuelightError, WorkerUnavailable
from services.serving import error_from_rpc, open_channel
from services.tls import Certificates

MAX_BYTES = 1 << 20
ANSWER_S = 5.0
MOVE_S = 60.0
"""A session moves at its next chunk boundary, which may be some chunks away where it is far ahead."""


@dataclass(frozen=True, slots=True)
class Moved:
    """Who has a session now."""

    worker_id: str
    epoch: int
    next_chunk_index: int
    handed_over_s: float


class WorkerLine:
    """A connection to one worker, closed on leaving."""

    def __init__(self, address: str, certificates: Certificates | None) -> None:
        self._address = address
        self._channel = open_channel(address, MAX_BYTES, certificates)
        self._stub = worker_pb2_grpc.WorkerServiceStub(self._channel)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._channel.close()

    async def drain(self, *, move_sessions: bool) -> int:
        """Have it take nothing new, and give away what it has; returns the sessions left. Raises CuelightError."""
        request = pb.DrainRequest(move_sessions=move_sessions)
        try:
            return int((await self._stub.Drain(request, timeout=ANSWER_S)).sessions_left)
        except aio.AioRpcError as fault:
            raise self._translated(fault) from fault

    async def move(self, session_id: str, worker_id: str = "") -> Moved:
        """Have a session go on at another worker, by placement's choice when none is named. Raises CuelightError."""
        request = pb.MoveRequest(session_id=session_id, worker_id=worker_id)
        try:
            answer = await self._stub.Move(request, timeout=MOVE_S)
        except aio.AioRpcError as fault:
            raise self._translated(fault) from fault
        took_s = answer.handed_over_in.ToMilliseconds() / 1000
        return Moved(answer.worker_id, answer.epoch, answer.next_chunk_index, took_s)

    def _translated(self, fault: aio.AioRpcError) -> CuelightError:
        known = error_from_rpc(fault)
        if known is not None:
            return known
        if fault.code() is grpc.StatusCode.UNIMPLEMENTED:
            return CuelightError(f"the worker at {self._address} is of a version that cannot do this")
        return WorkerUnavailable(f"the worker at {self._address} does not answer ({fault.code().name})")
