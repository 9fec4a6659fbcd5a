"""The limits of what a client sends, each at its boundary: this much is taken, and no more."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from PIL import Image

from cuelight.v1 import render_pb2
from cuelight.v1 import session_pb2 as pb
from gateway.renders import validation as renders
from gateway.sessions import validation
from services.errors import InvalidInput
from services.settings import GatewaySettings
from services.state.planning import Choice
from tests.fakes import bundle as fake_bundle


def picture(width: int, height: int, form: str = "PNG") -> bytes:
    """A grey picture of this size."""
    stream = io.BytesIO()
    Image.new("L", (width, height), 128).save(stream, form)
    return stream.getvalue()


def scans(count: int) -> bytes:
    """A progressive JPEG that goes over its pixels so many times."""
    stream = io.BytesIO()
    Image.new("RGB", (64, 64), "tan").save(stream, "JPEG", progressive=True)
    head, last = stream.getvalue()[:-2].rsplit(b"\xff\xda", 1)
    more = count - head.count(b"\xff\xda")
    return head + more * (b"\xff\xda" + last) + b"\xff\xd9"


def lasting(ms: int) -> Duration:
    """So many milliseconds."""
    made = Duration()
    made.FromMilliseconds(ms)
    return made


def waiting(ms: int) -> pb.CreateSessionRequest:
    """A creation that waits for so long."""
    return pb.CreateSessionRequest(queue_timeout=lasting(ms))


VOICE = fake_bundle.voice(15.0)
PADDED = picture(64, 64).ljust(4 * 1024 * 1024, b"0")


@pytest.mark.parametrize(
    ("check", "taken", "refused"),
    [
        (validation.say_text, "x" * 16_384, "x" * 16_385),
        (validation.say_text, "é" * 8_192, "é" * 8_193),
        (validation.hear_text, "x" * 4_096, "x" * 4_097),
        (validation.prompt_text, "x" * 4_096, "x" * 4_097),
        (validation.check_portrait, picture(4096, 32), picture(4097, 32)),
        (validation.check_portrait, picture(32, 4096, "WEBP"), picture(32, 4097, "WEBP")),
        (validation.check_portrait, picture(32, 32, "JPEG"), picture(31, 32, "JPEG")),
        (validation.check_portrait, scans(64), scans(65)),
        (validation.check_portrait, PADDED, PADDED + b"0"),
        (validation.check_voice, fake_bundle.voice(3.0), fake_bundle.voice(2.99)),
        (validation.check_voice, fake_bundle.voice(15.0), fake_bundle.voice(15.01)),
        (validation.check_voice, VOICE.ljust(2 * 1024 * 1024, b"0"), VOICE.ljust(2 * 1024 * 1024 + 1, b"0")),
        (validation.check_new_id, "x" * 63, "x" * 64),
        (validation.page, pb.ListSessionsRequest(page_size=1000), pb.ListSessionsRequest(page_size=1001)),
        (validation.page, pb.ListSessionsRequest(page_token="x" * 256), pb.ListSessionsRequest(page_token="x" * 257)),
        (validation.queue_timeout_s, waiting(60_000), waiting(60_001)),
        (lambda ms: validation.playhead_s(lasting(ms), "playhead"), 604_800_000, 604_800_001),
    ],
)
def test_so_much_is_taken(check: Callable[[Any], object], taken: Any, refused: Any) -> None:
    """The last value that is accepted, and the first that is not."""
    check(taken)
    with pytest.raises(InvalidInput):
        check(refused)


@pytest.mark.parametrize(
    ("field", "taken", "refused"),
    [
        ("instructions", "x" * 8192, "x" * 8193),
        ("max_ahead", lasting(600_000), lasting(600_001)),
        ("labels", dict.fromkeys(map(str, range(16)), ""), dict.fromkeys(map(str, range(17)), "")),
        ("labels", {"k" * 64: "v" * 64}, {"k" * 65: ""}),
        ("labels", {"k": ""}, {"k": "v" * 65}),
        ("labels", {"k": ""}, {"": "v"}),
        ("script", "x" * 1024 * 1024, "x" * (1024 * 1024 + 1)),
        ("prompt", "x" * 4096, "x" * 4097),
    ],
)
def test_so_much_is_taken_of_each_field(tmp_path: Path, field: str, taken: Any, refused: Any) -> None:
    """Of what a session or a render is asked for with, the last value that is accepted and the first that is not."""
    manifest = fake_bundle.write_bundle(tmp_path).manifest
    planners = validation.PlannerNames(("small",), "small")

    def check(value: Any) -> None:
        if field in ("script", "prompt"):
            order = render_pb2.SubmitRenderRequest(**{"script": "Words.", field: value})
            renders.order(order, manifest, planners)
        else:
            validation.session_config(pb.SessionConfig(**{field: value}), manifest, planners)

    check(taken)
    with pytest.raises(InvalidInput) as caught:
        check(refused)
    assert caught.value.field.rpartition(".")[2] == field


def test_a_picture_is_measured_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of some kilobytes that would fill the memory is refused without a pixel of it."""

    def decode(*_: object) -> None:
        raise AssertionError("it was decoded")

    monkeypatch.setattr(Image.Image, "load", decode)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", decode)
    with pytest.raises(InvalidInput, match="40000 x 2000"):
        validation.check_portrait(_header_of(40_000, 2_000))


