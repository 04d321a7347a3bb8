"""The pictures of a report that the documentation shows.

python docs/screenshots.py demo/report.html docs/pictures
"""

import io
import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

VIEWS = {"report": (1280, 800, "light"), "report-phone": (390, 844, "dark")}
"""The name of each picture, with the window's width and height and its colours."""


def main(report: str, folder: str) -> None:
    """Takes the first screen of a report in each view."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        for name, (width, height, scheme) in VIEWS.items():
            page = chromium.new_page(
                viewport={"width": width, "height": height}, color_scheme=scheme
            )
            page.goto(Path(report).resolve().as_uri())
            page.wait_for_selector("body[data-ready]")
            picture = Image.open(io.BytesIO(page.screenshot()))
            picture.quantize(128).save(Path(folder, f"{name}.png"), optimize=True)
        chromium.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
