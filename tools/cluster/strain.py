"""What load and trouble do to the release while a viewer watches: how many of each there are, and which alerts fire."""

from __future__ import annotations

import asyncio
import time

from tools.cluster.adapter import adapting
from tools.cluster.cluster import GATEWAY_ADDRESS, Cluster
from tools.cluster.scenarios import FIRST, PATIENCE_S, SLOTS, NotHere, host_of, values
from tools.cluster.viewer import Viewer

CALM_S = 10.0
"""Alerts are silent when none has fired for this long."""
HANG_S = 9.0
"""A process is stopped for this long: longer than a lease."""
STALL_S = 14.0
"""And for this long, when what is made ahead must be used up meanwhile."""
SLOW = 0.7
"""A machine whose chunks take so much of their length on the mean makes some of them late."""
PULSE_S = 4.0
"""And for this long, when the chunk that is next must be late."""


async def scale(cluster: Cluster, viewer: Viewer) -> str:
    """One worker is enough for one session; more sessions make three of it, and their end makes it one again."""
    await cluster.release.upgrade(values(fleet_buffer_slots=1), int(PATIENCE_S))
    if await host_of(cluster, viewer) != FIRST:
        # Sessions are packed to low ordinals as they come; an operator packs one that is there already.
        await cluster.command("fleet", "cuelight", "fleet", "move", viewer.session_id, "--to", FIRST)
    await cluster.until_ready("worker", 1, PATIENCE_S)
    # With the viewer's and one spare slot: one more than two workers have. They fall silent soon, and keep their slots.
    crowd = [Viewer(GATEWAY_ADDRESS, f"crowd-{number}", words=30) for number in range(2 * SLOTS - 1)]
    began = time.monotonic()
    try:
        for each in crowd:
            each.start()
        for each in crowd:
            # Who came first may have said all it has by now.
            await each.until(lambda seen: bool(seen.whole), PATIENCE_S, "a first chunk in the crowd")
        await cluster.until_ready("worker", 3, PATIENCE_S)
        up_s = time.monotonic() - began
    finally:
        for each in crowd:
            await each.stop()
    began = time.monotonic()
    await cluster.until_ready("worker", 1, PATIENCE_S)
    await viewer.more(2, PATIENCE_S)
    lost = sum(bool(each.seen.error) + each.seen.lost + each.seen.doubled for each in crowd)
    if lost:
        raise RuntimeError(f"the crowd lost {lost}")
    return f"1 to 3 workers in {up_s:.1f} s, back to 1 in {time.monotonic() - began:.1f} s"


async def orchestrators(cluster: Cluster, viewer: Viewer) -> str:
    """A target that conditions do not keep adds an orchestrator; one that they keep takes it away again."""
    began = time.monotonic()
    await cluster.release.upgrade(values(fleet_condition_target_ms=0.1), int(PATIENCE_S))
    await cluster.until_ready("orchestrator", 2, PATIENCE_S)
    up_s = time.monotonic() - began
    await viewer.more(2, PATIENCE_S)
    began = time.monotonic()
    await cluster.release.upgrade(values(), int(PATIENCE_S))
    await cluster.until_ready("orchestrator", 1, PATIENCE_S)
    await viewer.more(2, PATIENCE_S)
    return f"1 to 2 orchestrators in {up_s:.1f} s, back to 1 in {time.monotonic() - began:.1f} s"


async def autoscaler(cluster: Cluster, viewer: Viewer) -> str:
    """Where the controller sets no numbers, an autoscaler reads from an adapter how many it wants, and sets them."""
    changed = values(fleet_buffer_slots=2 * SLOTS)
    changed["fleet"] |= {"scaleWorkers": False, "autoscaler": {"enabled": True}}
    async with adapting(cluster, cluster.plane.folder) as asked:
        await cluster.release.upgrade(changed, int(PATIENCE_S))
        began = time.monotonic()
        await cluster.until_ready("worker", 3, PATIENCE_S)
        scaled_s = time.monotonic() - began
    if set(asked) != {"state=wanted"}:
        raise RuntimeError(f"the autoscaler asked for {set(asked)}")
    await viewer.more(1, PATIENCE_S)
    return f"read {len(asked)} times, 3 workers after {scaled_s:.1f} s"


