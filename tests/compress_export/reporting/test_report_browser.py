"""report.html in a real browser: no message on the console, the answer in the first screen, a table that sorts."""

import shutil
from itertools import product

import pytest
from report_runs import PHONE, counted, disturbed, make_hostile, measured_in_app, report_run
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from compress_export.reporting.pages import write_pages
from compress_export.run_directory import RunDirectory

SIZES = [(1280, 800), (390, 844)]


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """Debian's Chromium without a window; `make check` and `make test` install it."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    assert chromium, "Chromium is missing: apt-get install chromium chromium-driver"
    assert driver, "Chromium's driver is missing: apt-get install chromium-driver"
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for word in (
        "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
        "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage",
        f"--user-data-dir={tmp_path_factory.mktemp('chromium')}",
    ):  # fmt: skip
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    with webdriver.Chrome(options=options, service=webdriver.ChromeService(driver)) as started:
        yield started


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """The report of an ordinary run, of one whose names are HTML, of one on a busy machine, of one on a phone, and of
    one that was counted alone."""
    folder = tmp_path_factory.mktemp("runs")
    runs = {"plain": report_run(folder / "plain"), "hostile": make_hostile(report_run(folder / "hostile"))}
    runs["busy"] = disturbed(report_run(folder / "busy"))
    runs["phone"] = measured_in_app(report_run(folder / "phone", device=PHONE))
    runs["counted"] = counted(report_run(folder / "counted"), timed=False)
    for path in runs.values():
        write_pages(RunDirectory(path))
    return {name: path / "report.html" for name, path in runs.items()}


def show(browser, page, size, scheme):
    width, height = size
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    browser.get(page.as_uri())


@pytest.mark.parametrize("name", ["plain", "hostile", "busy", "phone", "counted"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_opens_without_a_message_and_fits_the_screen(browser, pages, name, size, scheme):
    show(browser, pages[name], size, scheme)
    assert browser.get_log("browser") == []
    page = "document.documentElement"
    assert browser.execute_script(f"return {page}.scrollWidth === {page}.clientWidth")
    assert browser.execute_script("return document.images.length") == 0
    paper = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert paper == {"light": "rgb(246, 247, 249)", "dark": "rgb(15, 19, 24)"}[scheme]


@pytest.mark.parametrize("size", SIZES)
def test_gain_loss_and_rest_stand_in_the_first_screen(browser, pages, size):
    show(browser, pages["plain"], size, "light")
    for words in ("smaller", "faster", "points", "Remaining parameters", "fc1"):
        found = browser.find_elements(By.XPATH, f"//*[contains(text(), '{words}')]")
        assert found, words
        assert found[0].rect["y"] + found[0].rect["height"] <= size[1], words


@pytest.mark.parametrize("size", SIZES)
def test_a_busy_machine_is_said_in_the_first_screen(browser, pages, size):
    show(browser, pages["busy"], size, "light")
    (found,) = browser.find_elements(By.CSS_SELECTOR, ".card .warning")
    assert "Taken on a busy machine" in found.text
    assert found.rect["y"] + found.rect["height"] <= size[1]


@pytest.mark.parametrize("size", SIZES)
def test_a_run_that_was_only_counted_says_so_in_the_first_screen(browser, pages, size):
    show(browser, pages["counted"], size, "light")
    for words in ("fewer", "counted on simulated cortex-a76, no time", "see Instructions", "Remaining parameters"):
        found = browser.find_elements(By.XPATH, f"//*[contains(text(), '{words}')]")
        assert found, words
        assert found[0].rect["y"] + found[0].rect["height"] <= size[1], words


def test_app_and_shell_are_a_press_away(browser, pages):
    show(browser, pages["phone"], SIZES[1], "light")
    browser.find_element(By.LINK_TEXT, "App and shell").click()
    rows = browser.find_elements(By.XPATH, "//h2[@id='processes']/following::table[1]//tbody/tr")
    assert [row.text.split()[:4] for row in rows] == [
        ["original.onnx", "shell", "10.00", "1.00x"], ["original.onnx", "app", "15.00", "1.50x"],
        ["compressed.onnx", "shell", "5.00", "1.00x"], ["compressed.onnx", "app", "7.50", "1.50x"],
    ]  # fmt: skip
    place = "return arguments[0].getBoundingClientRect().top"
    WebDriverWait(browser, 20).until(lambda page: 0 <= page.execute_script(place, rows[0]) < SIZES[1][1])


def column(browser, number):
    rows = browser.find_elements(By.CSS_SELECTOR, "#layer-table tbody tr")
    return [row.find_elements(By.CSS_SELECTOR, "th, td")[number].get_attribute("data-key") for row in rows]


def test_the_layer_table_sorts_by_the_heading_that_is_pressed(browser, pages):
    show(browser, pages["plain"], SIZES[0], "light")
    heads = browser.find_elements(By.CSS_SELECTOR, "#layer-table thead th")
    names = [head.text.split()[0] for head in heads]
    assert column(browser, 0) == ["fc1", "fc2"]
    parameters = heads[names.index("parameters")]
    parameters.find_element(By.TAG_NAME, "button").click()
    assert parameters.get_attribute("aria-sort") == "descending"
    assert column(browser, names.index("parameters")) == ["20000", "1000"]
    parameters.find_element(By.TAG_NAME, "button").click()
    assert column(browser, names.index("parameters")) == ["1000", "20000"]
    heads[0].find_element(By.TAG_NAME, "button").send_keys(Keys.ENTER)  # by the keyboard as well
    assert heads[0].get_attribute("aria-sort") == "ascending"
    assert parameters.get_attribute("aria-sort") is None
    assert column(browser, 0) == ["fc1", "fc2"]
    assert browser.get_log("browser") == []


def test_text_stands_out_from_its_ground(browser, pages):
    """WCAG's contrast of 4.5 for every text of the page, light and dark."""
    for name, scheme in product(("plain", "busy"), ("light", "dark")):
        show(browser, pages[name], SIZES[0], scheme)
        worst = browser.execute_script(CONTRAST)
        assert worst[0] >= 4.5, worst


CONTRAST = """
const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
const light = (c) => { const [r, g, b] = c.map((v) => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
const ground = (e) => { for (; e; e = e.parentElement) { const c = rgb(getComputedStyle(e).backgroundColor);
  if (c.length === 3 || c[3] > 0) return c.slice(0, 3); } return [255, 255, 255]; };
let worst = [99, ""];
for (const e of document.querySelectorAll("body *")) {
  if (![...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim()) || !e.getClientRects().length) continue;
  const style = getComputedStyle(e), svg = e.closest("svg"), ink = rgb(svg ? style.fill : style.color).slice(0, 3);
  if (e.tagName === "SCRIPT" || e.tagName === "STYLE" || e.tagName === "style") continue;
  const [a, b] = [light(ink), light(ground(svg ? svg.parentElement : e))].sort((x, y) => y - x);
  const ratio = (a + 0.05) / (b + 0.05);
  if (ratio < worst[0]) worst = [ratio, e.outerHTML.slice(0, 120)];
}
return worst;
"""
