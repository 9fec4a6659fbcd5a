"""What a session still has to tell its server: inputs not yet durable, and the acknowledgement that is due.

Plain bookkeeping: knows no stream, no clock and no task.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

from cuelight.convert import duration
from cuelight.v1 import session_pb2 as pb


class _Sent(NamedTuple):
    seq: int
    request: pb.StreamSessionRequest
    size: int


_KEPT_INPUTS = 64
"""A server whose store fails over may forget what it had called durable: the newest are sent again if it asks."""


class Outbox:
    """Inputs in order, kept until the server holds them durably, and what the client has kept and played."""

    def __init__(self) -> None:
        self._inputs: deque[_Sent] = deque()
        self._durable: deque[_Sent] = deque(maxlen=_KEPT_INPUTS)
        self._next_seq = 1
        self._kept_offset = 0
        self._credit = 0
        self._playhead_s = 0.0
        self._is_due = False

    @property
    def waiting_bytes(self) -> int:
        """Bytes of input that the server may not hold yet."""
        return sum(sent.size for sent in self._inputs)

    @property
    def playhead_s(self) -> float:
        """What has been played, on the media clock."""
        return self._playhead_s

    def add(self, *, user_input: pb.UserInput | None = None, interrupt: pb.Interrupt | None = None) -> int:
        """Puts an input or an interrupt at the end and gives its client_seq."""
        seq = self._next_seq
        self._next_seq += 1
        request = pb.StreamSessionRequest(client_seq=seq, input=user_input, interrupt=interrupt)
        self._inputs.append(_Sent(seq, request, request.ByteSize()))
        return seq

    def after(self, seq: int) -> Iterator[tuple[int, pb.StreamSessionRequest]]:
        """The inputs above ``seq``, in order, those that were durable before among them."""
        return iter([(sent.seq, sent.request) for sent in (*self._durable, *self._inputs) if sent.seq > seq])

    def forget(self, durable_seq: int) -> None:
        """Lets go of the inputs up to ``durable_seq``, but for the newest."""
        while self._inputs and self._inputs[0].seq <= durable_seq:
            self._durable.append(self._inputs.popleft())

    def kept(self, offset: int) -> None:
        """The client has taken the media at ``offset``: the server may send one more."""
        self._kept_offset = max(self._kept_offset, offset + 1)
        self._credit += 1
        self._is_due = True

    def played(self, playhead_s: float) -> None:
        """Playback has come to ``playhead_s``."""
        self._playhead_s = playhead_s
        self._is_due = True

    def restart_credit(self) -> None:
        """Drops the credit owed to a stream that is gone; the next one starts with its own."""
        self._credit = 0

    def take_acknowledge(self, server_seq: int) -> pb.StreamSessionRequest | None:
        """The acknowledgement that is due, or None."""
        if not self._is_due:
            return None
        acknowledge = pb.Acknowledge(
            server_seq=server_seq,
            media_offset=self._kept_offset,
            playhead=duration(self._playhead_s),
            credit=self._credit,
        )
        self._is_due = False
        self._credit = 0
        return pb.StreamSessionRequest(acknowledge=acknowledge)
