"""A real Chromium before a real server; each page is watched for errors and for requests to elsewhere."""

import os
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Page,
    Request,
    expect,
    sync_playwright,
)

from spell_billing_tests.conftest import NO_BROWSER
from spell_billing_tests.triggering.served import SECRET, Served

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_TIMEOUT_MS = 30_000


# Not for the session: while Playwright is open, no other test of the process can run an event loop.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Start the machine's Chromium; CI must have one."""
    path = next(filter(None, map(shutil.which, _NAMES)), None)
    if path is None:
        if os.environ.get("CI"):
            pytest.fail(f"{NO_BROWSER}, and CI must run these tests: see .ci/run")
        pytest.skip(NO_BROWSER)
    expect.set_options(timeout=_TIMEOUT_MS)
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path)
        try:
            yield started
        finally:
            started.close()


@pytest.fixture(scope="module")
def served(
    browser: Browser,  # noqa: ARG001 - without one nothing is served
    make_source_tables: Callable[[str], Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Served]:
    """Give a running server on which March 2025 is billed."""
    with Served.new(tmp_path_factory.mktemp("browser"), make_source_tables) as running:
        running.usage(
            "2025-03", {"user-0001": 1_234, "user-0002": 250, "user-0009": 50}, without_account=["user-0009"]
        )
        billed = running.trigger("--month", "2025-03", "--wait")
        assert billed.end() == 3, billed.output
        yield running


@pytest.fixture
def open_page(browser: Browser, served: Served) -> Iterator[Callable[..., Page]]:
    """Give `open_page(**context)`: a page of a browser without any cookie, which must stay without errors."""
    contexts: list[BrowserContext] = []
    wrong: list[str] = []

    def heard(message: ConsoleMessage) -> None:
        if message.type == "error":
            wrong.append(f"console of {message.page and message.page.url}: {message.text}")

    def sent(request: Request) -> None:
        if not request.url.startswith((f"{served.url}/", "data:", f"blob:{served.url}/")):
            wrong.append(f"request to elsewhere: {request.url}")

    def make(**options: Any) -> Page:
        context = browser.new_context(base_url=served.url, **options)
        context.set_default_timeout(_TIMEOUT_MS)
        contexts.append(context)
        page = context.new_page()
        page.on("console", heard)
        page.on("request", sent)
        page.on("pageerror", lambda error: wrong.append(f"script of {page.url}: {error}"))
        return page

    yield make
    for context in contexts:
        context.close()
    assert wrong == []


@pytest.fixture
def sign_in() -> Callable[[Page], None]:
    """Give `sign_in(page)`: from the page to sign in, as a person does."""

    def go(page: Page) -> None:
        page.get_by_label("Admin secret").fill(SECRET)
        page.get_by_role("button", name="Sign in").click()

    return go
