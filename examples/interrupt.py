"""A long speech is cut short, and something else is said.   python examples/interrupt.py [host:port]"""

import asyncio
import sys

import cuelight


async def main(address: str = cuelight.DEFAULT_ADDRESS) -> None:
    """Cuts a speech short after five words."""
    async with cuelight.connect(address) as client, client.create_session(regime="scripted") as session:
        await session.say(
            "Let me tell you the whole story, from the very beginning, and leave out nothing at all. " * 4
        )
        async for event in session:
            if isinstance(event, cuelight.Progress):
                print(f"{event.words_spoken} of {event.words_total} words: {event.caption}")
                if event.words_spoken >= 5:
                    break
        await session.interrupt(playhead_s=1.0)  # the audience has heard one second
        async for event in session.events(until=cuelight.Retired):
            if isinstance(event, cuelight.Retired):
                print(f"chunks {list(event.chunk_indices)} were taken back")
        await session.say("In short, all ends well.")
        await session.end()
        async for event in session:
            if isinstance(event, cuelight.Progress) and event.words:
                print(event.caption)


asyncio.run(main(*sys.argv[1:]))
