"""Planners and conditioners swapped under live streams: at chunk boundaries, by share, and back when they fail."""

from __future__ import annotations

import json
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path

import pytest
from grpc import aio
from safetensors.torch import load_file, save_file

from cuelight.v1 import orchestrator_admin_pb2 as pb
from cuelight.v1.orchestrator_admin_pb2_grpc import OrchestratorAdminServiceStub
from orchestrator_llm.service.process import Orchestrator
from orchestrator_llm.service.rollout import Rollout
from orchestrator_llm.service.swap import SwapLimits
from services.bundle import Manifest, load_manifest
from services.errors import InvalidInput
from services.serving import error_from_rpc
from services.session import HistoryChunk, Snapshot
from tests.fakes.llm_server import llm_server
from tests.fixtures.tiny_bundle import build_tiny_bundle
from tests.integration.orchestrator_llm.conftest import WorkerStream, latents
from tests.integration.orchestrator_llm.test_planning import chunk, running, streaming

SHORT = SwapLimits(move_s=0.2, watch_s=0.2)


@asynccontextmanager
async def admin_of(orchestrator: Orchestrator) -> AsyncIterator[OrchestratorAdminServiceStub]:
    """An operator."""
    for swaps in (orchestrator.swaps.planners, orchestrator.swaps.conditioners):
        swaps.swapper.limits = SHORT
    async with aio.insecure_channel(orchestrator.rpc.address) as channel:
        yield OrchestratorAdminServiceStub(channel)


async def steps_of(call: aio.UnaryStreamCall[object, object]) -> list[pb.SwapProgress]:
    """All steps of a swap. Raises our error."""
    try:
        return [response.progress async for response in call]  # type: ignore[attr-defined]
    except aio.AioRpcError as fault:
        raise (error_from_rpc(fault) or fault) from fault


async def planned_by(streams: list[WorkerStream], index: int) -> list[str]:
    """Who plans the next chunk of each."""
    return [(await chunk(stream, index))[0].planner for stream in streams]


async def test_live_sessions_move_at_their_next_chunk(tiny_bundle: Path, manifest: Manifest) -> None:
    """From rules to a model and back, under eight streams, one of which asked for the rules and keeps them.

    While the model takes its time to warm up, all of them go on.
    """
    with llm_server("good", is_held=True) as server:
        async with (
            running(tiny_bundle) as orchestrator,
            streaming(orchestrator) as stub,
            admin_of(orchestrator) as admin,
        ):
            streams = [WorkerStream(stub, manifest, f"s{number}") for number in range(8)]
            for number, stream in enumerate(streams):
                await stream.open(planner="rule" if number == 7 else "")
            assert await planned_by(streams, 0) == ["rule"] * 8
            call = admin.SwapPlanner(pb.SwapPlannerRequest(to=server.spec))
            phases = []
            async for response in call:
                phases.append(response.progress.phase)
                if phases == [pb.SWAP_PHASE_WARMING]:
                    assert await planned_by(streams, 1) == ["rule"] * 8
                    server.is_held = False
                if response.progress.phase == pb.SWAP_PHASE_MOVING:
                    assert await planned_by(streams, 2) == [server.spec] * 7 + ["rule"]
            assert phases == [
                pb.SWAP_PHASE_WARMING, pb.SWAP_PHASE_CHECKING, pb.SWAP_PHASE_CHECKING, pb.SWAP_PHASE_MOVING,
                pb.SWAP_PHASE_WATCHING, pb.SWAP_PHASE_DONE,
            ]  # fmt: skip
            status = await admin.GetPlanners(pb.GetPlannersRequest())
            assert (status.current, status.candidate) == (server.spec, "")
            assert {planner.name: planner.sessions for planner in status.planners} == {server.spec: 7, "rule": 1}
            await steps_of(admin.SwapPlanner(pb.SwapPlannerRequest(to="rule")))
            assert await planned_by(streams, 3) == ["rule"] * 8


async def test_a_share_of_sessions_moves(tiny_bundle: Path, manifest: Manifest) -> None:
    """By percentage always the same sessions move, and the planner in use stays the old one."""
    with llm_server("good") as server:
        async with (
            running(tiny_bundle) as orchestrator,
            streaming(orchestrator) as stub,
            admin_of(orchestrator) as admin,
        ):
            names = [f"s{number}" for number in range(6)]
            streams = [WorkerStream(stub, manifest, name) for name in names]
            for stream in streams:
                await stream.open()
            await steps_of(admin.SwapPlanner(pb.SwapPlannerRequest(to=server.spec, percent=50, unchecked=True)))
            rollout = Rollout("rule")
            rollout.begin(server.spec, 50)
            expected = [rollout.choose(name) for name in names]
            assert set(expected) == {"rule", server.spec}
            assert await planned_by(streams, 0) == expected
            status = await admin.GetPlanners(pb.GetPlannersRequest())
            assert (status.current, status.candidate, status.percent) == ("rule", server.spec, 50)


@pytest.mark.parametrize("unchecked", [False, True])
async def test_a_broken_planner_is_taken_back(tiny_bundle: Path, manifest: Manifest, unchecked: bool) -> None:
    """Sessions stay or go back where they were, and a sentence says why."""
    with llm_server("broken") as server:
        async with (
            running(tiny_bundle) as orchestrator,
            streaming(orchestrator) as stub,
            admin_of(orchestrator) as admin,
        ):
            stream = WorkerStream(stub, manifest)
            await stream.open(regime="narrator")
            await chunk(stream, 0)
            steps = await steps_of(admin.SwapPlanner(pb.SwapPlannerRequest(to=server.spec, unchecked=unchecked)))
            assert steps[-1].phase == pb.SWAP_PHASE_BACK
            assert "is not used" in steps[-1].text
            assert await planned_by([stream], 1) == ["rule"]