def _header_of(width: int, height: int) -> bytes:
    """A PNG that says it is this large."""
    import struct
    import zlib

    def part(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + part(b"IHDR", head) + part(b"IDAT", zlib.compress(bytes(1000))) + part(b"IEND", b"")


def test_the_planners_of_the_deployment_can_be_asked_for(tmp_path: Path) -> None:
    """By name, or none; guidance goes to those that follow it; another name is refused with those that are known."""
    manifest = fake_bundle.write_bundle(tmp_path).manifest
    planners = validation.PlannerNames(("small",), "small")
    config = pb.SessionConfig(planner="small", regime="narrator", instructions="A keeper of lights.")
    made = validation.session_config(config, manifest, planners)
    assert (made.planner, made.regime, made.instructions) == ("small", "narrator", "A keeper of lights.")
    assert validation.session_config(pb.SessionConfig(instructions="x"), manifest, planners).planner == ""
    with pytest.raises(InvalidInput, match="'rule' or 'small'"):
        validation.session_config(pb.SessionConfig(planner="large"), manifest, planners)
    with pytest.raises(InvalidInput, match="follows none"):
        validation.session_config(pb.SessionConfig(planner="rule", instructions="x"), manifest, planners)


@pytest.mark.parametrize(
    ("started", "choice", "follows"),
    [
        ("rule", Choice(), False),
        ("rule", Choice(current="openai:m@http://h/v1"), True),
        ("rule", Choice(candidate="small", percent=10, on_trial_by="r"), True),
        ("rule", Choice(candidate="plain", percent=10), False),
        ("small", Choice(), True),
        ("small", Choice(current="rule"), False),
        ("small", Choice(current="plain"), False),
    ],
)
def test_guidance_is_refused_by_the_planner_in_force(
    tmp_path: Path, started: str, choice: Choice, follows: bool
) -> None:
    """Whatever the deployment was started with: after a swap the new planner says whether it follows instructions."""
    manifest = fake_bundle.write_bundle(tmp_path).manifest
    settings = GatewaySettings(planner=started, planners={"small": "openai:s@http://h/v1", "plain": "rule"})
    planners = validation.PlannerNames.of(settings).after(choice)
    config = pb.SessionConfig(instructions="A keeper of lights.")
    if follows:
        assert validation.session_config(config, manifest, planners).instructions == config.instructions
    else:
        with pytest.raises(InvalidInput, match="follows none"):
            validation.session_config(config, manifest, planners)
    assert validation.session_config(pb.SessionConfig(), manifest, planners).planner == ""
