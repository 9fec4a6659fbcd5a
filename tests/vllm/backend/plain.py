"""Chunks to condition, and the conditioner computed with nothing of ours but embeddings and heads."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import torch
from safetensors.torch import load_file
from transformers import Qwen2Config, Qwen2Model

from orchestrator_llm.model.conditioner import Conditioner, ConditionerConfig, TextWindow
from services.bundle import Bundle
from services.session import HistoryChunk, Latents


@dataclass(frozen=True)
class Scene:
    """What one chunk begins with."""

    reference: Latents
    tokens: list[int]
    pointer: float
    history: tuple[HistoryChunk, ...]


def scene(bundle: Bundle, chunks: int, seed: int = 0) -> Scene:
    """A chunk after `chunks` others, which spoke some nine tokens each."""
    sizes = ConditionerConfig(**bundle.manifest.conditioner)
    draw = np.random.default_rng([seed, chunks])

    def latents(frames: int) -> Latents:
        return draw.standard_normal((frames, sizes.latent_channels)).astype(np.float32)

    before = [9.3 * chunk for chunk in range(chunks)]
    history = tuple(HistoryChunk(pointer, latents(sizes.chunk_frames)) for pointer in before)
    tokens = [int(token) for token in draw.integers(3, sizes.vocabulary, 200)]
    return Scene(latents(sizes.reference_frames), tokens, 9.3 * chunks, history)


class PlainForward:
    """The conditioner as one pass of `transformers.Qwen2Model` over all blocks, without any cache."""

    def __init__(self, bundle: Bundle, *, bfloat16: bool = False) -> None:
        self.dtype = torch.bfloat16 if bfloat16 else torch.float32
        self.config = ConditionerConfig(**bundle.manifest.conditioner)
        weights = load_file(bundle.file("conditioner.safetensors"))
        conditioner = Conditioner(self.config)
        conditioner.load_state_dict(weights)
        self.shell = conditioner.eval().to(self.dtype)
        described = Qwen2Config(**asdict(conditioner.body.config), vocab_size=8, attn_implementation="eager")
        body = Qwen2Model(described)
        misfits = body.load_state_dict(conditioner.body.state_dict(), strict=False)
        assert misfits.missing_keys == ["embed_tokens.weight"] and not misfits.unexpected_keys
        self.body = body.eval().to(self.dtype)

    @torch.inference_mode()
    def __call__(self, scene: Scene, noisy: Latents, timestep: float) -> tuple[Latents, Latents, float]:
        """Condition (T, D'), positions (T,) and end of one step."""
        sizes, shell = self.config, self.shell
        heard = scene.history[-sizes.history_chunks :]
        chunks = max(1, len(heard))
        oldest = scene.history[0].pointer_before if scene.history else None
        window = TextWindow.cut(sizes, scene.tokens, scene.pointer, chunks, oldest)
        history = torch.zeros(1, chunks * sizes.chunk_frames, sizes.latent_channels, dtype=self.dtype)
        if heard:
            history[0] = torch.tensor(np.concatenate([chunk.latents for chunk in heard]))
        mask = torch.full(history.shape[:2], float(bool(heard)))
        text = shell.embed_text(window.ids)
        noise, time = torch.tensor(noisy, dtype=self.dtype)[None], torch.tensor([timestep])
        reference = torch.tensor(scene.reference, dtype=self.dtype)[None]
        blocks = [
            shell.embed_reference(reference),
            text,
            shell.embed_history(history, mask),
            shell.embed_noisy(noise, time),
        ]
        states = self.body(inputs_embeds=torch.cat(blocks, 1)).last_hidden_state
        slots = slice(sizes.reference_frames + text.shape[1] - sizes.text_slots, sizes.reference_frames + text.shape[1])
        text_states = states[:, slots] + text[:, -sizes.text_slots :]
        tail = shell.condition(states[:, -len(noisy) :], text_states, window.start.float())
        positions = window.origin + tail.positions[0].float().numpy()
        return tail.condition[0].float().numpy(), positions, window.origin + float(shell.point(tail))
