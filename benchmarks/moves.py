"""What does a viewer notice when a session moves from worker to worker?

    python benchmarks/moves.py --moves 20 [--bundle bundles/pocket] [--out out/benchmarks]

Starts Redis, an orchestrator, two workers and a gateway as processes, opens a session with the SDK, plays it in real
time, and has it moved to and fro, at moments drawn at random. Then the same words are performed undisturbed. Told are
the gaps between chunks at the client about a move and elsewhere, how long playback stood still, offsets lost and
doubled, how long nobody could make a chunk, and whether the pictures are those of the undisturbed run, bit for bit.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import random
import sys
import time
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import cuelight
from cuelight.cli.stack import Stack, StackOptions
from cuelight.v1 import worker_pb2, worker_pb2_grpc
from dit_worker.engine.playback import Playback, Player
from services.bundle import load_manifest
from services.serving import open_channel
from services.state import SessionStore

ROOT = Path(__file__).resolve().parents[1]
WORDS = "Good evening and welcome to the theatre where the lamps are lit and everybody waits for the first word. "
SEED = 7
_SETTLE_CHUNKS = 3
_MESSAGE_BYTES = 8 * 1024 * 1024


@dataclass
class Viewing:
    """What one viewer saw."""

    arrived: list[tuple[int, float]] = field(default_factory=list)
    """Chunk index and when it was complete here, monotonic."""
    offsets: list[int] = field(default_factory=list)
    pictures: dict[int, str] = field(default_factory=dict)
    """Digest of a chunk's video, by chunk index."""
    resumed: list[cuelight.Resumed] = field(default_factory=list)
    playback: Playback = field(default_factory=Playback)
    words: int = 0

    @property
    def lost(self) -> int:
        """Offsets that never came."""
        return len(set(range(max(self.offsets) + 1)) - set(self.offsets))

    @property
    def doubled(self) -> int:
        """Offsets that came more than once."""
        return len(self.offsets) - len(set(self.offsets))


@dataclass(frozen=True)
class Moved:
    """One move, as it was asked for."""

    asked_at: float
    answered_at: float
    handed_over_s: float
    next_chunk: int


async def main() -> None:
    """Run, print the table, write the JSON."""
    options = arguments()
    bundle = options.bundle.resolve()
    chunk_s = load_manifest(bundle).chunk_seconds
    environment = {"CUELIGHT_UTILISATION_BOUND": "100", "OMP_NUM_THREADS": "1", "CUELIGHT_LOG_LEVEL": "WARNING"}
    stack_options = StackOptions(
        workers=2, bundle=bundle, environment=environment, state_file=ROOT / "out" / "moves-stack.json"
    )
    words = WORDS * max(1, round((options.moves + 2) * options.every_s / 6.0))
    async with AsyncExitStack() as stack:
        running = await stack.enter_async_context(
            Stack(stack_options, on_line=_worry, on_ready=lambda name, _, seconds: print(f"{name} {seconds:.0f} s"))
        )
        store = await stack.enter_async_context(SessionStore.connect(running.redis_url))
        client = await stack.enter_async_context(cuelight.connect(running.target))
        moves: list[Moved] = []
        disturbed = await view(client, words, chunk_s, lambda name: move_about(store, name, options, moves))
        calm = await view(client, words, chunk_s, None)
    figures = judge(disturbed, calm, moves, chunk_s)
    print(json.dumps(figures, indent=1), flush=True)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "moves.json").write_text(json.dumps({"machine": machine(), **figures}, indent=1) + "\n")


async def view(
    client: cuelight.Client, words: str, chunk_s: float, disturb: Callable[[str], Coroutine[None, None, None]] | None
) -> Viewing:
    """Watch one session that speaks the words, played in real time, while `disturb` does to it what it does."""
    viewing = Viewing()
    player = Player(viewing.playback)
    player.expects_more = True
    ahead_s = 2 * chunk_s
    async with client.create_session(regime="scripted", seed=SEED, max_ahead_s=ahead_s) as session:
        await session.say(words)
        await session.end()
        disturbing = asyncio.create_task(disturb(session.name.rpartition("/")[2])) if disturb else None
        playing = asyncio.create_task(_play(session, player))
        tracks: dict[int, int] = {}
        try:
            async for event in session:
                now = time.monotonic()
                if isinstance(event, cuelight.Resumed):
                    viewing.resumed.append(event)
                elif isinstance(event, cuelight.Progress):
                    viewing.words += len(event.words)
                elif isinstance(event, cuelight.Media):
                    viewing.offsets.append(event.offset)
                    if event.track is cuelight.Track.VIDEO:
                        viewing.pictures[event.chunk_index] = hashlib.sha256(event.data).hexdigest()
                    tracks[event.chunk_index] = tracks.get(event.chunk_index, 0) + 1
                    if tracks[event.chunk_index] == len(session.tracks):
                        viewing.arrived.append((event.chunk_index, now))
                        player.receive((event.position + 1) * chunk_s, now)
        finally:
            for task in (playing, disturbing):
                if task is not None:
                    task.cancel()
            await asyncio.wait({task for task in (playing, disturbing) if task is not None})
    if disturbing is not None and not disturbing.cancelled():
        disturbing.result()
    return viewing


