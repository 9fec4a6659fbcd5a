"""The server that the package brings for its users' tests."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

import cuelight
from cuelight import background, sync, testing
from tests.fixtures.tiny_bundle import build_tiny_bundle


@pytest.mark.timeout(400)
def test_a_session_on_the_real_server_and_a_gateway_that_leaves(tmp_path: Path) -> None:
    """Two gateways, one worker: every word comes, and the client is at the second gateway when the first has gone."""
    bundle = build_tiny_bundle(tmp_path / "tiny")
    with (
        testing.serve(bundle, gateways=2, settings={"drain_s": 60.0}) as stage,
        sync.connect(stage.addresses, timeouts=cuelight.Timeouts(connect_s=60, call_s=60, attach_s=60)) as client,
        client.create_session(regime="scripted", max_ahead_s=2.0) as session,
    ):
        session.say("hello there my friend. this is a small character.")
        events = list(session.events(until=cuelight.Media))
        background.run(stage.gateways[0].let_go())
        session.end()
        events += list(session)
    words = [word.text for event in events if isinstance(event, cuelight.Progress) for word in event.words]
    assert words == "hello there my friend. this is a small character.".split()
    assert [event.cause for event in events if isinstance(event, cuelight.Resumed)] == ["gateway_left"]
    offsets = [event.offset for event in events if isinstance(event, cuelight.Media)]
    assert offsets == list(range(len(offsets)))


def test_without_the_server_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """One sentence names what is missing and how to get it."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "gateway" else object())
    with pytest.raises(testing.ServerMissing, match=r"gateway missing.*pip install"), testing.serve():
        pass
