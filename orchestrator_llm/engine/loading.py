"""What every backend reads of a bundle besides the weights of its body: sizes, text front-end, language model.

It knows no backend.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError

from orchestrator_llm.engine.backend import Geometry
from orchestrator_llm.model.conditioner import ConditionerConfig
from orchestrator_llm.model.subwords import SubwordFrontEnd
from orchestrator_llm.model.text import TextFrontEnd
from services.bundle import Bundle
from services.errors import BundleInvalid

WEIGHTS = "conditioner.safetensors"
HEAD = "head.safetensors"
TOKENIZER = "tokenizer.json"


@dataclass(frozen=True, slots=True)
class LanguageModel:
    """What a bundle keeps of the language model that its conditioner's body is, so that it can also write."""

    folder: Path
    files: tuple[Path, ...]
    """Of the folder: tokenizer, chat template and generation's defaults as Hugging Face writes them, and a head."""
    has_head: bool
    """Whether tokens are scored by weights of their own (HEAD); else those that embed them do."""


def conditioner_config(bundle: Bundle) -> ConditionerConfig:
    """Sizes and options of the conditioner. Raises BundleInvalid."""
    try:
        config = ConditionerConfig(**bundle.manifest.conditioner)
    except TypeError as fault:
        raise BundleInvalid(f"{WEIGHTS} and the manifest's conditioner do not fit: {fault}") from fault
    found, expected = (config.chunk_frames, config.latent_channels), bundle.manifest.geometry.audio_shape
    if found != expected:
        raise BundleInvalid(f"the conditioner is made for audio latents {found}, the bundle has {expected}")
    return config


def geometry(bundle: Bundle, config: ConditionerConfig) -> Geometry:
    """The sizes a director needs."""
    return Geometry(
        frames=config.chunk_frames,
        channels=config.latent_channels,
        reference_frames=config.reference_frames,
        chunk_seconds=bundle.manifest.geometry.chunk_seconds,
        history_chunks=config.history_chunks,
        text_back=config.text_back,
        text_ahead=config.text_ahead,
        end_margin=config.end_margin,
    )


def load_front_end(bundle: Bundle) -> TextFrontEnd | SubwordFrontEnd:
    """What turns text into tokens: phones, or a language model's own. Raises BundleInvalid."""
    try:
        if "tokenizer" in bundle.manifest.text:
            return SubwordFrontEnd.load(bundle.file(bundle.manifest.text["tokenizer"]))
        return TextFrontEnd.load(bundle.path, bundle.manifest.text)
    except ImportError as fault:
        raise BundleInvalid("this bundle's text is read by a tokenizer, which needs: pip install tokenizers") from fault
    except (KeyError, TypeError, ValueError, RuntimeError, OSError, SafetensorError) as fault:
        raise BundleInvalid(f"the bundle's text front-end cannot be loaded: {fault!r}") from fault


def language_model(bundle: Bundle) -> LanguageModel | None:
    """What the bundle's conditioner writes with; None when it only reads, as one made for phones.

    Raises BundleInvalid when the folder that the manifest's text names is not there.
    """
    name = bundle.manifest.text.get("language_model")
    if not name:
        return None
    if not isinstance(name, str) or f"{name}/{TOKENIZER}" not in bundle.manifest.files:
        raise BundleInvalid(f"the manifest's text.language_model names no folder of the bundle with a {TOKENIZER}")
    files = tuple(bundle.file(path) for path in bundle.manifest.files if path.rpartition("/")[0] == name)
    return LanguageModel(bundle.path / name, files, any(path.name == HEAD for path in files))


def no_writer(bundle: Bundle) -> str:
    """Why nothing writes text by the bundle's weights."""
    name = f"bundle {bundle.manifest.name} {bundle.manifest.version}"
    if bundle.manifest.text.get("language_model"):
        return f"the planner own needs {name} on vLLM: start the orchestrator with CUELIGHT_ORCHESTRATOR_BACKEND=vllm"
    return (
        f"the conditioner of {name} reads and cannot write: the bundle keeps no language model "
        "(text.language_model); use rule, openai:MODEL@URL or vllm:FOLDER"
    )
