"""The documentation site, built as `make site` builds it and opened in a browser."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect, sync_playwright

ROOT = Path(__file__).resolve().parents[2]
# Screenshots of the last run, to look at.
SCREENSHOTS = ROOT / ".cache" / "site"


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        return


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    built = subprocess.run([sys.executable, ROOT / "tools" / "build_site.py", folder], capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


@pytest.fixture(scope="module")
def page(site: Path) -> Iterator[Page]:
    """A browser at the start page."""
    chromium = shutil.which("chromium")
    if not chromium:
        pytest.skip("chromium is not installed (tools/test-packages.txt)")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with sync_playwright() as playwright:
        # Chromium's sandbox refuses root, and the pages are our own.
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        opened = browser.new_page(
            base_url=f"http://127.0.0.1:{server.server_port}", viewport={"width": 1280, "height": 900}
        )
        opened.set_default_timeout(60_000)
        yield opened
        browser.close()
    server.shutdown()


def test_the_start_page_explains_devenv_on_its_first_screen(page: Page) -> None:
    failures: list[str] = []
    page.on("requestfailed", lambda request: failures.append(request.url))
    page.on("response", lambda response: failures.append(response.url) if response.status >= 400 else None)
    page.goto("/index.html")
    expect(page.get_by_role("heading", name="devenv", level=1)).to_be_in_viewport()
    expect(page.get_by_text("Why not kind?")).to_be_in_viewport()
    expect(page.locator("img[src$='up.svg']")).to_be_visible()
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / "start.png")
    assert failures == []


def test_the_menu_leads_to_every_section(page: Page) -> None:
    page.goto("/index.html")
    captions = page.locator(".sidebar-tree .caption-text").all_inner_texts()
    assert [text.lower() for text in captions] == [
        "start", "environments", "tests and automation", "reference", "contribute", "design",
    ]  # fmt: skip
    page.locator(".sidebar-tree").get_by_role("link", name="Troubleshooting").click()
    expect(page.get_by_role("heading", name="Troubleshooting", level=1)).to_be_visible()
    page.screenshot(path=SCREENSHOTS / "troubleshooting.png")


def test_a_symptom_is_found_by_the_search(page: Page) -> None:
    page.goto("/index.html")
    page.get_by_role("textbox", name="Search").fill("inotify")
    page.keyboard.press("Enter")
    results = page.locator("ul.search li a")
    expect(results.filter(has_text="Troubleshooting").first).to_be_visible()
    page.screenshot(path=SCREENSHOTS / "search.png")
    results.filter(has_text="Troubleshooting").first.click()
    expect(page.get_by_text("inotify").first).to_be_visible()
