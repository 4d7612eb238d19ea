"""The page in a headless Chromium, where one is installed: its width, its colours, what clicks and keys do."""

import json

import numpy as np
import pytest
from browsers import start
from run_folders import change_rows, make_run

from uda_jax.report import confusion, write

HOSTILE = "<img src=x onerror='document.title=1'><script>document.title=1</script>\"'</td>"


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A report with long and hostile names."""
    folder = tmp_path_factory.mktemp("report")
    runs = [("source_only", 0.3), ("advent_with_quite_a_long_name_for_a_narrow_screen", 0.4), (HOSTILE, 0.2)]
    folders = [make_run(folder / str(i), label, 0, value) for i, (label, value) in enumerate(runs)]
    matrix = confusion.Confusion(tuple("abcdefghijklmnopqrstuvwxyz"), np.eye(26, dtype=np.int64))
    for i, run in enumerate(folders):
        (run / "confusion.json").write_text(confusion.to_json({"final": matrix}))
        (run / "config.json").write_text(json.dumps({"method": {"path": "x" * 200 * i, HOSTILE: HOSTILE * i}}))
        change_rows(run, command=f"uda train {'y' * 300}", benchmark=f"streets {HOSTILE}")
    return write([*folders, make_run(folder / "killed", "dacs", 0, 0.1, finished=False)], folder / "report.html")


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """A browser for the tests of this module."""
    found = start(tmp_path_factory.mktemp("profile"))
    yield found
    found.close()


@pytest.mark.parametrize("width", [390, 1400])
def test_the_page_never_scrolls_sideways_and_fetches_nothing(browser, page, width):
    browser.open(page, width)
    browser.evaluate("document.querySelectorAll('details:not(.zoom)').forEach((each) => { each.open = true; })")
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    assert browser.requests == [page.as_uri()] and browser.errors == []
    assert browser.evaluate("document.title") == "uda_jax report"
    assert browser.evaluate("[...document.images].every((each) => each.complete && each.naturalWidth > 0)")


def test_text_stands_out_on_light_and_on_dark_screens(browser, page):
    # WCAG's contrast of text and ground; 4.5 is asked of small text.
    contrast = """(() => {
      const light = (text) => {
        const parts = text.match(/\\d+/g).slice(0, 3).map((part) => part / 255);
        const [r, g, b] = parts.map((part) => part <= 0.04 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
      };
      const ground = light(getComputedStyle(document.body).backgroundColor);
      return ['p.soft', 'td.better', 'td.worse', 'a', 'thead th', 'summary'].map((name) => {
        const text = light(getComputedStyle(document.querySelector(name)).color);
        return (Math.max(text, ground) + 0.05) / (Math.min(text, ground) + 0.05);
      });
    })()"""
    for dark in (False, True):
        browser.open(page, dark=dark)
        assert min(browser.evaluate(contrast)) >= 4.5
    assert browser.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 27)"


def test_a_click_on_a_heading_sorts(browser, page):
    browser.open(page)
    click = """(() => {
      const table = document.querySelector('table.headline');
      const head = table.tHead.rows[0].cells[2];
      head.querySelector('button').click();
      return [head.ariaSort, ...[...table.tBodies[0].rows].map((row) => row.cells[2].textContent)];
    })()"""
    assert browser.evaluate(click) == ["descending", "+10.0", "−10.0", "–"]
    assert browser.evaluate(click) == ["ascending", "−10.0", "+10.0", "–"]
    assert browser.evaluate(click) == [None, "–", "+10.0", "−10.0"]


def test_pictures_grow_and_shrink_by_keys(browser, page):
    browser.open(page)
    shown = "[...document.querySelectorAll('details.zoom[open] img')].map((each) => each.alt)"
    browser.evaluate("document.querySelector('.pairs summary').focus()")
    small = browser.evaluate("document.querySelector('.pairs img').width")
    browser.press("Enter")
    assert browser.evaluate(shown) == ["image of frame_1"]
    assert browser.evaluate("document.querySelector('.pairs img').width") > 3 * small
    browser.press("ArrowRight")
    assert browser.evaluate(shown) == ["label of frame_1"]
    browser.press("Escape")
    assert browser.evaluate(shown) == []
    assert browser.evaluate("document.activeElement.title") == "label of frame_1"
