"""A Chromium without a screen and a network. A test fails when its page asks for anything or complains of anything."""

from __future__ import annotations

import io
import os
import shutil

import pytest
from lab_runs import write_lab
from PIL import Image
from playwright.sync_api import sync_playwright

from analysis.commands.report import main

REQUIRE = "METAPOLICY_REQUIRE_CHROMIUM"
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@pytest.fixture(scope="session")
def chromium():
    """A running browser with an empty profile of its own."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None and not os.environ.get(REQUIRE):
        pytest.skip("not run: this needs a Chromium (Debian: apt-get install chromium)")
    assert found is not None, f"{REQUIRE} is set and there is no chromium: apt-get install chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=list(FLAGS))
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def lab(tmp_path_factory):
    """Run records, see `lab_runs`."""
    runs = tmp_path_factory.mktemp("lab") / "runs"
    picture = io.BytesIO()
    Image.new("RGB", (320, 200), (0, 114, 178)).save(picture, "PNG")
    write_lab(runs, picture.getvalue())
    return runs


@pytest.fixture(scope="session")
def report(lab):
    """The page of these records."""
    path = lab.parent / "report.html"
    assert main([str(lab), "-o", str(path)]) == 0
    return path


@pytest.fixture
def visit(chromium):
    """Opens a page in a window of its own."""
    complaints, contexts = [], []

    def visit_(path, width=1280, height=900, scheme="light"):
        viewport = {"width": width, "height": height}
        context = chromium.new_context(viewport=viewport, color_scheme=scheme, offline=True)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(60_000)
        address = path.as_uri()
        page.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: complaints.append(f"error: {error}"))
        page.on("dialog", lambda dialog: (complaints.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.on("request", lambda request: _note(request.url, address, complaints))
        page.goto(address)
        page.wait_for_selector("#runs tbody tr")
        return page

    yield visit_
    for context in contexts:
        context.close()
    assert not complaints


def _note(url, address, complaints):
    if url != address and not url.startswith(("data:", "blob:")):
        complaints.append(f"request: {url}")
