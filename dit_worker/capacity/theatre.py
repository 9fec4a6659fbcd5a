"""A worker in virtual time: the scheduler, pacing, admission and ladder of production, and stages that take time.

What the engine and the loop of a session do around those classes is done here in the same order: plan, choose the
steps, put in flight, condition and step in turn, end, commit, hand over to decoding, make way for an answer. It knows
no tensors and no network but a delay.
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from dit_worker.capacity.audience import Audience, Entry, Experience, Line
from dit_worker.capacity.media import Chunk, Done, Pipeline
from dit_worker.capacity.profile import PlaceName, Profile, Stage
from dit_worker.capacity.world import Call, Place, Pool, World
from dit_worker.engine.admission import Admission, AdmissionLimits, Load
from dit_worker.engine.costs import ChunkCost, Costs
from dit_worker.engine.ladder import Ladder, Pace, Rungs
from dit_worker.engine.pacing import Pacing, PacingLimits
from dit_worker.engine.playback import Player
from dit_worker.engine.scheduler import ORDERS, Scheduler

REPORT_S = 0.25
"""A client says where it is as often as that."""
_IDLE_WAIT_S = 0.5
_REHEARSED = 3


@dataclass(frozen=True, slots=True)
class Policy:
    """The settings of a worker, under the names they have there."""

    order: str = "earliest_deadline"
    utilisation_bound: float | None = 0.92
    """None takes everybody."""
    listening_share: float = 1.0
    run_ahead_chunks: int = 2
    fidelity_floor_steps: int | None = 2
    """None gives every chunk all its steps."""
    first_chunk_target_s: float = 0.8
    deadline_margin_s: float = 0.05
    slots: int = 1024


class Theatre:
    """One worker, its orchestrator and its store."""

    def __init__(self, world: World, profile: Profile, policy: Policy, rng: random.Random) -> None:
        self.world, self.profile, self.policy, self.rng = world, profile, policy, rng
        self.pools = {name: Pool(world, many, profile.competitors) for name, many in profile.pools.items()}
        self.scheduler = Scheduler(world.clock, ORDERS[policy.order]())
        self.costs = Costs(profile.steps)
        limits = AdmissionLimits(policy.utilisation_bound or math.inf, policy.listening_share)
        self.admission = Admission(self.costs, profile.chunk_s, limits)
        self.pace = Pace()
        self.on_stage: dict[str, Performance] = {}
        self.refusals = 0
        self.most = 0
        """Sessions that were on stage at a time."""
        self._places: dict[PlaceName, Place] = {
            name: Place(world, self.pools.get(place.pool), place.threads) for name, place in profile.places.items()
        }
        self._places.setdefault("gateway", Place(world, None, 1))
        self.running: str | None = None
        """Whose quantum runs."""
        self._looks_again = False
        self._rehearse()

    def take(self, audience: Audience, entry: Entry) -> Experience | None:
        """A session comes; None when it is refused."""
        if len(self.on_stage) >= self.policy.slots or not self.admission.can_take(self._load()):
            self.refusals += 1
            return None
        name = f"s{len(self.on_stage)}-{self.world.now:.6f}-{self.rng.random()}"
        performance = Performance(self, name, audience, entry.lines)
        self.on_stage[name] = performance
        self.most = max(self.most, len(self.on_stage))
        self.scheduler.add(name)
        performance.start()
        performance.experience.life_s = min(entry.life_s, audience.run_s - self.world.now)
        self.world.after(entry.life_s, performance.leave)
        return performance.experience

    def forget(self, name: str) -> None:
        """A session ended."""
        gone = self.on_stage.pop(name)
        self.scheduler.remove(name)
        self.admission.ended(gone.experience.life_s)

    def draw(self, *stages: Stage) -> float:
        """Seconds that these stages take together this time."""
        return sum(self.profile.draw(stage, self.rng) for stage in stages)

    def submit(self, place: PlaceName, seconds: float, done: Done) -> None:
        """Work for a place; `done` hears how long it took."""
        self._places[place].submit(seconds, done)

    def command(self, call: Call) -> None:
        """A word to the engine, which it hears when no quantum runs and before the next one does."""
        self.submit("device", 0.0, lambda _took_s: call())

    def run_device(self) -> None:
        """The engine's loop: the next quantum, unless one runs."""
        if self.running is not None:
            return
        name = self.scheduler.next()
        if name is None:
            if not self._looks_again:  # an order may leave the device idle beside somebody who could run
                self._looks_again = True
                self.world.after(_IDLE_WAIT_S, self._look_again)
            return
        self.running = name
        performance = self.on_stage[name]
        seconds, settle = performance.quantum()

        def done(took_s: float) -> None:
            self.running = None
            if name in self.on_stage:
                settle(took_s)
            self.run_device()

        self.submit("device", seconds, done)

    def _look_again(self) -> None:
        self._looks_again = False
        self.run_device()

    def _load(self) -> Load:
        listening = sum(performance.is_listening for performance in self.on_stage.values())
        return Load(len(self.on_stage) - listening, listening)

    def _rehearse(self) -> None:
        """As at the start of a worker: a few chunks, and nobody else there."""
        steps = self.profile.steps
        for _ in range(_REHEARSED):
            taken = [self.draw("step") for _ in range(steps)]
            motion_s = self.draw("motion")
            cost = ChunkCost(
                steps=steps,
                step_s=sum(taken) / steps,
                condition_s=self.draw("condition", "exchange"),
                motion_s=motion_s,
                direction_s=self.draw("plan", "exchange") + self.draw("end", "exchange"),
                media_s=self.draw("decode", "encode"),
                quantum_s=max(motion_s, *taken),
            )
            self.costs.add(cost)


