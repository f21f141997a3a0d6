"""The report in a headless browser without a network: no console errors, all images visible, interactive t-SNE."""

import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import selection_pages
from chromium import CHROMIUM, FIGURE, Browser
from report_runs import HOSTILE, complete, make_run

from dim_jax.cli import command_line
from dim_jax.reporting import report_files

RESULTS = Path(__file__).parents[2] / "docs" / "results" / "ebhi_seg_linear"
AXE = Path(os.environ.get("AXE_CORE", "node_modules/axe-core"), "axe.min.js")  # of the npm package axe-core
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    browser = Browser()
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two complete runs, the second with names that would be markup or code if anything let them."""
    folder = tmp_path_factory.mktemp("browser")
    runs = [complete(make_run(folder / "a")), complete(make_run(folder / "<b>b</b>", HOSTILE, seed=1))]
    return report_files.write_report(runs, folder / "report.html")


@pytest.mark.parametrize("colours", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1400])
def test_page_opens_offline_without_complaint(browser: Browser, page: Path, width: int, colours: str) -> None:
    browser.open(page, width=width, colours=colours)
    browser.scroll_to_cloud()
    assert browser.complaints == []
    assert all(address.startswith(("file:", "data:", "blob:")) for address in browser.requests)
    assert browser.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_all_images_are_visible(browser: Browser, page: Path) -> None:
    browser.open(page)
    assert browser.evaluate("document.images.length") > 20
    assert browser.evaluate("[...document.images].every((image) => image.complete && image.naturalWidth > 0)")
    assert browser.evaluate(
        "[...document.querySelectorAll('main svg[role=img]')]"
        ".filter((one) => one.checkVisibility()).every((one) => one.getBoundingClientRect().width > 100)"
    )


def test_the_cloud_has_every_point_and_shows_pixels(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.scroll_to_cloud()
    num_points = "document.querySelector('.cloud').data.reduce((sum, trace) => sum + trace.x.length, 0)"
    assert (
        browser.evaluate(num_points)
        == browser.evaluate("Number(document.querySelector('.embedding small').textContent.match(/\\d+/)[0])")
        == 18
    )
    assert browser.evaluate("document.querySelector('.cloud canvas').getBoundingClientRect().width") > 300
    assert browser.evaluate("getComputedStyle(document.querySelector('.static')).display") == "none"
    before = browser.picture("figure.embedding .cloud")
    browser.evaluate(
        "Plotly.relayout(document.querySelector('.cloud'), {'scene.camera.eye': {x: -1, y: 1, z: 1}}).then(() => 0)"
    )
    browser.wait("document.querySelector('.cloud').layout.scene.camera.eye.x === -1")
    time.sleep(0.5)
    assert browser.picture("figure.embedding .cloud") != before


def test_the_cloud_can_be_saved_as_a_picture(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.scroll_to_cloud()
    saved = browser.evaluate(
        "Plotly.toImage(document.querySelector('.cloud'), {format: 'png', width: 400, height: 300})"
    )
    assert saved.startswith("data:image/png;base64,") and len(saved) > 2000
    assert browser.complaints == []


def test_names_in_the_cloud_are_literal(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.scroll_to_cloud(1)
    labels = browser.evaluate(f"[...{FIGURE}[1].querySelectorAll('.legendtext')].map((label) => label.textContent)")
    assert labels == [command_line.printable(name) for name in HOSTILE]
    assert browser.complaints == []


def test_colours_follow_the_system(browser: Browser, page: Path) -> None:
    def colour() -> str:
        return browser.evaluate("document.querySelector('.cloud').data[0].marker.color")

    browser.open(page, colours="light")
    browser.scroll_to_cloud()
    light = colour()
    browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    browser.wait(f"document.querySelector('.cloud').data?.[0].marker.color !== {json.dumps(light)}")
    assert colour().startswith("#") and colour() != light


def test_print_uses_the_static_figure(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.scroll_to_cloud()
    browser.call("Emulation.setEmulatedMedia", media="print")
    assert browser.evaluate("document.querySelector('.static svg').getBoundingClientRect().width") > 200
    assert not browser.evaluate("document.querySelector('.cloud').checkVisibility()")


def test_links_hold_the_same_numbers_as_the_files(browser: Browser, page: Path) -> None:
    browser.open(page)
    links = browser.evaluate(
        "Promise.all([...document.querySelectorAll('a.csv')].map(async (link) => [link.download, "
        "new TextDecoder().decode(Uint8Array.from(atob(link.href.split(',')[1]), (one) => one.charCodeAt(0)))]))"
    )
    files = [path.read_text("utf-8-sig") for path in sorted(page.with_name("report_data").glob("*/*.csv"))]
    assert sorted(text for _, text in links) == sorted(files)
    assert all(name.endswith(".csv") for name, _ in links) and len({name for name, _ in links}) == len(links)


def test_without_webgl_the_static_figure_is_shown(page: Path) -> None:
    browser = Browser("--disable-3d-apis")
    try:
        browser.open(page)
        browser.wait("document.querySelector('figure.embedding').dataset.refused === 'no WebGL'")
        assert browser.evaluate("document.querySelector('.static svg').getBoundingClientRect().width") > 300
        assert browser.complaints == []
    finally:
        browser.close()


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a kept experiment."""
    folder = tmp_path_factory.mktemp("experiment") / "kept"
    shutil.copytree(RESULTS, folder)
    return report_files.write_report([folder], folder / "report.html")


