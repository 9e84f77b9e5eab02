"""Photographs the first screen of a run's report as docs/report.png: `python results/screenshot.py RUN_DIRECTORY`.

The run is shown as its report stands: nothing is retouched. Needs chromium and chromedriver, as the tests do.
"""

import io
import shutil
import sys
import tempfile
from pathlib import Path

from PIL import Image
from selenium import webdriver

PICTURE = Path("docs/report.png")
WIDTH, HEIGHT = 1280, 930
COLOURS = 128
"""A page of a few flat colours: a palette keeps the file small, and no eye tells the difference."""


def photograph(page: Path) -> Image.Image:
    with tempfile.TemporaryDirectory() as profile:
        options = webdriver.ChromeOptions()
        options.binary_location = shutil.which("chromium") or sys.exit("apt-get install chromium chromium-driver")
        for word in ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
                     "--disable-background-networking", "--disable-component-update", "--disable-sync",
                     "--hide-scrollbars", f"--user-data-dir={profile}"):  # fmt: skip
            options.add_argument(word)
        with webdriver.Chrome(
            options=options, service=webdriver.ChromeService(shutil.which("chromedriver"))
        ) as browser:
            metrics = {"width": WIDTH, "height": HEIGHT, "deviceScaleFactor": 1.5, "mobile": False}
            browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
            browser.get(page.resolve().as_uri())
            return Image.open(io.BytesIO(browser.get_screenshot_as_png()))


if __name__ == "__main__":
    picture = photograph(Path(sys.argv[1]) / "report.html").convert("RGB")
    picture.quantize(COLOURS).save(PICTURE, optimize=True)
    print(f"{PICTURE}: {PICTURE.stat().st_size:,} bytes")
