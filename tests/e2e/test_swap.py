"""Planners swapped under live performances of the whole stack, by the command line, as an operator does it."""

from __future__ import annotations

import asyncio

import cuelight
from tests.fakes.llm_server import REPLY, llm_server
from tests.fixtures.stack import RunningStack

SESSIONS = 2


class Spectator:
    """Follows one session and keeps what it was told."""

    def __init__(self, session: cuelight.Session) -> None:
        self.session = session
        self.words: list[str] = []
        self.positions: list[int] = []
        self.notices: list[str] = []

    async def follow(self) -> None:
        """Until the session ends."""
        async for event in self.session:
            if isinstance(event, cuelight.Progress):
                self.positions.append(event.position)
                self.words += [word.text for word in event.words]
            elif isinstance(event, cuelight.Retired):
                self.positions = [position for position in self.positions if position < event.first_position]
            elif isinstance(event, cuelight.Notice):
                self.notices.append(event.code)

    async def until_words(self, count: int) -> None:
        """Until so many words were told."""
        async with asyncio.timeout(60):
            while len(self.words) < count:
                await asyncio.sleep(0.05)


async def swap(stack: RunningStack, to: str) -> str:
    """Runs the command; returns what it printed."""
    arguments = ("orchestrator", "swap", "--to", to, "--state-file", str(stack.state_file))
    ran = await asyncio.to_thread(stack.cuelight, *arguments)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


async def test_a_planner_is_swapped_under_live_sessions(stack: RunningStack) -> None:
    """Two conversations go from rules to a model that answers, and back, and neither loses a chunk."""
    with llm_server("good") as server:
        async with (
            cuelight.connect(stack.address) as client,
            client.create_session(queue_timeout_s=60) as one,
            client.create_session(queue_timeout_s=60) as two,
            asyncio.TaskGroup() as group,
        ):
            spectators = [Spectator(one), Spectator(two)]
            following = [group.create_task(spectator.follow()) for spectator in spectators]
            await one.hear("Is anybody there?")
            async with asyncio.timeout(60):
                while "HEARD_NOT_ANSWERED" not in spectators[0].notices:
                    await asyncio.sleep(0.05)
            printed = await swap(stack, server.spec)
            assert f"{SESSIONS} of {SESSIONS} live sessions" in printed
            for spectator in spectators:
                await spectator.session.hear("Who are you?")
                await spectator.until_words(4)
                assert spectator.words[:4] == REPLY.split()[:4]
            await swap(stack, "rule")
            for task in following:
                task.cancel()
        for spectator in spectators:
            assert spectator.positions == list(range(len(spectator.positions)))
