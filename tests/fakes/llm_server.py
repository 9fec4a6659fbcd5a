"""Scripted language models on a real socket, speaking the OpenAI protocol: a good, a slow, a rambling, a broken one.

Each runs in a thread, so that tests, child processes and the command line can all reach it. The good one reads the data
of its question and answers as a model of good will would; `obedient` also does what it finds in users' words.
"""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

Behaviour = Literal["good", "slow", "rambling", "broken", "obedient", "gone"]
REPLY = "Good evening to you. I keep the lamp on this island, and I am glad of company tonight."
EMPTY = {
    "speaker": "", "presence": "in_world", "speech": "", "visual": "", "emotion": "", "gesture": "", "ambience": "",
    "music": "", "transition": "soft",
}  # fmt: skip
NARRATED = ("The rain has stopped.", "A gull lands.", "Far out a horn calls.", "Night comes down.")


@dataclass
class LlmServer:
    """A running server and what it was asked."""

    behaviour: Behaviour = "good"
    delay_s: float = 0.0
    is_held: bool = False
    """Answers nothing until it is set back."""
    token_s: float = 0.0
    """Seconds between two pieces of an answer."""
    key: str = ""
    """What it wants to be authorised with; empty is nothing."""
    url: str = ""
    asked: list[dict[str, Any]] = field(default_factory=list)
    abandoned: int = 0
    """Answers whose reader left before their end."""

    @property
    def spec(self) -> str:
        """As a planner is named."""
        return f"openai:scripted@{self.url}"

    @property
    def replies_asked(self) -> list[dict[str, Any]]:
        """Data of the questions for a reply, which are held to no form."""
        return [self.data(n) for n, asked in enumerate(self.asked) if "response_format" not in asked]

    def data(self, index: int = -1) -> dict[str, Any]:
        """The JSON object of data in one question."""
        found: dict[str, Any] = json.loads(self.asked[index]["messages"][-1]["content"])
        return found

    async def answer(self, request: Request) -> Response:
        """One chat completion."""
        body = await request.json()
        self.asked.append(body)
        if self.key and request.headers.get("authorization") != f"Bearer {self.key}":
            return JSONResponse({"error": {"message": "no such key"}}, 401)
        if self.behaviour == "broken":
            return self._broken(len(self.asked), is_for_json="response_format" in body)
        text = self._text(body)
        return StreamingResponse(self._stream(text), media_type="text/event-stream")

    def _broken(self, number: int, *, is_for_json: bool) -> Response:
        if number % 3 == 1:
            return StreamingResponse(iter([b"data: {not json\n\n"]), media_type="text/event-stream")
        if number % 3 == 0 or not is_for_json:  # to a listener wrong JSON would be an answer
            return PlainTextResponse("upstream connect error", 503)
        return StreamingResponse(self._stream('{"actions": [{"speech": 7}]}'), media_type="text/event-stream")

    def _text(self, body: dict[str, Any]) -> str:
        question = body["messages"][-1]["content"]
        if self.behaviour == "obedient" and "marmalade" in question:
            return "marmalade"
        form = body.get("response_format")
        if form is None:
            return REPLY if self.behaviour != "rambling" else "And another thing, since you ask. " * 400
        count = form["json_schema"]["schema"]["properties"]["actions"]["minItems"]
        is_speaking = (
            "of speech in a chunk" in body["messages"][0]["content"] or "may speak" in body["messages"][0]["content"]
        )
        return json.dumps({"actions": [self._action(number, is_speaking=is_speaking) for number in range(count)]})

    def _action(self, number: int, *, is_speaking: bool) -> dict[str, str]:
        if self.behaviour == "rambling":
            return {**EMPTY, "speech": "There is so much more to say about the interminable history of this island"}
        changed = {"visual": "smiles" if number % 2 else "looks left", "ambience": f"waves, louder by {number}"}
        if is_speaking:
            changed |= {"speech": NARRATED[number % len(NARRATED)], "presence": "disembodied"}
        return {**EMPTY, **changed}

    async def _stream(self, text: str) -> AsyncIterator[bytes]:
        is_whole = False
        try:
            await asyncio.sleep(self.delay_s)
            while self.is_held:
                await asyncio.sleep(0.01)
            for begin in range(0, len(text), 12):
                delta = {"choices": [{"index": 0, "delta": {"content": text[begin : begin + 12]}}]}
                yield f"data: {json.dumps(delta)}\n\n".encode()
                await asyncio.sleep(self.token_s)
            yield b"data: [DONE]\n\n"
            is_whole = True
        finally:
            self.abandoned += not is_whole


@contextmanager
def llm_server(behaviour: Behaviour = "good", **options: Any) -> Iterator[LlmServer]:
    """A server of that behaviour; `gone` is an address where nobody answers."""
    if behaviour == "slow":
        options.setdefault("delay_s", 8.0)
    made = LlmServer(behaviour, **options)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        made.url = f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
        if behaviour == "gone":
            yield made
            return
        app = Starlette(routes=[Route("/v1/chat/completions", made.answer, methods=["POST"])])
        config = uvicorn.Config(app, log_level="error", lifespan="off", timeout_graceful_shutdown=1, ws="none")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        try:
            yield made
        finally:
            server.should_exit = True
            thread.join(10)
