"""What is fuzzed under coverage: functions that take a stranger's bytes, each with what must hold whatever they are.

A target raises for a fault of ours and returns for everything else. It knows no fuzzer: the saved corpus is put through
the same targets in `make test`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from google.protobuf.message import Message

from cuelight.v1 import session_pb2 as pb
from dit_worker.engine.errors import BadPortrait
from dit_worker.engine.portrait import read_portrait
from gateway.http.socket import _parsed, _read
from gateway.sessions import validation
from gateway.sessions.attachment import _cue_from
from orchestrator_llm.engine.campaign import MAX_CAMPAIGN_BYTES, Campaign, CampaignInvalid
from orchestrator_llm.engine.reply import MAX_REPLY_BYTES, ReplyCutter
from orchestrator_llm.model.text import TextFrontEnd
from services.bundle import load_manifest
from services.errors import CuelightError, InvalidInput

CORPUS = Path(__file__).with_name("corpus")
SIDE = 32
"""Pixels of the portraits that are made."""


@cache
def front_end() -> TextFrontEnd:
    """The tiny bundle's."""
    from tests.fixtures.tiny_bundle import build_tiny_bundle

    with tempfile.TemporaryDirectory() as folder:
        bundle = build_tiny_bundle(Path(folder) / "tiny")
        return TextFrontEnd.load(bundle, load_manifest(bundle).text)


def text(raw: bytes) -> None:
    """Every word keeps its place, its tokens follow one another, and what is silent is named."""
    written = raw.decode(errors="replace")
    utterance = front_end().tokenize(written, 7)
    assert [word.index for word in utterance.words] == list(range(7, 7 + len(written.split())))
    end = 0
    for word in utterance.words:
        assert end <= word.begin <= word.end <= len(utterance.tokens)
        assert not any(character < " " for character in word.text)
        end = word.end
    assert len(utterance.notices) == sum(word.begin == word.end for word in utterance.words)


def portrait(raw: bytes) -> None:
    """A picture is refused, or becomes pixels; what the gateway takes no worker refuses."""
    try:
        validation.check_portrait(raw)
        is_taken = True
    except InvalidInput as fault:
        _hold(fault.field == "config.portrait")
        is_taken = False
    try:
        assert read_portrait(raw, SIDE, SIDE).shape == (SIDE, SIDE, 3)
    except BadPortrait:
        assert not is_taken, "the gateway took it"


def planned(raw: bytes) -> None:
    """What a model says is a campaign within its bounds or refused, and a reply is cut into words that can be said."""
    told = raw.decode(errors="replace")
    try:
        campaign = Campaign.parse(told)
        assert len(told.encode()) <= MAX_CAMPAIGN_BYTES and campaign.actions
    except CampaignInvalid as fault:
        _hold(len(str(fault)) < 400)
    cutter = ReplyCutter()
    half = len(told) // 2
    pieces = [*cutter.add(told[:half]), *cutter.add(told[half:]), *cutter.end()]
    assert all(piece == " ".join(piece.split()) and piece for piece in pieces)
    assert sum(map(len, pieces)) <= MAX_REPLY_BYTES


def message(raw: bytes) -> None:
    """A socket's text is a message of the contract, and a cue of it, or refused in a sentence."""
    try:
        told = _parsed(raw.decode(errors="replace"))
        for key, made in KINDS.items():
            if key in told:
                request = _read(told[key], made())
                if isinstance(request, pb.StreamSessionRequest) and request.WhichOneof("message") == "input":
                    cue, _ = _cue_from(request, None)
                    assert len(cue.text.encode()) <= 3 * validation.SAY_BYTES, "a blank may take the place of a byte"
    except CuelightError as fault:
        _hold(len(fault.message) < 400)


def _hold(claim: bool) -> None:
    assert claim


KINDS: dict[str, type[Message]] = {
    "create": pb.CreateSessionRequest,
    "close": pb.CloseSessionRequest,
    "stream": pb.StreamSessionRequest,
}


@dataclass(frozen=True)
class Target:
    """One of them."""

    take: Callable[[bytes], None]
    most_bytes: int
    words: tuple[str, ...]
    """What inputs are made of, beside bytes."""
    prepare: Callable[[], object] = lambda: None
    """What takes time once."""

    @property
    def corpus(self) -> list[Path]:
        """Its saved inputs."""
        return sorted((CORPUS / self.take.__name__).iterdir())


KEYS = (
    "stream create close attach input interrupt acknowledge say hear prompt pause end config portrait labels clientSeq"
)
TARGETS = {
    target.take.__name__: target
    for target in (
        Target(text, 256, ("$", "1,000.5", "3rd", "½", "é", "\u200d"), front_end),
        Target(portrait, 16_384, ("IHDR", "IDAT", "iCCP", "tRNS", "PLTE", "acTL", "Exif", "VP8X", "VP8L", "ANMF")),
        Target(planned, 4096, ('{"actions": [', '"speech": "', "```json", "*", "[", "<")),
        Target(message, 4096, tuple(f'"{key}": ' for key in KEYS.split())),
    )
}
