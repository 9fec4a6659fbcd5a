"""What every backend reads of a bundle besides the weights of its body: sizes and text front-end.

It knows no backend.
"""

from __future__ import annotations

from safetensors import SafetensorError

from orchestrator_llm.engine.backend import Geometry
from orchestrator_llm.model.conditioner import ConditionerConfig
from orchestrator_llm.model.subwords import SubwordFrontEnd
from orchestrator_llm.model.text import TextFrontEnd
from services.bundle import Bundle
from services.errors import BundleInvalid

WEIGHTS = "conditioner.safetensors"


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
