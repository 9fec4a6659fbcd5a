"""The page in a real browser on the real stack: picture moves, sound is heard, words light up, Interrupt works.

`KEEP_SCREENSHOTS=docs/images` keeps what the viewer saw as page.png and page-phone.png there.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.fixtures.browser import Page, open_page
from tests.fixtures.stack import RunningStack

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(600)]

WORDS = "Good evening. The lamp is lit and the stage is yours. I say what you write, while you watch."
NEW_WORDS = "Then let us begin again."


async def keep_screenshot(page: Page, name: str, folder: Path) -> None:
    """Keep what the viewer sees where KEEP_SCREENSHOTS says, else in the test's own folder."""
    kept = Path(os.environ.get("KEEP_SCREENSHOTS") or folder)
    await page.page.screenshot(path=kept / name)


async def test_a_character_speaks_in_the_browser(stack: RunningStack, tmp_path: Path) -> None:
    """`video.currentTime` advances, what is decoded is not silence, and a caption word lights up."""
    async with open_page(stack.page) as page:
        await page.speak(WORDS)
        await page.until_playing()
        await page.until("window.loudest > 0.01")
        await page.until("document.querySelectorAll('.word.lit').length >= 3")
        await page.until("document.getElementById('ttfc').textContent.endsWith(' s')")
        await page.until("document.getElementById('rtf').textContent > '0'")
        await keep_screenshot(page, "page.png", tmp_path)
        assert not await page.page.is_visible("#problem[data-kind=problem]"), await page.text("problem")
        assert page.faults == []


async def test_interrupt_cuts_and_new_words_are_spoken(stack: RunningStack, tmp_path: Path) -> None:
    """Interrupt fades the sound and takes unheard words away; new words follow. On a phone, in the dark."""
    async with open_page(stack.page, width=390, height=844, colour="dark") as page:
        await page.speak(" ".join([WORDS] * 3))
        await page.until_playing()
        await page.until("document.querySelectorAll('.word.lit').length >= 2")
        await keep_screenshot(page, "page-phone.png", tmp_path)
        await page.page.click("#interrupt")
        await page.until("document.getElementById('video').volume < 0.01")
        begin = await page.time()
        await page.speak(NEW_WORDS)
        await page.until("[...document.querySelectorAll('.word.lit')].some((word) => word.textContent === 'again.')")
        await page.until("document.getElementById('video').volume > 0.99")
        assert await page.time() > begin
        shown = await page.page.evaluate("document.getElementById('captions').textContent")
        assert "watch. Good" not in shown, "the words that were cut off are not spoken later"
        assert page.faults == []
