"""Words of a live performance as they are spoken.   python examples/captions.py [host:port]"""

import asyncio
import sys

import cuelight


async def main(address: str = cuelight.DEFAULT_ADDRESS) -> None:
    """Prints words, pictures, notices and states as they come."""
    async with cuelight.connect(address) as client, client.create_session(regime="scripted") as session:
        await session.say("Every word comes with the time at which it is heard. That is how captions light up.")
        await session.end()
        async for event in session:
            match event:
                case cuelight.Progress(words=words):
                    for word in words:
                        print(f"{word.start_s:6.2f} s  {word.text}")
                case cuelight.Media(track=cuelight.Track.VIDEO, units=pictures):
                    print(f"          {len(pictures)} pictures")
                case cuelight.Notice(text=text):
                    print(f"note: {text}")
                case cuelight.StateChanged(state=state):
                    print(f"session is {state}")


asyncio.run(main(*sys.argv[1:]))
