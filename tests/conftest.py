"""Fixtures that several test files share: a real browser, without a window."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

# In the background, or under nohup, these arrive as ignored and pass on to every child, so that no
# test of an interrupt could interrupt anything.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

# What a browser showed is kept here to be looked at; git ignores it.
SCREENSHOTS = Path(__file__).parents[1] / "build" / "screenshots"
_BROWSERS = ("chromium", "chromium-browser", "google-chrome")
_PATIENCE_MS = 60_000


@dataclass
class BrowserPage:
    """A page of a real browser, and what it asked for and complained about.

    Whatever is not here is the page's own: ``page.goto(...)`` is Playwright's.
    """

    page: Any
    requests: list[str] = field(default_factory=list)
    """Address of every request, in order, whether it was answered or not."""
    errors: list[str] = field(default_factory=list)
    """Errors on the console, and exceptions that nothing caught."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.page, name)

    def keep_screenshot(self, name: str, **options: Any) -> Path:
        """Save what is seen as build/screenshots/NAME.png."""
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        path = SCREENSHOTS / f"{name}.png"
        self.page.screenshot(path=path, **options)
        return path


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave tests with a real browser to `make test-rest`."""
    for item in items:
        if "browser" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.rest)


# Of a module, not the session: Playwright keeps an event loop running in this thread meanwhile.
@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Start the Chromium or Chrome that is installed; skip where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    program = next(filter(None, map(shutil.which, _BROWSERS)), None)
    if program is None:
        pytest.skip(f"no browser is installed: looked for {', '.join(_BROWSERS)}")
    # As root, which containers are, Chromium starts only without its sandbox.
    is_root = sys.platform == "linux" and os.geteuid() == 0
    with playwright.sync_playwright() as driver:
        arguments = ["--no-sandbox"] if is_root else []
        browser = driver.chromium.launch(executable_path=program, args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def browser_page(browser: Any) -> Iterator[BrowserPage]:
    """Open an empty page of 1280 x 900 that shares nothing with other tests."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(_PATIENCE_MS)
    watched = BrowserPage(context.new_page())
    watched.on("request", lambda request: watched.requests.append(request.url))
    watched.on("pageerror", lambda error: watched.errors.append(str(error)))
    watched.on(
        "console",
        lambda message: watched.errors.append(message.text) if message.type == "error" else None,
    )
    yield watched
    context.close()
