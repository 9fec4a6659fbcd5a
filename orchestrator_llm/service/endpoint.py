"""A language model behind the OpenAI protocol: chat completions, streamed, held to a JSON schema where one is given.

Any server that speaks it will do (vLLM's, others). Nothing it sends is trusted: lines, answers and waits are bounded,
and what it says in an error is not passed on. It knows no plans.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import AsyncGenerator
from typing import Any

import httpx

from orchestrator_llm.engine.brief import Question
from orchestrator_llm.service.completion import PlannerFailed

CONNECT_S = 3.0
READ_S = 15.0
"""Longest wait for the next piece of an answer."""
MAX_LINE_BYTES = 64 * 1024
MAX_ANSWER_BYTES = 1024 * 1024
"""Of the protocol, not of the text: an event for each token."""
TEMPERATURE = 0.7
LOADED_WITH_THE_FIRST_CALL = ("httpcore._backends.anyio", "anyio._backends._asyncio")
"""What the HTTP client would import when it is first used, on the event loop, where sessions would wait for it."""


class Endpoint:
    """One model of one server."""

    def __init__(self, base_url: str, model: str, *, key: str = "") -> None:
        """`base_url` ends where `/chat/completions` begins, for instance http://host:8000/v1."""
        for name in LOADED_WITH_THE_FIRST_CALL:
            importlib.import_module(name)
        self._model = model
        headers = {"Accept-Encoding": "identity"} | ({"Authorization": f"Bearer {key}"} if key else {})
        timeout = httpx.Timeout(READ_S, connect=CONNECT_S)
        self._http = httpx.AsyncClient(
            base_url=base_url.rstrip("/") + "/",
            headers=headers,
            timeout=timeout,
            trust_env=False,
            verify=base_url.startswith("https"),  # reading the authorities takes a while, and plain HTTP has none
        )

    async def stream(self, question: Question) -> AsyncGenerator[str]:
        """The answer's text, piece by piece. Raises PlannerFailed."""
        try:
            async with self._http.stream("POST", "chat/completions", json=self._body(question)) as response:
                if response.status_code != httpx.codes.OK:
                    raise PlannerFailed(f"the planner's endpoint answered with status {response.status_code}")
                if response.headers.get("Content-Encoding", "identity") != "identity":
                    raise PlannerFailed("the planner's endpoint packs its answer, which nobody asked for")
                async for line in _lines(response):
                    if not line.startswith(b"data:"):
                        continue
                    data = line.removeprefix(b"data:").strip()
                    if data == b"[DONE]":
                        return
                    if piece := _text_of(data):
                        yield piece
        except httpx.HTTPError as fault:
            raise PlannerFailed(f"the planner's endpoint cannot be used: {type(fault).__name__}") from fault
        except httpx.InvalidURL as fault:
            raise PlannerFailed("the planner's endpoint has no valid address") from fault

    async def close(self) -> None:
        """Closes its connections."""
        await self._http.aclose()

    def _body(self, question: Question) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self._model,
            "messages": [{"role": message.role, "content": message.content} for message in question.messages],
            "max_tokens": question.max_tokens,
            "temperature": TEMPERATURE,
            "stream": True,
        }
        if question.schema is not None:
            form = {"name": "campaign", "strict": True, "schema": question.schema}
            body["response_format"] = {"type": "json_schema", "json_schema": form}
        return body


async def _lines(response: httpx.Response) -> AsyncGenerator[bytes]:
    """The lines of a response, each and all of them bounded."""
    rest, size = b"", 0
    async for part in response.aiter_bytes():
        size += len(part)
        *lines, rest = (rest + part).split(b"\n")
        if len(rest) > MAX_LINE_BYTES or size > MAX_ANSWER_BYTES:
            raise PlannerFailed("the planner's endpoint sends more than an answer can be")
        for line in lines:
            yield line
    if rest:
        yield rest


def _text_of(data: bytes) -> str:
    """The text in one event of the stream; empty for one that has none."""
    try:
        event = json.loads(data)
    except (ValueError, RecursionError) as fault:
        raise PlannerFailed("the planner's endpoint does not speak the protocol") from fault
    choices = event.get("choices") if isinstance(event, dict) else None
    if isinstance(event, dict) and "error" in event:
        raise PlannerFailed("the planner's endpoint broke off with an error")
    first = choices[0] if isinstance(choices, list) and choices else None
    delta = first.get("delta") if isinstance(first, dict) else None
    content = delta.get("content") if isinstance(delta, dict) else None
    return content if isinstance(content, str) else ""
