"""OrchestratorService.Direct over a real socket."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import numpy as np
import pytest
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from cuelight.v1 import orchestrator_pb2 as pb
from cuelight.v1.orchestrator_pb2_grpc import OrchestratorServiceStub
from cuelight.v1.types_pb2 import Tensor
from orchestrator_llm.service.process import Orchestrator
from services.bundle import Manifest
from services.errors import (
    BundleInvalid,
    BundleMismatch,
    CuelightError,
    Draining,
    InvalidInput,
    NoCapacity,
)
from services.session import HistoryChunk, Snapshot
from services.settings import OrchestratorSettings
from services.wire import snapshot_to_proto, tensor_to_proto
from tests.integration.orchestrator_llm.conftest import EMPTY, WorkerStream, committed, latents, voice

TEXT = "Hello there, my friend. This is a small character that speaks the words you give it."


async def test_a_transcript_is_spoken_to_its_end_and_then_the_character_idles(
    stub: OrchestratorServiceStub, manifest: Manifest
) -> None:
    """Every word comes once and in order; a later say is spoken after it."""
    stream = WorkerStream(stub, manifest)
    assert (await stream.open()).opened.bundle_digest == manifest.digest
    told: list[str] = []
    index = 0
    for text in (TEXT, "and this too"):
        say = [text]
        while True:
            action, conditions, progress = await stream.perform(index, say)
            say, index = [], index + 1
            assert all(condition.shape == (33, 32) for condition in conditions)
            told += [word.text for word in progress.words]
            if progress.is_finished:
                break
            assert index < 20
        assert (await stream.begin(index)).is_idle
        assert (await stream.end(index, latents(0, 0))).words == ()
        index += 1
    assert told == [*TEXT.split(), *"and this too".split()]
    assert action.words_total == len(told)
    await stream.call.done_writing()
    assert await stream.call.read() is aio.EOF


async def test_streams_side_by_side_get_what_each_gets_alone(stub: OrchestratorServiceStub, manifest: Manifest) -> None:
    """Concurrent sessions answer bit for bit as alone."""

    async def performed(seed: int) -> list[np.ndarray]:
        stream = WorkerStream(stub, manifest, f"s{seed}")
        await stream.open(reference=tensor_to_proto(voice(seed % 2)))
        return [c for k in range(3) for c in (await stream.perform(k, [TEXT] if k == 0 else [], seed))[1]]

    alone = [await performed(seed) for seed in range(3)]
    together = await asyncio.gather(*(performed(seed) for seed in range(3)))
    for ours, theirs in zip(alone, together, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))


async def test_another_replica_goes_on_from_the_snapshot_bit_for_bit(
    stub: OrchestratorServiceStub, settings: OrchestratorSettings, manifest: Manifest
) -> None:
    """Failover to a fresh orchestrator: same plan, conditions, pointer and words."""
    first = WorkerStream(stub, manifest)
    await first.open()
    _, _, progress = await first.perform(0, [TEXT])
    snapshot = committed((TEXT,), progress, 0.0, 0, 1)
    async with Orchestrator.running(settings) as other, aio.insecure_channel(other.rpc.address) as channel:
        second = WorkerStream(OrchestratorServiceStub(channel), manifest)
        await second.open(snapshot)
        for index in (1, 2, 3):
            ours, theirs = await first.perform(index), await second.perform(index)
            assert ours[0] == theirs[0]
            assert all(np.array_equal(a, b) for a, b in zip(ours[1], theirs[1], strict=True))
            assert ours[2] == theirs[2]


async def test_replace_goes_on_where_the_client_stopped_listening(
    stub: OrchestratorServiceStub, manifest: Manifest
) -> None:
    """After an interrupt in mid-chunk the heard words stay, the rest is gone and the new ones come next."""
    stream = WorkerStream(stub, manifest)
    await stream.open()
    await stream.perform(0, [TEXT])
    await stream.begin(1)
    heard = Snapshot(("Hello there,",), 7.0, 2, (HistoryChunk(0.0, latents(1, 9)),))
    assert (await stream.ask(replace=pb.Replace(snapshot=snapshot_to_proto(heard)))).opened.bundle_digest
    action = await stream.begin(2, ["say nothing"])
    assert (action.first_word, action.text, action.words_total) == (2, "say nothing", 4)


BAD_TENSORS = {
    "shape": Tensor(data=bytes(4 * 33 * 23), dtype="float32", shape=[33, 23]),
    "dtype": Tensor(data=bytes(8 * 33 * 24), dtype="float64", shape=[33, 24]),
    "length": Tensor(data=b"1234", dtype="float32", shape=[33, 24]),
    "nan": tensor_to_proto(np.full((33, 24), np.nan, np.float32)),
    "huge": tensor_to_proto(np.full((33, 24), 1e30, np.float32)),
    "empty": Tensor(),
    "vast": Tensor(dtype="float32", shape=[2**31, 2**31]),
}


@pytest.mark.parametrize("fault", BAD_TENSORS)
async def test_a_bad_tensor_ends_its_stream_and_no_other(
    stub: OrchestratorServiceStub, manifest: Manifest, fault: str
) -> None:
    """INVALID_ARGUMENT for one; the session beside it, in mid-chunk, goes on."""
    good, bad = WorkerStream(stub, manifest, "good"), WorkerStream(stub, manifest, "bad")
    await good.open()
    await bad.open()
    await good.begin(0, [TEXT])
    await bad.begin(0, [TEXT])
    before = await good.denoise(0, 0, latents(1, 0))
    with pytest.raises(InvalidInput):
        await bad.ask(denoise=pb.Denoise(chunk_index=0, step=0, timestep=1.0, noisy=BAD_TENSORS[fault]))
    assert np.array_equal(await good.denoise(0, 0, latents(1, 0)), before)
    assert (await good.end(0, latents(1, 9))).pointer_token > 0


async def test_messages_out_of_turn_are_failed_preconditions(stub: OrchestratorServiceStub, manifest: Manifest) -> None:
    """Each says in a sentence what should have come."""
    step = pb.Denoise(chunk_index=0, timestep=1.0, noisy=tensor_to_proto(latents(0, 0)))
    complete = pb.Open(
        session_id="s",
        bundle_name=manifest.name,
        bundle_digest=manifest.digest,
        reference=tensor_to_proto(voice(0)),
    )
    for opened, message, sentence in (
        (False, {"begin": pb.Begin()}, "send open first"),
        (False, {"replace": pb.Replace()}, "send open first"),
        (True, {"denoise": step}, "send begin first"),
        (True, {"end": pb.End(clean=step.noisy)}, "send begin first"),
        (True, {"open": complete}, "open already"),
    ):
        stream = WorkerStream(stub, manifest)
        if opened:
            await stream.open()
        with pytest.raises((aio.AioRpcError, CuelightError)) as refusal:
            await stream.ask(**message)
        assert sentence in str(refusal.value), message
        assert (await stream.call.code()).name == "FAILED_PRECONDITION", message


async def test_bad_arguments_are_named(stub: OrchestratorServiceStub, manifest: Manifest) -> None:
    """Every bound of the contract is an InvalidInput with a field."""
    history = (HistoryChunk(0.0, np.zeros((5, 24), np.float32)),)
    nowhere = pb.Snapshot(pointer_token=float("nan"))
    for field, changed in (
        ("open.session_id", {"session_id": ""}),
        ("open.session_id", {"session_id": "x" * 200}),
        ("open.reference.dtype", {"reference": Tensor()}),
        ("open.reference.shape", {"reference": tensor_to_proto(latents(0, 0))}),
        ("open.reference.data", {"reference": tensor_to_proto(np.full((24, 24), np.nan, np.float32))}),
        ("open", {"reference": tensor_to_proto(np.full((24, 24), 1e30, np.float32))}),
        ("open", {"snapshot": nowhere}),
        ("open", {"snapshot": pb.Snapshot(transcript=["x" * 20_000])}),
        ("snapshot.history.latents.shape", {"snapshot": snapshot_to_proto(Snapshot((), 0.0, 0, history))}),
    ):
        with pytest.raises(InvalidInput) as refusal:
            await WorkerStream(stub, manifest).open(**changed)
        assert refusal.value.field == field, changed
    for field, message in (
        ("begin", {"begin": pb.Begin(say=["x" * 20_000])}),
        ("begin.say", {"begin": pb.Begin(say=[""] * 100_001)}),
        ("message", {}),
    ):
        stream = WorkerStream(stub, manifest)
        await stream.open()
        with pytest.raises(InvalidInput) as refusal:
            await stream.ask(**message)
        assert refusal.value.field == field


async def test_another_bundle_is_refused(stub: OrchestratorServiceStub, manifest: Manifest) -> None:
    """Conditioner and DiT must be of one bundle."""
    with pytest.raises(BundleMismatch, match="same bundle"):
        await WorkerStream(stub, manifest).open(bundle_digest="0" * 64)


async def test_twenty_thousand_words_hold_nobody_up(stub: OrchestratorServiceStub, manifest: Manifest) -> None:
    """A very long transcript is taken in one message, and counted whole from the first chunk on.

    How much of it a chunk reads is counted in `test_director.py`.
    """
    stream = WorkerStream(stub, manifest)
    await stream.open()
    action = await stream.begin(0, ["words that nobody knows " * 500] * 10)
    assert action.words_total == 20_000
    await stream.end(0, latents(0, 0))
    for index in range(1, 6):
        assert (await stream.begin(index)).words_total == 20_000
        await stream.end(index, latents(0, index))


async def test_odd_words_are_spoken_or_named(stub: OrchestratorServiceStub, manifest: Manifest) -> None:
    """Emoji, control characters, other scripts and empty pieces do no harm; what has no sound is named."""
    stream = WorkerStream(stub, manifest)
    await stream.open()
    action = await stream.begin(0, ["", " \t\n", "hello 😀 \x00\x07 привет 1.5th \u202efriend", "🙂" * 300])
    assert action.words_total == 7
    assert [notice.code for notice in action.notices] == ["TEXT_ADAPTED"] * 3
    assert "😀" in action.notices[0].text
    assert not action.is_idle
    assert (await stream.end(0, latents(0, 0))).pointer_token > 0


async def test_a_full_orchestrator_refuses_and_takes_again(stub: OrchestratorServiceStub, manifest: Manifest) -> None:
    """The session over the limit is RESOURCE_EXHAUSTED; when one leaves there is room."""
    streams = [WorkerStream(stub, manifest, str(n)) for n in range(16)]
    for stream in streams:
        await stream.open()
    with pytest.raises(NoCapacity):
        await WorkerStream(stub, manifest).open()
    streams[0].call.cancel()
    async with asyncio.timeout(60):
        while True:
            try:
                await WorkerStream(stub, manifest).open()
            except NoCapacity:
                await asyncio.sleep(0.01)  # the orchestrator has yet to hear of it
            else:
                break


async def test_draining_lets_a_chunk_end_and_then_sends_the_session_away(
    orchestrator: Orchestrator, stub: OrchestratorServiceStub, manifest: Manifest
) -> None:
    """A stream between chunks ends at once, one in a chunk after it, and no new one is taken."""
    resting, busy = WorkerStream(stub, manifest, "resting"), WorkerStream(stub, manifest, "busy")
    await resting.open()
    await busy.open()
    await busy.begin(0, [TEXT])
    await orchestrator.drain()
    with pytest.raises(Draining):
        await resting.answer()
    await busy.denoise(0, 0, latents(0, 0))
    assert (await busy.end(0, latents(0, 9))).pointer_token > 0
    with pytest.raises(Draining):
        await busy.answer()
    with pytest.raises(Draining):
        await WorkerStream(stub, manifest).open()


async def test_health_says_ready(orchestrator: Orchestrator) -> None:
    """Readiness is served under its own name and the service's."""
    async with aio.insecure_channel(orchestrator.rpc.address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for name in ("liveness", "readiness", "cuelight.v1.OrchestratorService"):
            answer = await health.Check(health_pb2.HealthCheckRequest(service=name))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_an_altered_bundle_is_not_served(tiny_bundle: Path, tmp_path: Path) -> None:
    """A file that is not the one of the manifest stops the start and is named."""
    copy = shutil.copytree(tiny_bundle, tmp_path / "altered")
    (copy / "conditioner.safetensors").write_bytes(b"not weights")
    settings = OrchestratorSettings(bundle=copy, orchestrator_listen="127.0.0.1:0")
    with pytest.raises(BundleInvalid, match=r"conditioner\.safetensors"):
        async with Orchestrator.running(settings):
            pass


async def test_without_a_bundle_it_is_said_what_is_missing(tmp_path: Path) -> None:
    """The start ends with one sentence that names the file."""
    settings = OrchestratorSettings(bundle=tmp_path / "nothing", orchestrator_listen="127.0.0.1:0")
    with pytest.raises(BundleInvalid, match=r"manifest\.json"):
        async with Orchestrator.running(settings):
            pass


async def test_metrics_count_streams_and_refusals(
    orchestrator: Orchestrator, stub: OrchestratorServiceStub, manifest: Manifest
) -> None:
    """What happened can be read from the registry."""
    stream = WorkerStream(stub, manifest)
    await stream.open(EMPTY)
    read = orchestrator.metrics.registry.get_sample_value
    assert read("cuelight_sessions") == 1
    with pytest.raises(InvalidInput):
        await stream.ask(begin=pb.Begin(say=["x" * 20_000]))
    assert read("cuelight_refusals_total", {"reason": "INVALID_INPUT"}) == 1
    assert read("cuelight_stage_seconds_count", {"stage": "orchestrator_open"}) == 1
