"""Helpers of tests that drive the page in a real browser: Debian's chromium, by playwright."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import uvicorn

from mmor.viewer.server import make_app
from mmor.viewer.serving import listen
from mmor.viewer.takes import Shown

if TYPE_CHECKING:
    from playwright.sync_api import Page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
SWITCHES = [
    *("--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--mute-audio"),
    "--autoplay-policy=no-user-gesture-required",
]


@contextmanager
def served(shown: Shown) -> Generator[str]:
    """The address of a page while it is served."""
    with listen("127.0.0.1", None) as bound:
        server = uvicorn.Server(uvicorn.Config(make_app(shown), log_level="error", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{bound.getsockname()[1]}/"
        finally:
            server.should_exit = True
            thread.join()


def wait_for(page: Page, position: int) -> None:
    page.wait_for_selector(f"body[data-shown='{position}']", timeout=30_000)


def until(page: Page, condition: str) -> None:
    page.wait_for_function(f"() => {condition}", timeout=30_000)  # a function: the page evaluates no text