async def test_a_conditioner_that_only_reads_plans_for_nobody(tiny_bundle: Path, manifest: Manifest) -> None:
    """Asked to plan by itself, it is not used: a sentence names the bundle and what may plan instead."""
    async with running(tiny_bundle) as orchestrator, streaming(orchestrator) as stub, admin_of(orchestrator) as admin:
        stream = WorkerStream(stub, manifest)
        await stream.open()
        steps = await steps_of(admin.SwapPlanner(pb.SwapPlannerRequest(to="own")))
        assert steps[-1].phase == pb.SWAP_PHASE_BACK
        assert f"bundle {manifest.name} {manifest.version} reads and cannot write" in steps[-1].text
        assert await planned_by([stream], 0) == ["rule"]


async def test_a_planner_that_fails_in_use_is_taken_back(tiny_bundle: Path, manifest: Manifest) -> None:
    """It warms well and then breaks under a live session: while it is watched that is seen, and undone."""
    with llm_server("good") as server:
        async with (
            running(tiny_bundle) as orchestrator,
            streaming(orchestrator) as stub,
            admin_of(orchestrator) as admin,
        ):
            stream = WorkerStream(stub, manifest)
            await stream.open(regime="narrator")
            await chunk(stream, 0)
            orchestrator.swaps.planners.swapper.limits = SwapLimits(move_s=5.0, watch_s=10.0)
            last = None
            async for response in admin.SwapPlanner(pb.SwapPlannerRequest(to=server.spec, unchecked=True)):
                last = response.progress
                if last.phase == pb.SWAP_PHASE_MOVING:
                    server.behaviour = "broken"
                    assert await planned_by([stream], 1) == [server.spec]
            assert last is not None
            assert last.phase == pb.SWAP_PHASE_BACK
            assert "could not be used" in last.text
            assert await planned_by([stream], 2) == ["rule"]


@pytest.mark.parametrize("to", ["", "gpt", "openai:model", "openai:m@ftp://x", "vllm:", "x" * 5000, "openai:@http://x"])
async def test_what_names_no_planner_is_refused(tiny_bundle: Path, to: str) -> None:
    """INVALID_ARGUMENT with the field, before anything is loaded."""
    async with running(tiny_bundle) as orchestrator, admin_of(orchestrator) as admin:
        with pytest.raises(InvalidInput, match=r"planner") as caught:
            await steps_of(admin.SwapPlanner(pb.SwapPlannerRequest(to=to)))
        assert caught.value.field == "to"


def tuned_bundle(bundle: Path, folder: Path) -> Path:
    """The same bundle with another conditioner of the same shape, as fine-tuning would leave it."""
    shutil.copytree(bundle, folder)
    weights = load_file(folder / "conditioner.safetensors")
    name = next(key for key, value in sorted(weights.items()) if value.ndim == 2)
    weights[name] = weights[name] * 1.5
    save_file(weights, folder / "conditioner.safetensors")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["version"] = "0.1.0-tuned"
    manifest["files"]["conditioner.safetensors"] = sha256((folder / "conditioner.safetensors").read_bytes()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


async def test_a_tuned_conditioner_comes_into_use_under_a_live_session(
    tiny_bundle: Path, manifest: Manifest, tmp_path: Path
) -> None:
    """From the next chunk on the conditions are the other model's, exactly as if the session had begun with it."""
    tuned = tuned_bundle(tiny_bundle, tmp_path / "tuned")
    async with running(tiny_bundle) as orchestrator, streaming(orchestrator) as stub, admin_of(orchestrator) as admin:
        stream = WorkerStream(stub, manifest)
        await stream.open()
        await stream.begin(0, ["hello there"])
        before = await stream.denoise(0, 0, latents(1, 0))
        steps = await steps_of(admin.SwapConditioner(pb.SwapConditionerRequest(bundle=str(tuned))))
        assert steps[-1].phase == pb.SWAP_PHASE_DONE
        assert (await stream.denoise(0, 0, latents(1, 0)) == before).all(), "a chunk ends with what it began with"
        progress = await stream.end(0, latents(2, 0))
        history = (HistoryChunk(0.0, latents(2, 0)),)
        fresh = WorkerStream(stub, manifest, "fresh")
        await fresh.open(Snapshot(("hello there",), progress.pointer_token, progress.pointer_word, history))
        conditions = []
        for directed in (stream, fresh):
            await directed.begin(1)
            conditions.append(await directed.denoise(1, 0, latents(1, 1)))
        assert (conditions[0] == conditions[1]).all()
        await fresh.end(1, latents(2, 1))
        assert (conditions[0] != before).any()
        status = await admin.GetPlanners(pb.GetPlannersRequest())
        assert "0.1.0-tuned" in status.conditioner


async def test_a_conditioner_of_another_transformer_is_refused(tiny_bundle: Path, tmp_path: Path) -> None:
    """A sentence names both bundles, and nothing changes."""
    other = build_tiny_bundle(tmp_path / "other", seed=1, name="other")
    async with running(tiny_bundle) as orchestrator, admin_of(orchestrator) as admin:
        for folder in (other, tmp_path / "nothing"):
            steps = await steps_of(admin.SwapConditioner(pb.SwapConditionerRequest(bundle=str(folder))))
            assert steps[-1].phase == pb.SWAP_PHASE_BACK
        mismatch = await steps_of(admin.SwapConditioner(pb.SwapConditionerRequest(bundle=str(other))))
        for manifest in (load_manifest(other), load_manifest(tiny_bundle)):
            assert f"{manifest.name} {manifest.version}" in mismatch[-1].text
        assert load_manifest(tiny_bundle).digest[:12] in (await admin.GetPlanners(pb.GetPlannersRequest())).conditioner