async def alerts(cluster: Cluster, viewer: Viewer) -> str:
    """Silent while all is well; each of three troubles fires its alert; silent again when it is over."""
    await cluster.release.upgrade(values(fleet_max_workers=2), int(PATIENCE_S))
    await cluster.until_ready("worker", 2, PATIENCE_S)
    try:
        calm_s = await _until_silent(cluster, "before any trouble")
    except TimeoutError:
        await _check_speed(cluster)
        raise
    full_s = await _without_slots(cluster)
    await _until_silent(cluster, "with slots again")
    fenced_s = await _with_a_worker_that_hangs(cluster, viewer)
    late_s = await _with_an_orchestrator_that_hangs(cluster, viewer)
    again_s = await _until_silent(cluster, "after all trouble")
    fired = f"no free slots after {full_s:.0f} s, writes fenced after {fenced_s:.0f} s, deadlines after {late_s:.0f} s"
    return f"silent after {calm_s:.0f} s; {fired}; silent again after {again_s:.0f} s"


async def _check_speed(cluster: Cluster) -> None:
    """Chunks that come late by themselves fire alerts for ever. Raises NotHere where that is the machine's fault."""
    taken = await cluster.prometheus.value(
        "sum(increase(cuelight_rtf_sum[60s])) / sum(increase(cuelight_rtf_count[60s]))"
    )
    if taken is not None and taken > SLOW:
        raise NotHere(f"chunks take {taken:.2f} of their length here, so alerts are never silent")


async def _without_slots(cluster: Cluster) -> float:
    """Viewers take every slot that two workers have."""
    crowd = [Viewer(GATEWAY_ADDRESS, f"full-{number}", words=30) for number in range(2 * SLOTS - 1)]
    began = time.monotonic()
    try:
        for each in crowd:
            each.start()
        await _until_fires(cluster, "CuelightNoFreeSlots")
    finally:
        for each in crowd:
            await each.stop()
    return time.monotonic() - began


async def _with_a_worker_that_hangs(cluster: Cluster, viewer: Viewer) -> float:
    """The session's worker is stopped for longer than its lease; what it writes on waking is refused."""
    pod, began = await host_of(cluster, viewer), time.monotonic()
    async with cluster.frozen(pod):
        await asyncio.sleep(HANG_S)
    await _until_fires(cluster, "CuelightFencedWrites")
    await viewer.more(2, PATIENCE_S)
    return time.monotonic() - began


async def _with_an_orchestrator_that_hangs(cluster: Cluster, viewer: Viewer) -> float:
    """The only orchestrator stands still until nothing is left that was made ahead, and then before each chunk."""
    began, stop_s = time.monotonic(), STALL_S
    (pod,) = await cluster.ready("orchestrator")
    while "CuelightDeadlinesMissed" not in await cluster.prometheus.firing():
        if time.monotonic() - began > PATIENCE_S:
            raise TimeoutError(f"waited {PATIENCE_S:g} s for late chunks to be told of in vain")
        async with cluster.frozen(pod):
            await asyncio.sleep(stop_s)
        await viewer.more(1, PATIENCE_S)
        stop_s = PULSE_S
    return time.monotonic() - began


async def _until_fires(cluster: Cluster, alert: str) -> None:
    async def fires() -> bool:
        return alert in await cluster.prometheus.firing()

    await cluster.until(fires, PATIENCE_S, f"{alert} to fire")


async def _until_silent(cluster: Cluster, when: str) -> float:
    """Wait until no alert has fired for a while; returns how long that took."""
    began = heard = time.monotonic()

    async def is_silent() -> bool:
        nonlocal heard
        if await cluster.prometheus.firing():
            heard = time.monotonic()
        return time.monotonic() - heard > CALM_S

    await cluster.until(is_silent, PATIENCE_S, f"silence {when}")
    return time.monotonic() - began