def test_a_click_on_a_heading_sorts_a_table_and_a_second_one_the_other_way_round(
    browser: Browser, experiment: Path
) -> None:
    browser.open(experiment)
    table = "document.querySelector('table.sortable')"
    column = f"[...{table}.tBodies[0].rows].map((row) => parseFloat(row.cells[3].textContent))"
    names = f"[...{table}.tBodies[0].rows].map((row) => row.cells[0].textContent)"
    before, all_names = browser.evaluate(column), sorted(browser.evaluate(names))
    assert before not in (sorted(before), sorted(before, reverse=True))
    for direction in ("descending", "ascending"):
        browser.evaluate(f"{table}.querySelectorAll('thead button')[3].click()")
        assert browser.evaluate(column) == sorted(before, reverse=direction == "descending")
        assert browser.evaluate(f"{table}.querySelector('[aria-sort]').ariaSort") == direction
    assert sorted(browser.evaluate(names)) == all_names
    assert browser.complaints == []


@pytest.fixture(scope="module")
def selection(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a selection, one class of which has no selected images."""
    folder = tmp_path_factory.mktemp("selection")
    (folder / "report.html").write_text(selection_pages.render(folder / "images"), encoding="utf-8")
    return folder / "report.html"


def test_the_page_of_a_selection_fits_any_width_and_shows_all_images(browser: Browser, selection: Path) -> None:
    for width in (360, 400, 1200):
        browser.open(selection, width=width)
        assert browser.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert browser.evaluate("[...document.images].every((image) => image.complete && image.naturalWidth > 0)")
    assert browser.complaints == []


@pytest.mark.skipif(not AXE.is_file(), reason="axe-core is not here")
@pytest.mark.parametrize("colours", ["light", "dark"])
@pytest.mark.parametrize("which", ["page", "experiment", "selection"])
def test_axe_finds_no_violation(browser: Browser, request: pytest.FixtureRequest, which: str, colours: str) -> None:
    for width in (400, 1200):
        browser.open(request.getfixturevalue(which), width=width, colours=colours)
        browser.evaluate(f"{AXE.read_text(encoding='utf-8')};0")
        found = browser.evaluate("axe.run().then((all) => all.violations.map((one) => [one.id, one.nodes[0].html]))")
        assert found == []
