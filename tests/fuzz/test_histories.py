"""Sessions as no client drives them: any order of calls and inputs, of any number and offset, lost and taken up again.

A state machine keeps what it was told and compares: offsets run on, epochs, generations and what is durable never fall,
and no call is answered with a fault of ours.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

import grpc
import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from cuelight.v1 import session_pb2 as pb
from cuelight.v1.session_pb2_grpc import SessionServiceStub
from tests.fuzz.conftest import House, rounds
from tests.fuzz.messages import messages

ROUNDS, SHARE = 4, 0.2
CALL_S = 30.0
CREATE_S = 600.0
HEARD_S = 0.3
OURS = frozenset({grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN})
FEW = settings(
    max_examples=1,
    stateful_step_count=20,
    deadline=None,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@dataclass
class Line:
    """One attachment: requests go in, a thread reads what comes."""

    stub: SessionServiceStub
    token: str
    sending: queue.SimpleQueue[pb.StreamSessionRequest | None] = field(default_factory=queue.SimpleQueue)
    heard: queue.SimpleQueue[pb.StreamSessionResponse] = field(default_factory=queue.SimpleQueue)
    code: grpc.StatusCode | None = None
    said: str = ""
    server_seq: int = 0
    next_offset: int | None = None

    def open(self, attach: pb.Attach) -> None:
        """Attach."""
        self.sending.put(pb.StreamSessionRequest(attach=attach))
        header = (("authorization", f"Bearer {self.token}"),)
        self.call = self.stub.StreamSession(self._requests(), metadata=header, timeout=2 * CALL_S)
        threading.Thread(target=self._listen, daemon=True).start()

    def _requests(self) -> Iterator[pb.StreamSessionRequest]:
        while (request := self.sending.get()) is not None:
            yield request

    def _listen(self) -> None:
        try:
            for response in self.call:
                self.heard.put(response)
            self.code = grpc.StatusCode.OK
        except grpc.RpcError as fault:
            self.code, self.said = fault.code(), fault.details() or ""

    def close(self) -> None:
        """Leave without a word."""
        self.sending.put(None)
        self.call.cancel()


class Histories(RuleBasedStateMachine):
    """One session and whoever attaches to it."""

    stub: ClassVar[SessionServiceStub]

    @initialize(regime=st.sampled_from(["scripted", "conversation"]), ahead=st.sampled_from([0, 1, 60]))
    def create(self, regime: str, ahead: int) -> None:
        """A session, made as it should be."""
        config = pb.SessionConfig(regime=regime, seed=7)
        config.max_ahead.seconds = ahead
        request = pb.CreateSessionRequest(config=config)
        request.queue_timeout.seconds = 60  # until what others left has been closed
        made = self._created(request)
        self.name, self.token = made.session.name, made.attach_token
        self.line: Line | None = None
        self.resume_token, self.client_seq = "", 0
        self.durable = self.epoch = self.generation = 0

    def _created(self, request: pb.CreateSessionRequest) -> pb.CreateSessionResponse:
        """The answer; a machine that is busy with what others left may refuse for a while."""
        give_up_at = time.monotonic() + CREATE_S
        while True:
            try:
                return self.stub.CreateSession(request, timeout=4 * CALL_S)
            except grpc.RpcError as fault:
                _check("CreateSession", fault)
                if time.monotonic() > give_up_at:
                    raise
                time.sleep(1.0)

    @rule(
        offset=st.none() | st.integers(0, 40) | st.just(2**63),
        credit=st.sampled_from([0, 1, 8, 65_536, 65_537]),
        resumes=st.booleans(),
    )
    def attach(self, offset: int | None, credit: int, resumes: bool) -> None:
        """Attach, beside whoever is attached."""
        self.leave()
        attach = pb.Attach(session=self.name, initial_credit=credit, resume_token=self.resume_token if resumes else "")
        if offset is not None:
            attach.media_offset = offset
        self.line = Line(self.stub, self.token)
        self.line.open(attach)

    @precondition(lambda self: self.line)
    @rule()
    def leave(self) -> None:
        """Go without a word."""
        self.listen()
        if self.line is not None:
            self.line.close()
            self.line = None

    @precondition(lambda self: self.line)
    @rule(
        text=st.sampled_from(["Good evening.", "one two three four five six", "\x00", "é" * 9000, "😀 ½ 12:30"]),
        kind=st.sampled_from(["say", "hear", "prompt"]),
        step=st.sampled_from([1, 1, 1, 0, -1, 3]),
        barge_in=st.booleans(),
    )
    def speak(self, text: str, kind: str, step: int, barge_in: bool) -> None:
        """Words, numbered rightly or not."""
        self.client_seq = max(0, self.client_seq + step)
        self._send(
            pb.StreamSessionRequest(client_seq=self.client_seq, input=pb.UserInput(barge_in=barge_in, **{kind: text}))
        )  # type: ignore[arg-type]

    @precondition(lambda self: self.line)
    @rule(seconds=st.sampled_from([-1, 0, 1, 3, 10**9]), credit=st.sampled_from([0, 4, 70_000]))
    def acknowledge(self, seconds: int, credit: int) -> None:
        """Play on, or say so."""
        request = pb.StreamSessionRequest(acknowledge=pb.Acknowledge(credit=credit))
        request.acknowledge.playhead.seconds = seconds
        self._send(request)

    @precondition(lambda self: self.line)
    @rule(request=messages(pb.StreamSessionRequest))
    def babble(self, request: pb.StreamSessionRequest) -> None:
        """Any message at all."""
        self._send(request)

    @rule()
    def look(self) -> None:
        """What the session is said to be agrees with what was heard."""
        found = self._unary("GetSession", pb.GetSessionRequest(name=self.name))
        if found is not None:
            assert found.session.epoch >= self.epoch, "an epoch fell"
            self.epoch = found.session.epoch

    @rule(offset=st.none() | st.integers(0, 30))
    def read(self, offset: int | None) -> None:
        """A viewer from an offset: what it gets runs on."""
        request = pb.ReadMediaRequest(name=self.name)
        if offset is not None:
            request.offset = offset
        call = self.stub.ReadMedia(request, metadata=(("authorization", f"Bearer {self.token}"),), timeout=1.0)
        try:
            offsets = [heard.media.offset for heard in call if heard.HasField("media")]
        except grpc.RpcError as fault:
            _check("ReadMedia", fault)
        else:
            assert offsets == sorted(set(offsets))

    @rule(immediate=st.booleans())
    def end(self, immediate: bool) -> None:
        """Close it; what comes after is refused or heard to its end."""
        self._unary("CloseSession", pb.CloseSessionRequest(name=self.name, immediate=immediate))

    def teardown(self) -> None:
        """Nobody stays."""
        if hasattr(self, "name"):
            self.leave()
            self._unary("CloseSession", pb.CloseSessionRequest(name=self.name, immediate=True))

    def _send(self, request: pb.StreamSessionRequest) -> None:
        assert self.line is not None
        self.line.sending.put(request)
        self.listen()

    def _unary(self, method: str, request: Any) -> Any:
        try:
            return getattr(self.stub, method)(request, timeout=CALL_S)
        except grpc.RpcError as fault:
            _check(method, fault)
            return None

    def listen(self) -> None:
        """Take in what has come, and hold it against what came before."""
        line = self.line
        if line is None:
            return
        while True:
            try:
                heard = line.heard.get(timeout=HEARD_S)
            except queue.Empty:
                break
            assert heard.server_seq == line.server_seq + 1, "a message is missing"
            line.server_seq = heard.server_seq
            self._compare(line, heard)
        assert line.code not in OURS, f"{line.code}: {line.said}"

    def _compare(self, line: Line, heard: pb.StreamSessionResponse) -> None:
        kind = heard.WhichOneof("message")
        if kind == "attached":
            line.next_offset = heard.attached.media_offset
        elif kind == "resume_update":
            assert heard.resume_update.durable_client_seq >= self.durable, "what was durable is not"
            self.durable, self.resume_token = heard.resume_update.durable_client_seq, heard.resume_update.resume_token
        elif kind == "media":
            assert line.next_offset is not None and heard.media.offset >= line.next_offset, "an offset came twice"
            line.next_offset = heard.media.offset + 1
        elif kind == "retired":
            assert heard.retired.generation >= self.generation, "a generation fell"
            self.generation = heard.retired.generation
        elif kind == "error":
            assert heard.error.status.code not in {code.value[0] for code in OURS}, heard.error.status.message


def _check(method: str, fault: grpc.RpcError) -> None:
    assert fault.code() not in OURS, f"{method}: {fault.details()}"


@pytest.mark.timeout(3600)
def test_no_history_finds_a_fault(house: House) -> None:
    """Whatever is done to a session, in whatever order, the contract holds and every process lives on."""
    with grpc.insecure_channel(house.stack.address) as channel:
        Histories.stub = SessionServiceStub(channel)
        for number in rounds(ROUNDS, SHARE):
            run_state_machine_as_test(seed(number)(Histories), settings=FEW)
    house.check()
