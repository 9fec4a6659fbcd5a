"""Opens a session and reads its first three chunks: first_chunks.py ADDRESS. Gives up after two minutes.

CUELIGHT_API_KEY and CUELIGHT_CA_CERTIFICATE are what a gateway may ask for.
"""

import asyncio
import os
import sys

import cuelight

CHUNKS = 3
PATIENCE_S = 120
WORDS = "Good evening, and welcome. The house is full, the lights go down, and the play is about to begin."


async def main(address: str) -> None:
    """Counts a chunk when its sound and its picture have both come."""
    parts: dict[int, int] = {}
    key, ca_certificate = os.environ.get("CUELIGHT_API_KEY", ""), os.environ.get("CUELIGHT_CA_CERTIFICATE")
    async with (
        cuelight.connect(address, key=key, ca_certificate=ca_certificate) as client,
        client.create_session(regime="scripted", queue_timeout_s=20) as session,
    ):
        await session.say(WORDS)
        await session.end()
        async for event in session:
            if isinstance(event, cuelight.Media) and event.data:
                parts[event.chunk_index] = parts.get(event.chunk_index, 0) + 1
                sys.stdout.write(f"chunk {event.chunk_index}, {event.track.name.lower()}: {len(event.data)} bytes\n")
            if sum(count == len(cuelight.Track) for count in parts.values()) == CHUNKS:
                return
    sys.exit(f"the session ended after {len(parts)} chunks, not {CHUNKS}")


async def limited(address: str) -> None:
    """Gives up in time."""
    async with asyncio.timeout(PATIENCE_S):
        await main(address)


try:
    asyncio.run(limited(*sys.argv[1:]))
except (cuelight.CuelightError, OSError, ValueError) as fault:
    sys.exit(f"no performance: {fault or 'nothing came in time'}")
