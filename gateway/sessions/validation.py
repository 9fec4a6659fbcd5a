"""Checks every field a client sends, at the edge: what passes here needs no second look further in.

Each check raises InvalidInput with the path of the field and a sentence that says what would be accepted.
It knows the contract and the bundle's characters; it reads no store and asks no worker.
"""

from __future__ import annotations

import io
import re
import secrets
import wave
from dataclasses import dataclass, replace

from google.protobuf.duration_pb2 import Duration
from PIL import Image, UnidentifiedImageError

from cuelight.v1 import session_pb2 as pb
from gateway.auth.caller import Caller
from services.bundle import Manifest
from services.errors import InvalidInput, SessionNotFound
from services.pictures import MOST_SCANS, has_too_many_scans
from services.session import RENDER_IDS, Container, Regime, SessionConfig
from services.settings import PlanningSettings
from services.state.planning import Choice
from services.wire import seconds_from_duration

SAY_BYTES = 16 * 1024
HEAR_BYTES = 4 * 1024
PROMPT_BYTES = 4 * 1024
INSTRUCTIONS_BYTES = 8 * 1024
PORTRAIT_BYTES = 4 * 1024 * 1024
PORTRAIT_PIXELS = 4096
PORTRAIT_PIXELS_LEAST = 32
PORTRAIT_FORMATS = ("PNG", "JPEG", "WEBP")
VOICE_BYTES = 2 * 1024 * 1024
VOICE_SECONDS = (3.0, 15.0)
LABELS = 16
LABEL_CHARACTERS = 64
PAGE_SIZE = 50
PAGE_SIZE_MOST = 1000
QUEUE_TIMEOUT_MOST_S = 60.0
MAX_AHEAD_MOST_S = 600.0
MEDIA_CLOCK_MOST_S = 7 * 86_400.0
AUDIO_RATE = 48_000
RULE = "rule"
"""The planner every deployment has."""

_SESSION_ID = re.compile(r"[a-z0-9-]{1,63}")
_UUID4 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", re.IGNORECASE)
_SESSION_NAME = re.compile(rf"tenants/([a-z0-9-]{{1,63}})/sessions/({_SESSION_ID.pattern})")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200b\u2028\u2029\ufeff\ufff9-\ufffb]")


@dataclass(frozen=True, slots=True)
class Text:
    """Text that was accepted, and whether control characters were taken out of it."""

    text: str
    is_cleaned: bool


@dataclass(frozen=True, slots=True)
class PlannerNames:
    """The planners a session may ask for, beside the rule planner, and the one it gets when it asks for none."""

    named: tuple[str, ...] = ()
    default: str = RULE
    """By name or, after a swap, by specification."""
    rules: tuple[str, ...] = (RULE,)
    """Names of planners that ask no model."""

    @classmethod
    def of(cls, settings: PlanningSettings) -> PlannerNames:
        """As all processes are started."""
        rules = [name for name, text in settings.planners.items() if text == RULE]
        return cls(tuple(settings.planners), settings.planner, (RULE, *rules))

    def after(self, choice: Choice) -> PlannerNames:
        """As the orchestrators have it since a swap; while one is under way, the planner that asks a model."""
        current = choice.current or self.default
        is_model_coming = choice.candidate != "" and choice.candidate not in self.rules
        return replace(self, default=choice.candidate if current in self.rules and is_model_coming else current)


def check_parent(parent: str, tenant: str) -> None:
    """The tenant that a request is about: the caller's own, and empty means it."""
    if parent not in ("", f"tenants/{tenant}"):
        raise InvalidInput(f"parent must be 'tenants/{tenant}' or empty", field="parent")


def session_id_of(name: str, caller: Caller, field: str = "name") -> str:
    """The id in a session's resource name. Raises SessionNotFound when the caller can have no such session."""
    found = _SESSION_NAME.fullmatch(name)
    if found is None:
        shown = _quoted(name) if name else "empty"
        raise InvalidInput(f"{field} must be tenants/{{tenant}}/sessions/{{session}}, it is {shown}", field=field)
    tenant, session_id = found.groups()
    if tenant != caller.tenant or caller.session_id not in ("", session_id):
        raise unknown_session()
    return session_id


def unknown_session() -> SessionNotFound:
    """What is said of a session that is not there, and of one that is somebody else's."""
    return SessionNotFound("there is no such session, or it ended long ago")


def session_name(tenant: str, session_id: str) -> str:
    """The resource name of a session."""
    return f"tenants/{tenant}/sessions/{session_id}"


def check_new_id(session_id: str) -> None:
    """The id a client asks for; empty lets the server pick one."""
    if session_id and _SESSION_ID.fullmatch(session_id) is None:
        raise InvalidInput("session_id must be 1 to 63 of a-z, 0-9 and -", field="session_id")
    if session_id.startswith(RENDER_IDS):
        raise InvalidInput(f"session_id must not begin with {RENDER_IDS!r}: those are renders'", field="session_id")


