"""One worker's Direct stream: each message converted, given to the session's director, and its answer converted back.

It knows the contract and the director, not how calls are scheduled nor what other streams do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cuelight.v1 import orchestrator_pb2 as pb
from orchestrator_llm.engine.agenda import Agenda, AgendaOptions
from orchestrator_llm.engine.director import Director
from orchestrator_llm.engine.errors import OutOfTurn
from services.bundle import Manifest
from services.errors import BundleMismatch, InvalidInput
from services.session import Regime
from services.wire import (
    action_to_proto,
    chunk_progress_to_proto,
    snapshot_from_proto,
    tensor_from_proto,
    tensor_to_proto,
)

MAX_SESSION_ID = 128
MAX_PIECES = 100_000
"""Pieces of transcript, or prompts, in one message."""


@dataclass(frozen=True, slots=True)
class Task:
    """A message as a call of the engine: its kind, and the call that makes the answer."""

    kind: str
    run: Callable[[], pb.DirectResponse]


class DirectStream:
    """Turns messages into tasks, in the order the contract allows."""

    def __init__(self, director: Director, agenda: Agenda, manifest: Manifest) -> None:
        self._director = director
        self._agenda = agenda
        self._manifest = manifest
        self.planner = ""
        """The planner the session asks for; empty when any will do."""
        self._shape = manifest.geometry.audio_shape
        self.session_id = ""
        self.chunk_index: int | None = None
        """The chunk that has begun and not ended."""

    def task(self, request: pb.DirectRequest) -> Task:
        """What a message asks for. Raises InvalidInput, OutOfTurn and BundleMismatch."""
        kind = request.WhichOneof("message")
        if kind is None:
            raise InvalidInput("a message must be one of open, begin, denoise, end and replace", field="message")
        if not self.session_id and kind != "open":
            raise OutOfTurn(f"{kind} came first; send open first")
        run = self._call(kind, request)

        def refusing() -> pb.DirectResponse:
            try:
                return run()
            except ValueError as fault:
                raise InvalidInput(str(fault), field=kind) from fault

        return Task(kind, refusing)

    def _call(self, kind: str, request: pb.DirectRequest) -> Callable[[], pb.DirectResponse]:
        match kind:
            case "open":
                return self._open(request.open)
            case "begin":
                return self._begin(request.begin)
            case "denoise":
                return self._denoise(request.denoise)
            case "end":
                return self._end(request.end)
            case _:
                return self._replace(request.replace)

    def _open(self, message: pb.Open) -> Callable[[], pb.DirectResponse]:
        if not message.session_id or len(message.session_id) > MAX_SESSION_ID:
            raise InvalidInput(f"session_id must have 1 to {MAX_SESSION_ID} characters", field="open.session_id")
        self._check_bundle(message.bundle_name, message.bundle_digest)
        options = AgendaOptions(_regime(message.regime), message.instructions, self._manifest.chunk_seconds)
        _check_count(len(message.snapshot.transcript), "open.snapshot.transcript")
        snapshot = snapshot_from_proto(message.snapshot, audio_shape=self._shape)
        voice_shape = self._director.reference_shape
        reference = tensor_from_proto(message.reference, expect_shape=voice_shape, field="open.reference")

        def run() -> pb.DirectResponse:
            self._agenda.configure(options)
            self._director.open(snapshot, reference)
            self.session_id, self.planner = message.session_id, message.planner
            return self._opened()

        return run

    def _begin(self, message: pb.Begin) -> Callable[[], pb.DirectResponse]:
        _check_count(len(message.say), "begin.say")
        _check_count(len(message.prompts), "begin.prompts")
        _check_count(len(message.hear), "begin.hear")
        memory = message.memory if message.HasField("memory") else None

        def run() -> pb.DirectResponse:
            action = self._director.begin(message.chunk_index, tuple(message.say), tuple(message.prompts), memory)
            self.chunk_index = message.chunk_index
            return pb.DirectResponse(action=action_to_proto(action, message.chunk_index))

        return run

    def _denoise(self, message: pb.Denoise) -> Callable[[], pb.DirectResponse]:
        def run() -> pb.DirectResponse:
            noisy = tensor_from_proto(message.noisy, expect_shape=self._shape, field="denoise.noisy")
            found = self._director.denoise(message.chunk_index, message.timestep, noisy)
            condition = pb.Condition(
                chunk_index=message.chunk_index, step=message.step, condition=tensor_to_proto(found)
            )
            return pb.DirectResponse(condition=condition)

        return run

    def _end(self, message: pb.End) -> Callable[[], pb.DirectResponse]:
        def run() -> pb.DirectResponse:
            clean = tensor_from_proto(message.clean, expect_shape=self._shape, field="end.clean")
            progress = self._director.end(message.chunk_index, clean)
            self.chunk_index = None
            return pb.DirectResponse(progress=chunk_progress_to_proto(progress))

        return run

    def _replace(self, message: pb.Replace) -> Callable[[], pb.DirectResponse]:
        _check_count(len(message.snapshot.transcript), "replace.snapshot.transcript")
        snapshot = snapshot_from_proto(message.snapshot, audio_shape=self._shape)

        def run() -> pb.DirectResponse:
            self._director.replace(snapshot)
            self.chunk_index = None
            return self._opened()

        return run

    def _opened(self) -> pb.DirectResponse:
        return pb.DirectResponse(opened=pb.Opened(bundle_digest=self._manifest.digest))

    def _check_bundle(self, name: str, digest: str) -> None:
        mine = self._manifest
        if (name, digest) != (mine.name, mine.digest):
            raise BundleMismatch(
                f"the worker has bundle {name[:64]!r} ({digest[:12]!r}), the orchestrator "
                f"{mine.name!r} ({mine.digest[:12]!r}); start both with the same bundle"
            )


def _regime(name: str) -> Regime:
    try:
        return Regime(name or Regime.CONVERSATION)
    except ValueError:
        raise InvalidInput(f"regime {name[:64]!r} is not known", field="open.regime") from None


def _check_count(count: int, field: str) -> None:
    if count > MAX_PIECES:
        raise InvalidInput(f"{count} pieces of text, at most {MAX_PIECES} are allowed", field=field)
