"""A real browser that looks at reports: Debian's packages chromium and chromium-driver, where they are installed."""

from __future__ import annotations

import base64
import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage",
)  # fmt: skip
needs_browser = pytest.mark.skipif(
    CHROMIUM is None or DRIVER is None, reason="needs Debian's packages chromium and chromium-driver"
)
PLOTS = """return [...document.querySelectorAll("div.plot")].map(place => ({
  label: place.getAttribute("aria-label"),
  marks: place.querySelectorAll(".trace path, .points path, .heatmaplayer image, .js-line").length,
  width: place.querySelector(".main-svg").getBoundingClientRect().width}))"""
SMALL_TEXT = """return [...document.querySelectorAll("main p, main td, main dd, .plot text")]
  .filter(one => one.textContent.trim() && parseFloat(getComputedStyle(one).fontSize) < 10.5)
  .map(one => one.textContent)"""


def started(profile: Path) -> Iterator[Any]:
    """A browser with its own profile, its logs empty; it ends with the iterator."""
    from selenium.webdriver import Chrome
    from selenium.webdriver.chrome.options import Options
    from selenium.webdriver.chrome.service import Service

    options = Options()
    options.binary_location = str(CHROMIUM)
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = Chrome(options=options, service=Service(str(DRIVER)))
    driver.get("about:blank")
    for kind in ("browser", "performance"):
        driver.get_log(kind)
    yield driver
    driver.quit()


def opened(browser: Any, page: Path, width: int) -> None:
    """Open a page in a window of so many pixels, and wait until its script has run."""
    from selenium.webdriver.support.ui import WebDriverWait

    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 800}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get("about:blank")
    browser.get(page.as_uri())
    # The page's script has run to its end: on a busy machine the driver can come back before that.
    WebDriverWait(browser, 60).until(
        lambda driver: driver.execute_script("return document.documentElement.dataset.ready") == "yes"
    )


def check_page(browser: Any, page: Path, width: int, plots: int) -> None:
    """Nothing on the console, nothing from the network, every plot drawn, everything readable at this width."""
    for kind in ("browser", "performance"):
        # What pages of other tests left.
        browser.get_log(kind)
    opened(browser, page, width)
    assert browser.get_log("browser") == []
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [one["params"]["request"]["url"] for one in messages if one["method"] == "Network.requestWillBeSent"]
    assert [url.partition(":")[0] for url in asked if not url.startswith(("data:", "about:"))] == ["file"]
    # Nothing sticks out at the right; wide tables and the picture scroll inside their frames.
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    drawn = browser.execute_script(PLOTS)
    assert len(drawn) == plots, drawn
    for plot in drawn:
        assert plot["marks"] > 0, plot
        assert 250 < plot["width"] <= width
    assert browser.execute_script(SMALL_TEXT) == []


def colours(browser: Any, element: str) -> int:
    """How many different colours an element has on the screen."""
    import numpy as np
    from matplotlib.image import imread

    box = browser.execute_script(
        "const b = document.querySelector(arguments[0]).getBoundingClientRect();"
        "return {x: b.x + scrollX, y: b.y + scrollY, width: b.width, height: b.height, scale: 1}",
        element,
    )
    shot = browser.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True, "clip": box})
    pixels = imread(io.BytesIO(base64.b64decode(shot["data"])))
    return len(np.unique(pixels.reshape(-1, pixels.shape[-1]), axis=0))


def sorted_column(browser: Any, label: str, column: str) -> tuple[str, list[str]]:
    """Click on a column's head; gives the order that the table then claims, and the column's cells.

    Args:
        browser: With the page opened.
        label: What the table is called for those who hear it.
        column: Its head.
    """
    found = browser.execute_script(
        """
        const table = document.querySelector(`[aria-label="${arguments[0]}"] table.sortable`);
        const heads = [...table.tHead.rows[0].cells];
        const at = heads.findIndex(one => one.textContent === arguments[1]);
        heads[at].firstChild.click();
        return [heads[at].getAttribute("aria-sort"), [...table.tBodies[0].rows].map(row =>
          row.cells[at].dataset.value === undefined ? row.cells[at].textContent : row.cells[at].dataset.value)];
        """,
        label,
        column,
    )
    return found[0], found[1]