async def _play(session: cuelight.Session, player: Player) -> None:
    while True:
        await asyncio.sleep(0.05)
        session.report_playhead(player.look(time.monotonic()))


async def move_about(store: SessionStore, session_id: str, options: argparse.Namespace, moves: list[Moved]) -> None:
    """Have the session moved again and again, by whoever has it."""
    draw = random.Random(SEED)
    while (await store.get(session_id)).next_chunk_index < _SETTLE_CHUNKS:
        await asyncio.sleep(0.1)
    while len(moves) < options.moves:
        await asyncio.sleep(options.every_s * draw.uniform(0.5, 1.5))
        moves.append(await move(store, session_id))


async def move(store: SessionStore, session_id: str) -> Moved:
    """Ask the worker that has the session to give it away."""
    slot = await store.reserve_slot(session_id)
    async with open_channel(slot.address, _MESSAGE_BYTES, None) as channel:
        stub: worker_pb2_grpc.WorkerServiceAsyncStub = worker_pb2_grpc.WorkerServiceStub(channel)
        asked_at = time.monotonic()
        answer = await stub.Move(worker_pb2.MoveRequest(session_id=session_id), timeout=60)
        handed_over_s = answer.handed_over_in.ToTimedelta().total_seconds()
        return Moved(asked_at, time.monotonic(), handed_over_s, answer.next_chunk_index)


def judge(disturbed: Viewing, calm: Viewing, moves: list[Moved], chunk_s: float) -> dict[str, object]:
    """All figures, seconds."""
    made_after = frozenset(moved.next_chunk for moved in moves)
    about, elsewhere = gaps(disturbed, made_after), gaps(disturbed, None, leave_out=made_after)
    common = disturbed.pictures.keys() & calm.pictures.keys()
    stalls = [stall_s for stall_s in disturbed.playback.stalls_s if stall_s > 0.1]
    return {
        "moves": len(moves),
        "chunks": len(disturbed.arrived),
        "chunk_s": round(chunk_s, 4),
        "gap_about_a_move_s": quantiles(about),
        "gap_elsewhere_s": quantiles(elsewhere),
        "gap_undisturbed_s": quantiles(gaps(calm, None)),
        "prepared_and_moved_s": quantiles([moved.answered_at - moved.asked_at for moved in moves]),
        "handed_over_s": quantiles([moved.handed_over_s for moved in moves]),
        "stalls": len(stalls),
        "stall_s": round(sum(stalls), 3),
        "stalls_undisturbed": len([stall_s for stall_s in calm.playback.stalls_s if stall_s > 0.1]),
        "lost": disturbed.lost,
        "doubled": disturbed.doubled,
        "words": [disturbed.words, calm.words],
        "told": [str(event.cause) for event in disturbed.resumed].count("worker_moved"),
        "same_pictures": f"{sum(disturbed.pictures[at] == calm.pictures[at] for at in common)} of {len(calm.pictures)}",
    }


def gaps(viewing: Viewing, of: frozenset[int] | None, leave_out: frozenset[int] = frozenset()) -> list[float]:
    """Seconds from the completion of one chunk to that of the next, for these chunks or for all but the first two."""
    found = []
    for (_, before), (index, now) in zip(viewing.arrived, viewing.arrived[1:], strict=False):
        if (index in of) if of is not None else (index > 1 and index not in leave_out):
            found.append(now - before)
    return found


def quantiles(values: list[float]) -> dict[str, float]:
    """Median, 95th percentile and maximum."""
    ordered = sorted(values)
    if not ordered:
        return {}
    at = {"p50": len(ordered) // 2, "p95": min(len(ordered) - 1, int(0.95 * len(ordered))), "max": len(ordered) - 1}
    return {name: round(ordered[index], 3) for name, index in at.items()}


def machine() -> dict[str, object]:
    """What it ran on."""
    return {"cores": os.cpu_count(), "load": [round(load, 1) for load in os.getloadavg()]}


def arguments() -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--moves", type=int, default=20)
    parser.add_argument("--every-s", type=float, default=6.0, help="between moves, on average")
    parser.add_argument("--bundle", type=Path, default=ROOT / "bundles" / "pocket")
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "benchmarks")
    return parser.parse_args()


def _worry(name: str, line: str) -> None:
    if '"error"' in line or '"critical"' in line:
        print(name, line, file=sys.stderr)


if __name__ == "__main__":
    asyncio.run(main())
