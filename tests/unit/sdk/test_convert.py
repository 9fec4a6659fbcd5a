"""Messages of the contract as events."""

from __future__ import annotations

from cuelight import Progress, convert
from cuelight.v1 import session_pb2 as pb


def test_progress_tells_what_was_asked_of_the_picture() -> None:
    """A client learns which prompts a chunk was made under; a gateway that tells none leaves it empty."""
    message = pb.Progress(chunk_index=3, words_total=2, prompt="smiles, looks left")
    event = convert.control_event(pb.StreamSessionResponse(progress=message))
    assert isinstance(event, Progress)
    assert (event.chunk_index, event.prompt) == (3, "smiles, looks left")
    assert convert.progress(pb.Progress()).prompt == ""