def check_request_id(request_id: str) -> None:
    """The UUID4 that makes a retry safe; empty means none."""
    if request_id and _UUID4.fullmatch(request_id) is None:
        raise InvalidInput("request_id must be a UUID4", field="request_id")


def queue_timeout_s(request: pb.CreateSessionRequest) -> float:
    """How long the client waits for a slot; 0 when it does not."""
    if not request.HasField("queue_timeout"):
        return 0.0
    return seconds(request.queue_timeout, "queue_timeout", QUEUE_TIMEOUT_MOST_S)


def page(request: pb.ListSessionsRequest) -> tuple[int, str]:
    """The page asked for: how many sessions, behind which page token."""
    if not 0 <= request.page_size <= PAGE_SIZE_MOST:
        raise InvalidInput(f"page_size must be 0 to {PAGE_SIZE_MOST}", field="page_size")
    if len(request.page_token) > 256:
        raise InvalidInput("page_token is not one this server gave out", field="page_token")
    return request.page_size or PAGE_SIZE, request.page_token


def seconds(duration: Duration, field: str, most: float) -> float:
    """A duration in seconds, from 0 to `most`."""
    value = seconds_from_duration(duration)
    if not 0 <= value <= most:
        raise InvalidInput(f"{field} must lie between 0 and {most:g} s, it is {value:g} s", field=field)
    return value


def playhead_s(duration: Duration, field: str) -> float:
    """A place on the media clock, in seconds."""
    return seconds(duration, field, MEDIA_CLOCK_MOST_S)


def session_config(config: pb.SessionConfig, manifest: Manifest, planners: PlannerNames) -> SessionConfig:
    """What is asked for with defaults filled in, against what `manifest` and the deployment's `planners` offer."""
    _check_video(config.video, manifest)
    _check_audio(config.audio)
    if config.portrait:
        check_portrait(config.portrait)
    if config.voice:
        check_voice(config.voice)
    _check_planner(config.planner, planners)
    _check_size(config.instructions, INSTRUCTIONS_BYTES, "config.instructions")
    if config.instructions.strip() and (config.planner or planners.default) in planners.rules:
        raise InvalidInput(
            "config.instructions must be empty: the rule planner follows none", field="config.instructions"
        )
    max_ahead = None
    if config.HasField("max_ahead"):
        max_ahead = seconds(config.max_ahead, "config.max_ahead", MAX_AHEAD_MOST_S)
    return SessionConfig(
        character=_character(config.character, manifest),
        instructions=config.instructions,
        regime=_regime(config.regime),
        planner=config.planner,
        portrait=config.portrait,
        voice=config.voice,
        container=container(config.video.container, "config.video.container"),
        max_ahead_s=max_ahead,
        seed=config.seed if config.HasField("seed") else secrets.randbits(63),
        is_repeatable=config.HasField("seed"),
        labels=_labels(config),
    )


def container(value: int, field: str) -> Container:
    """The framing of media; unspecified is elementary."""
    known: dict[int, Container] = {
        pb.MEDIA_CONTAINER_UNSPECIFIED: Container.ELEMENTARY,
        pb.MEDIA_CONTAINER_ELEMENTARY: Container.ELEMENTARY,
        pb.MEDIA_CONTAINER_FMP4: Container.FMP4,
    }
    if value not in known:
        raise InvalidInput(f"{field} must be FMP4 or ELEMENTARY", field=field)
    return known[value]


def say_text(text: str) -> Text:
    """Words to speak. Control characters become blanks; what is blank then is refused."""
    return text_field(text, SAY_BYTES, "input.say", "there are no words in it")


def hear_text(text: str) -> Text:
    """What the user says to the character."""
    return text_field(text, HEAR_BYTES, "input.hear", "there are no words in it")


def prompt_text(text: str) -> Text:
    """A change of scene, look or sound."""
    return text_field(text, PROMPT_BYTES, "input.prompt", "it is blank")


def check_portrait(data: bytes) -> None:
    """A picture that can be decoded and is of a size worth decoding."""
    field = "config.portrait"
    _check_size(data, PORTRAIT_BYTES, field)
    if has_too_many_scans(data):
        raise InvalidInput(f"{field} is a JPEG of more than {MOST_SCANS} scans; save it again", field=field)
    try:
        with Image.open(io.BytesIO(data), formats=PORTRAIT_FORMATS) as picture:
            # The header alone says the size: a picture that would fill the memory is never decoded.
            if max(picture.size) > PORTRAIT_PIXELS or min(picture.size) < PORTRAIT_PIXELS_LEAST:
                width, height = picture.size
                raise InvalidInput(
                    f"{field} must be {PORTRAIT_PIXELS_LEAST} to {PORTRAIT_PIXELS} pixels a side, "
                    f"it is {width} x {height}",
                    field=field,
                )
            picture.load()
    except (UnidentifiedImageError, Image.DecompressionBombError) as fault:
        raise InvalidInput(f"{field} is not a PNG, JPEG or WebP picture", field=field) from fault
    except InvalidInput:
        raise
    except Exception as fault:  # Pillow's readers raise whatever they stumble over
        raise InvalidInput(f"{field} is a damaged picture", field=field) from fault


