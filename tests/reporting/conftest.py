"""A headless browser for the tests of the page, where there is one."""

import shutil
from contextlib import contextmanager

import pytest

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")


class Watched:
    """A page in the browser, with all that it said and asked for."""

    def __init__(self, page):
        self.page, self.said, self.asked = page, [], []
        page.on("console", lambda message: self.said.append(message.text))
        page.on("pageerror", lambda error: self.said.append(str(error)))
        page.on("request", lambda request: self.asked.append(request.url))

    def __getattr__(self, name):
        return getattr(self.page, name)

    def open(self, path):
        self.page.goto(path.as_uri())
        self.page.wait_for_selector("body[data-ready]", timeout=60_000)
        return self

    def numbers(self, selector):
        """The exact numbers behind the figures that a part of the page shows."""
        found = self.page.locator(f"{selector} data").all()
        return [float(each.get_attribute("value")) for each in found]

    @property
    def threshold(self):
        """The threshold in force, one or one per class, as the page's script has it."""
        values = self.page.get_attribute("#scores", "data-threshold").split()
        return float(values[0]) if len(values) == 1 else list(map(float, values))

    def slide(self, selector, value):
        """Sets a slider, as the arrow keys do."""
        self.page.locator(selector).evaluate(
            "(slider, x) => { slider.value = x; slider.dispatchEvent(new Event('input')) }", value
        )


@pytest.fixture(scope="session")
def chromium():
    api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    if BROWSER is None:
        pytest.skip("no chromium here; `apt-get install chromium` runs this test")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def opened(chromium):
    """Opens a file in a window of some size and colour scheme."""

    @contextmanager
    def opening(path, width=1280, height=800, scheme="light"):
        context = chromium.new_context(
            viewport={"width": width, "height": height}, color_scheme=scheme
        )
        try:
            yield Watched(context.new_page()).open(path)
        finally:
            context.close()

    return opening
