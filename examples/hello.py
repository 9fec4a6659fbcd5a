"""A character says a sentence, and it becomes a film.   python examples/hello.py [host:port] [film.mp4]"""

import asyncio
import sys

import cuelight


async def main(address: str = cuelight.DEFAULT_ADDRESS, film: str = "hello.mp4") -> None:
    """Writes one sentence as a film."""
    async with cuelight.connect(address) as client, client.create_session(regime="scripted") as session:
        await session.say("Hello. I was made a moment ago, and I am glad to see you.")
        await session.end()
        written = await cuelight.write_mp4(session, film)
    print(f"{written.path}: {written.duration_s:.1f} s, {written.words} words")


asyncio.run(main(*sys.argv[1:]))