def check_voice(data: bytes) -> None:
    """A WAV recording of a length that a voice can be learnt from."""
    field = "config.voice"
    _check_size(data, VOICE_BYTES, field)
    try:
        with wave.open(io.BytesIO(data)) as recording:
            length = recording.getnframes() / recording.getframerate()
            held = len(recording.readframes(recording.getnframes()))
            is_whole = held == recording.getnframes() * recording.getnchannels() * recording.getsampwidth()
    except (wave.Error, EOFError, ZeroDivisionError, RuntimeError) as fault:  # RuntimeError: a length that lies
        raise InvalidInput(f"{field} is not a WAV file with PCM samples", field=field) from fault
    if not is_whole:
        raise InvalidInput(f"{field} is a WAV file that was cut short", field=field)
    least, most = VOICE_SECONDS
    if not least <= length <= most:
        raise InvalidInput(f"{field} must last {least:g} to {most:g} s, it lasts {length:.2f} s", field=field)


def text_field(text: str, limit: int, field: str, fault: str) -> Text:
    """Text of at most `limit` bytes, in which control characters become blanks. What is blank then is at `fault`."""
    _check_size(text, limit, field)
    cleaned = _CONTROL.sub(" ", text)
    if not cleaned.strip():
        raise InvalidInput(f"{field} cannot be used: {fault}", field=field)
    return Text(cleaned, cleaned != text)


def _check_size(value: str | bytes, limit: int, field: str) -> None:
    size = len(value.encode() if isinstance(value, str) else value)
    if size > limit:
        hint = "; send a long text in several messages" if field == "input.say" else ""
        raise InvalidInput(f"{field} may have {limit} bytes, it has {size}{hint}", field=field)


def _character(name: str, manifest: Manifest) -> str:
    bundle, _, character = name.rpartition("/")
    if bundle not in ("", manifest.name):
        raise InvalidInput(
            f"config.character names the bundle {_quoted(bundle)}, this gateway serves {manifest.name!r}",
            field="config.character",
        )
    try:
        return manifest.character(character).name
    except KeyError:
        known = ", ".join(found.name for found in manifest.characters) or "none"
        raise InvalidInput(
            f"config.character {_quoted(character)} is not known; the bundle {manifest.name!r} has: {known}",
            field="config.character",
        ) from None


def _check_planner(name: str, planners: PlannerNames) -> None:
    known = (RULE, *planners.named)
    if name not in ("", *known):
        offered = " or ".join(map(repr, known))
        raise InvalidInput(f"config.planner must be {offered} or empty", field="config.planner")


def _regime(regime: str) -> Regime:
    try:
        return Regime(regime or Regime.CONVERSATION)
    except ValueError:
        known = " or ".join(repr(str(known)) for known in Regime)
        raise InvalidInput(f"config.regime must be {known}", field="config.regime") from None


def _check_video(video: pb.VideoConfig, manifest: Manifest) -> None:
    geometry = manifest.geometry
    asked = {
        "width": (video.width, geometry.width),
        "height": (video.height, geometry.height),
        "frame_rate_millihertz": (video.frame_rate_millihertz, geometry.frames_per_second * 1000),
    }
    for name, (value, offered) in asked.items():
        if value not in (0, offered):
            field = f"config.video.{name}"
            raise InvalidInput(f"{field} must be {offered} or 0: the bundle makes nothing else", field=field)
    if video.codec and not video.codec.startswith("avc1.42"):
        raise InvalidInput("config.video.codec must be avc1.42.... or empty", field="config.video.codec")


def _check_audio(audio: pb.AudioConfig) -> None:
    if audio.sample_rate_hertz not in (0, AUDIO_RATE):
        field = "config.audio.sample_rate_hertz"
        raise InvalidInput(f"{field} must be {AUDIO_RATE} or 0", field=field)
    if audio.channels not in (0, 1):
        raise InvalidInput("config.audio.channels must be 1 or 0", field="config.audio.channels")
    if audio.codec not in ("", "opus"):
        raise InvalidInput("config.audio.codec must be 'opus' or empty", field="config.audio.codec")


def _labels(config: pb.SessionConfig) -> dict[str, str]:
    labels = dict(config.labels)
    if len(labels) > LABELS:
        raise InvalidInput(f"config.labels may have {LABELS} pairs, it has {len(labels)}", field="config.labels")
    for key, value in labels.items():
        if not key or max(len(key), len(value)) > LABEL_CHARACTERS:
            raise InvalidInput(
                f"config.labels takes keys of 1 and values of 0 to {LABEL_CHARACTERS} characters",
                field="config.labels",
            )
    return labels


def _quoted(text: str) -> str:
    shown = text if len(text) <= 60 else text[:57] + "..."
    return repr(shown)