class Performance:
    """One session at the worker, and its client."""

    def __init__(self, theatre: Theatre, name: str, audience: Audience, lines: Sequence[Line] | None) -> None:
        """lines: what is asked for; None leaves that to chance."""
        policy, profile = theatre.policy, theatre.profile
        self._theatre, self._world, self._name, self._audience = theatre, theatre.world, name, audience
        self.experience = Experience()
        self._came_at, self._lines = theatre.world.now, None if lines is None else deque(lines)
        limits = PacingLimits(
            chunk_s=profile.chunk_s,
            max_ahead_s=policy.run_ahead_chunks * profile.chunk_s,
            first_chunk_target_s=policy.first_chunk_target_s,
            margin_s=policy.deadline_margin_s,
        )
        self._pacing = Pacing(theatre.world.clock, limits, media=lambda: theatre.costs.media_s)
        floor = profile.steps if policy.fidelity_floor_steps is None else policy.fidelity_floor_steps
        if audience.kind == "script":
            floor = profile.steps
        floor, has_light = min(profile.steps, floor), bool(profile.seconds.get("light_decode"))
        self._ladder = Ladder(Rungs(profile.steps, floor, has_light=has_light and floor < profile.steps))
        self._player = Player(self.experience)
        self._position = 0
        self._speech_left = 0
        """Chunks of the answer that are not made yet."""
        self._asked_at = self._said_at = theatre.world.now
        self._is_answer_due = False
        self._chunk: Chunk | None = None
        self._is_stale = True
        self._is_conditioned = False
        self._said: list[tuple[int, float]] = []
        """Chunks of answers that were asked for and not taken note of, and when."""
        self._pipeline = Pipeline(self._decode, self._encode, self._publish)
        self._is_standing = True
        """False while idle chunks are taken back."""
        self._is_drained = True
        """Whether nobody waits for a chunk that is on its way, whose processor the next must not take."""
        self._unanswered_since: float | None = theatre.world.now if audience.kind == "conversation" else None
        self._is_gone = False

    # what the client does ---------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Come, and ask for the first thing."""
        self._queue()
        if self._audience.kind == "script":
            self._say(math.ceil(self._audience.run_s / self._pacing.limits.chunk_s))
        elif self._audience.kind == "turns":
            self._talk()
        else:
            self._consider()
            self._listen()
        self._world.after(REPORT_S, self._report)

    def leave(self) -> None:
        """Go. A cue that was not answered counts with the time it waited, an answer that came does not."""
        self._is_gone = True
        self._player.leave(self._world.now)
        if self._unanswered_since is not None:
            self.experience.ttfcs_s.append(self._world.now - self._unanswered_since)
        self._theatre.forget(self._name)

    def _report(self) -> None:
        if self._is_gone:
            return
        self._pacing.acknowledge(self._player.look(self._world.now))
        self._consider()
        self._world.after(REPORT_S, self._report)

    def _listen(self, left_s: float = 0.0) -> None:
        """Hear out what is left of an answer, be silent for a while, and talk."""
        if self._lines is None:
            self._world.after(left_s + self._theatre.rng.expovariate(1 / self._audience.listen_s), self._talk)
        elif self._lines:
            line = self._lines.popleft()
            silent_s = self._came_at + line.at_s - self._world.now
            self._world.after(max(left_s, silent_s), lambda: self._say(line.chunks))

    def _talk(self) -> None:
        seconds = self._theatre.rng.expovariate(1 / self._audience.talk_s)
        self._say(max(1, math.ceil(seconds / self._pacing.limits.chunk_s)))

    def _say(self, chunks: int) -> None:
        if self._is_gone:
            return
        asked_at = self._unanswered_since = self._world.now

        def arrive() -> None:
            if self._is_gone:
                return
            self._said.append((chunks, asked_at))
            if (
                self._is_conditioned
                and self._chunk
                and not self._chunk.is_speech
                and self._theatre.running != self._name
            ):
                self._abort()  # an idle chunk that waits for its turn is worth nothing any more
            self._consider()

        self._world.after(self._audience.network_s, arrive)

    def _receive(self, chunk: Chunk) -> None:
        if self._is_gone or chunk.is_cut:
            return
        chunk_s, now = self._pacing.limits.chunk_s, self._world.now
        self._player.receive((chunk.position + 1) * chunk_s, now)
        self._player.expects_more = not chunk.is_last or self._audience.kind == "conversation"
        if chunk.asked_at is not None:
            if chunk.is_speech:
                self.experience.ttfcs_s.append(now - chunk.asked_at)
            else:
                self.experience.opening_s = now - chunk.asked_at
            self._unanswered_since = None if chunk.asked_at == self._unanswered_since else self._unanswered_since
        if chunk.is_last and self._audience.kind != "script":
            self._listen(self._player.has_s - self._player.look(now))

    # what the session's loop at the worker does -----------------------------------------------------------------------

    @property
    def is_listening(self) -> bool:
        """Whether nothing is made now."""
        return not (self._speech_left or self._said or self._audience.kind == "conversation")

    def _consider(self) -> None:
        """Take note of what was said, and begin the next chunk if there is one to make and the cap allows it."""
        if self._chunk is not None or self._is_gone or self._pipeline.is_full or not self._is_drained:
            return
        while self._said and self._is_standing:
            self._take_note(*self._said.pop(0))
        if not self._is_standing:
            return
        wants = self._speech_left > 0 or self._audience.kind == "conversation"
        is_first = self._position == 0 or (self._speech_left > 0 and self._is_answer_due)
        if not wants or not self._pacing.can_begin(self._position, is_answer=is_first):
            return
        self._chunk = Chunk(self._position, self._speech_left > 0, self._said_at if is_first else None)
        self._theatre.submit("orchestrator", self._theatre.draw("plan", "exchange"), self._planned)

    def _take_note(self, chunks: int, said_at: float) -> None:
        """Words came: idle chunks that will not be on when the first of them can be make way."""
        if not self._speech_left:
            self._said_at, self._asked_at, self._is_answer_due = said_at, self._world.now, True
            limits = self._pacing.limits
            kept = math.floor(self._pacing.playhead_in(limits.first_chunk_target_s) / limits.chunk_s) + 1
            if kept < self._position:
                self._position = kept
                self._pacing.retire(kept * limits.chunk_s)
                self._player.retire(kept * limits.chunk_s, self._world.now)
                self._pipeline.retire(kept)
                self._is_standing = False
                seconds = self._theatre.draw("cut", "exchange")
                self._theatre.submit("gateway", seconds, lambda _took_s: self._theatre.command(self._stood))
        self._speech_left += chunks

    def _stood(self) -> None:
        """The idle chunks are taken back, orchestrator and engine stand behind what is left."""
        if self._is_gone:
            return
        self._is_standing = self._is_stale = True
        self._theatre.submit("decode", self._theatre.draw("stand"), lambda _took_s: None)
        self._queue()
        self._consider()

    def _planned(self, took_s: float) -> None:
        chunk = self._chunk
        if self._is_gone or chunk is None:
            return
        due_at = self._pacing.deadline(chunk.position, self._asked_at, is_answer=chunk.asked_at is not None)
        chunk.steps, chunk.is_light = self._ladder.choose(due_at - self._world.now, self._theatre.pace.step_s)
        chunk.spent = ChunkCost(chunk.steps, 0.0, 0.0, direction_s=took_s, is_light=chunk.is_light)
        chunk.steps_left, chunk.took_off_at = chunk.steps, self._world.now
        chunk.due_at = due_at
        self._theatre.command(self._begin)

    def _begin(self) -> None:
        if self._is_gone or self._chunk is None:
            return
        self._theatre.scheduler.begin(self._name, self._chunk.position, self._chunk.due_at)
        self._ask()

    def _ask(self) -> None:
        asked_at = self._world.now

        def answered(_took_s: float) -> None:
            if self._is_gone or self._chunk is None:
                return
            waited_s = (self._world.now - asked_at) / self._chunk.steps
            self._chunk.spent = replace(self._chunk.spent, condition_s=self._chunk.spent.condition_s + waited_s)
            self._is_conditioned = True
            self._queue()

        self._theatre.submit("orchestrator", self._theatre.draw("condition", "exchange"), answered)

    def _queue(self) -> None:
        can_run = self._is_stale or self._is_conditioned
        (self._theatre.scheduler.unpark if can_run else self._theatre.scheduler.park)(self._name)
        self._theatre.run_device()

    def quantum(self) -> tuple[float, Callable[[float], None]]:
        """What the device does for this session next: how long it takes, and what then."""
        if self._is_stale:
            return self._theatre.draw("motion"), self._refreshed
        return self._theatre.draw("step"), self._stepped

    def _refreshed(self, took_s: float) -> None:
        self._is_stale = False
        if self._chunk is not None:
            spent = self._chunk.spent
            longest_s = max(spent.quantum_s, took_s)
            self._chunk.spent = replace(spent, motion_s=spent.motion_s + took_s, quantum_s=longest_s)
        self._queue()

    def _stepped(self, took_s: float) -> None:
        chunk, self._is_conditioned = self._chunk, False
        assert chunk is not None, "a step is of a chunk"
        step_s = chunk.spent.step_s + took_s / chunk.steps
        chunk.spent = replace(chunk.spent, step_s=step_s, quantum_s=max(chunk.spent.quantum_s, took_s))
        chunk.steps_left -= 1
        if self._said and not chunk.is_speech:
            self._abort()
        elif chunk.steps_left:
            self._ask()
        else:
            self.experience.slacks_s.append(self._theatre.scheduler.finish(self._name))
            self.experience.steps.append(chunk.steps)
            chunk.done_at = self._world.now
            self._theatre.pace.add(chunk.steps, self._world.now - chunk.took_off_at)
            self._theatre.submit("orchestrator", self._theatre.draw("end", "exchange"), self._ended)
        self._queue()

    def _abort(self) -> None:
        self._is_conditioned = False
        self._queue()
        self._theatre.command(self._aborted)

    def _aborted(self) -> None:
        if self._is_gone:
            return
        self._theatre.scheduler.finish(self._name)
        self._chunk = None
        self._queue()
        self._consider()

    def _ended(self, took_s: float) -> None:
        if self._chunk is not None:
            spent = self._chunk.spent
            self._chunk.spent = replace(spent, direction_s=spent.direction_s + took_s)
            commit_s = self._theatre.draw("commit")
            self._theatre.submit("store", commit_s, lambda _took_s: self._theatre.command(self._committed))

    def _committed(self) -> None:
        chunk = self._chunk
        if self._is_gone or chunk is None:
            return
        self._chunk, self._asked_at, self._is_stale = None, self._world.now, True
        self._position += 1
        if chunk.is_speech:
            self._speech_left -= 1
            self._is_answer_due = False
            chunk.is_last = self._speech_left == 0
        self._is_drained = chunk.asked_at is None
        self._pipeline.put(chunk)
        self._queue()
        self._consider()

    def _decode(self, chunk: Chunk, done: Done) -> None:
        seconds = self._theatre.draw("light_decode" if chunk.is_light else "decode")
        self._theatre.submit("decode", 0.0 if chunk.is_cut else seconds, done)

    def _encode(self, chunk: Chunk, done: Done) -> None:
        self._theatre.submit("encode", 0.0 if chunk.is_cut else self._theatre.draw("encode"), done)

    def _publish(self, chunk: Chunk, media_s: float) -> None:
        if self._is_gone:
            return
        if not chunk.is_cut:
            self._theatre.costs.add(replace(chunk.spent, media_s=media_s))
            self._pacing.deliver((chunk.position + 1) * self._pacing.limits.chunk_s)
            self._deliver(chunk)
        self._is_drained |= self._pipeline.is_empty
        self._consider()

    def _deliver(self, chunk: Chunk) -> None:
        def delivered(_took_s: float) -> None:
            self._world.after(self._audience.network_s, lambda: self._receive(chunk))

        self._theatre.submit("gateway", self._theatre.draw("delivery"), delivered)
