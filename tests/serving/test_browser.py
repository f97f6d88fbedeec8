"""The page in a real browser, where there are Chromium and playwright, which drives it."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hitvideo.generation.record import read_record
from hitvideo.generation.sampling import Sampling
from tests.serving.page import Client

WAIT = 60_000  # ms


@pytest.fixture
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install playwright")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no chromium on the path: install your system's package")
    with api.sync_playwright() as play:
        launched = play.chromium.launch(
            executable_path=chromium, args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        )
        yield launched
        launched.close()


def until(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + WAIT / 1000
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def test_draft_pick_refine_download_and_cancel(page: Client, browser: Any, tmp_path: Path) -> None:
    tab, wrong = browser.new_page(viewport={"width": 1280, "height": 900}), []
    tab.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    tab.on("pageerror", lambda error: wrong.append(str(error)))
    tab.goto(page.url)
    for name, value in {"#prompt": "a red <b>thing</b>", "#drafts": "3", "#seed": "5", "#guidance": "3, 2.5"}.items():
        tab.fill(name, value)
    tab.click("#draw")
    tab.locator(".card .refine").nth(2).wait_for(timeout=WAIT)
    assert tab.locator("h2").all_text_contents() == ["a red <b>thing</b>"], "as text"
    until(lambda: all(tab.locator("video").nth(n).evaluate("v => v.readyState >= 2") for n in range(3)), "videos that play")
    tab.locator(".card .refine").nth(1).click()
    refined = tab.locator(".ticket").first
    refined.locator(".download").wait_for(timeout=WAIT)
    assert not refined.locator(".refine").is_visible(), "it has all levels"
    with tab.expect_download() as download:
        refined.locator(".download").click()
    download.value.save_as(tmp_path / "x.mp4")
    record = read_record(tmp_path / "x.mp4")
    assert (record.prompt, record.seed, record.sampling) == ("a red <b>thing</b>", 6, Sampling(guidance=(3.0, 2.5)))
    assert len(record.codes) == 4
    refined.locator(".repeat").click()
    again = tab.locator(".ticket .label")  # until the new ticket is there, the first one is the refined video's
    until(lambda: "the same as before" in again.first.inner_text(), "the same codes again")
    assert not wrong
    tab.fill("#guidance", "-3")
    tab.click("#draw")
    until(lambda: "guidance is -3" in tab.inner_text("#error"), "the server's words")
    tab.reload()
    until(lambda: bool(tab.locator(".ticket").count() == 3), "what was drawn is there after reloading")
    tab.set_viewport_size({"width": 390, "height": 800})
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390


def test_a_queue_is_shown_and_left(page: Client, browser: Any, held: Callable[[], None]) -> None:
    tab = browser.new_page()
    tab.goto(page.url)
    tab.fill("#prompt", "a red thing")
    for number in range(8):  # more than a browser's connections
        tab.click("#draw")
        until(lambda number=number: tab.locator(".ticket").count() == number + 1, "a ticket")  # type: ignore[misc]
    until(lambda: tab.locator(".ticket .state").first.inner_text() == "Waiting: 7 before you", "its place")
    tab.locator(".ticket .cancel").nth(1).click()
    until(lambda: tab.locator(".ticket .state").nth(1).inner_text() == "Cancelled", "cancelled")
    until(lambda: tab.locator(".ticket .state").first.inner_text() == "Waiting: 6 before you", "moved up")
    held()
    until(lambda: tab.locator(".ticket .download:visible").count() == 7 * 4, "all others are done")
