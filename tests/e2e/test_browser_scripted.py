"""The page in a real browser against a scripted worker: what must hold whatever a character looks and sounds like."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from playwright.async_api import Dialog

from gateway.auth.keys import key_line, new_key
from gateway.process import Gateway
from services.settings import GatewaySettings
from services.state import SessionStore
from tests.fakes.bundle import write_bundle
from tests.fakes.worker import FakeWorker
from tests.fixtures.browser import open_page

pytestmark = [pytest.mark.browser, pytest.mark.timeout(240)]

LONG = " ".join(f"word{number}" for number in range(60))


@pytest.fixture
async def worker(store: SessionStore, tmp_path: Path) -> AsyncIterator[FakeWorker]:
    """A worker that makes test pictures and tones."""
    fake = FakeWorker(store, write_bundle(tmp_path, reads_prompts=True).manifest.digest)
    await fake.start()
    yield fake
    await fake.stop()


@pytest.fixture
async def url(redis_url: str, tmp_path: Path, worker: FakeWorker) -> AsyncIterator[str]:
    """Where the page is."""
    settings = GatewaySettings(
        redis_url=redis_url,
        bundle=tmp_path,
        gateway_listen="127.0.0.1:0",
        gateway_http_listen="127.0.0.1:0",
        redis_call_timeout_ms=5000,
        drain_s=0.5,
    )
    async with Gateway.running(settings) as gateway:
        yield f"http://{gateway.http.address}/"


async def test_words_are_seen_heard_and_read(url: str) -> None:
    """The video moves, it is not silent, a word lights up, the panel has figures, and nothing went wrong."""
    async with open_page(url) as page:
        await page.speak(LONG)
        await page.until_playing()
        await page.until("window.loudest > 0.05")
        await page.until("document.querySelectorAll('.word.lit').length >= 2")
        await page.until("document.querySelectorAll('.word:not(.lit)').length >= 1")
        for figure in ("rtf", "ttfc", "lead"):
            assert (await page.text(figure))[0].isdigit()
        assert not await page.page.is_visible("#problem")
        assert page.faults == []


async def test_interrupt_silences_and_new_words_follow(url: str) -> None:
    """Interrupt fades the sound at once and retires the unheard words; the next words are heard again."""
    async with open_page(url) as page:
        await page.speak(LONG)
        await page.until_playing()
        await page.until("window.level > 0.05")
        await page.page.click("#interrupt")
        await page.until("document.getElementById('video').volume < 0.01")
        heard = await page.page.evaluate("document.querySelectorAll('.word').length")
        await asyncio.sleep(2.0)
        assert await page.page.evaluate("document.querySelectorAll('.word').length") <= heard
        await page.speak("something else entirely")
        await page.until("document.getElementById('captions').textContent.includes('entirely')")
        await page.until("document.getElementById('video').volume > 0.99 && window.level > 0.05")
        await page.until("[...document.querySelectorAll('.word.lit')].some((word) => word.textContent === 'entirely')")
        assert page.faults == []


async def test_a_broken_line_is_mended_by_itself(url: str, worker: FakeWorker) -> None:
    """When the socket breaks the page attaches again and playback goes on, nothing lost and nothing twice."""
    async with open_page(url) as page:
        await page.page.evaluate(
            "() => { const Plain = WebSocket; window.sockets = [];"
            " window.WebSocket = class extends Plain { constructor(...all) { super(...all); sockets.push(this); } }; }"
        )
        await page.speak(LONG)
        await page.until_playing()
        await page.page.evaluate("sockets.at(-1).close()")
        await page.until("sockets.length === 2")
        begin = await page.time()
        await page.until(f"document.getElementById('video').currentTime > {begin + 4}")
        words = await page.page.evaluate("[...document.querySelectorAll('.word')].map((word) => word.textContent)")
        numbers = [int(word.removeprefix("word")) for word in words]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))


async def test_mistakes_are_answered_in_sentences(url: str, worker: FakeWorker) -> None:
    """No words, and no free slot: each is said on the page in a sentence, and the page can be used again."""
    async with open_page(url) as page:
        await page.speak("   ")
        assert "no words" in await page.text("problem")
        worker.slots = 0
        await worker._beat()
        await page.speak("hello there")
        await page.page.wait_for_selector("#problem:not([hidden])")
        await page.until("document.getElementById('problem').textContent.includes('slots')")
        worker.slots = 2
        await worker._beat()
        await page.speak("hello there")
        await page.until_playing()
        assert not await page.page.is_visible("#problem")


@pytest.mark.parametrize("width", [320, 390, 768])
async def test_the_page_fits_narrow_screens(url: str, width: int) -> None:
    """Nothing is cut off or scrolls sideways at the width of a phone, in the dark as well."""
    async with open_page(url, width=width, height=740, colour="dark") as page:
        overflow = await page.page.evaluate("document.documentElement.scrollWidth - innerWidth")
        assert overflow <= 0
        assert await page.page.evaluate("document.documentElement.dataset.theme") == "dark"
        for button in ("#speak", "#interrupt", "#text", "#prompt", "#prompting button"):
            box = await page.page.locator(button).bounding_box()
            assert box is not None and box["x"] >= 0 and box["x"] + box["width"] <= width


async def test_another_character_takes_the_stage(url: str, worker: FakeWorker) -> None:
    """Choosing someone else closes the session of the first, and the next words are theirs."""
    async with open_page(url) as page:
        await page.speak("hello there")
        await page.until_playing()
        await page.page.click("#gallery button[data-name=cleo]")
        assert await page.page.get_attribute("#gallery button[data-name=cleo]", "aria-checked") == "true"
        await page.speak("good evening")
        await page.until_playing()
        assert len(worker.claims) == 2
        states = [record.state.is_final for record in (await worker.store.list_sessions()).sessions]
        assert sorted(states) == [False, True]


async def test_a_prompt_is_asked_and_what_holds_is_shown(url: str) -> None:
    """The line for the picture sends what is written, from an empty stage too, and the page tells what was asked."""
    async with open_page(url) as page:
        await page.page.fill("#prompt", "smiles, looks left")
        await page.page.press("#prompt", "Enter")
        await page.until("document.getElementById('asked').textContent === 'smiles, looks left'")
        assert await page.page.input_value("#prompt") == ""
        await page.until_playing()
        await page.page.click("#prompting button")
        assert "what the picture shall show" in await page.text("problem")
        assert page.faults == []


async def test_a_key_is_asked_for_once(redis_url: str, tmp_path: Path, worker: FakeWorker) -> None:
    """Where the gateway asks who calls, the page asks its viewer, keeps the answer, and the words are spoken."""
    key, keys = new_key(), tmp_path / "keys"
    keys.write_text(key_line("acme", key))
    settings = GatewaySettings(
        redis_url=redis_url,
        bundle=tmp_path,
        gateway_listen="127.0.0.1:0",
        gateway_http_listen="127.0.0.1:0",
        redis_call_timeout_ms=5000,
        api_keys_file=keys,
        drain_s=0.5,
    )
    asked: list[str] = []

    async def answer(dialog: Dialog) -> None:
        asked.append(dialog.message)
        await dialog.accept(key)

    async with Gateway.running(settings) as gateway, open_page(f"http://{gateway.http.address}/") as page:
        page.page.on("dialog", answer)
        await page.speak("Let me in.")
        await page.until("sessionStorage.getItem('key') !== null")
        await page.speak(LONG)
        await page.until_playing()
        await page.page.reload()
        await page.until("document.querySelectorAll('#gallery button').length > 0")
        await page.speak(LONG)
        await page.until_playing()
        assert len(asked) == 1 and "API key" in asked[0]
        records = (await worker.store.list_sessions("acme")).sessions
        assert len(records) == 2
