"""The server that the package brings for its users' tests."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

import cuelight
from cuelight import background, sync, testing
from tests.fixtures.tiny_bundle import build_tiny_bundle

TEXT = "hello there my friend. this is a small character that speaks the words you give it."
PATIENT = cuelight.Timeouts(connect_s=60, call_s=60, attach_s=60)


@pytest.mark.timeout(400)
def test_a_session_on_the_real_server_whose_parts_leave(tmp_path: Path) -> None:
    """The worker that has it leaves, then the gateway: every word and offset comes once, and the client is told."""
    bundle = build_tiny_bundle(tmp_path / "tiny")
    with (
        testing.serve(bundle, workers=2, gateways=2, settings={"drain_s": 60.0}) as stage,
        sync.connect(stage.addresses, timeouts=PATIENT) as client,
        client.create_session(regime="scripted", max_ahead_s=2.0) as session,
    ):
        session.say(TEXT)
        events = list(session.events(until=cuelight.Media))
        (host,) = [worker for worker in stage.workers if worker.house.session_ids]
        background.run(host.leave())
        events += session.events(until=cuelight.Resumed)
        background.run(stage.gateways[0].let_go())
        session.end()
        events += list(session)
    words = [word.text for event in events if isinstance(event, cuelight.Progress) for word in event.words]
    assert words == TEXT.split()
    causes = [str(event.cause) for event in events if isinstance(event, cuelight.Resumed)]
    assert causes == ["worker_moved", "gateway_left"]
    offsets = [event.offset for event in events if isinstance(event, cuelight.Media)]
    assert offsets == list(range(len(offsets)))


def test_without_the_server_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """One sentence names what is missing and how to get it."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "gateway" else object())
    with pytest.raises(testing.ServerMissing, match=r"gateway missing.*pip install"), testing.serve():
        pass
