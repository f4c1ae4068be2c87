"""The page of a profile in a real browser: it draws, answers to hands, and asks no network."""

import re
import shutil

import pytest

from fastconv.profiling.reports import as_page
from tests.profiles import sample

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next((path for name in BROWSERS if (path := shutil.which(name))), None)

pytestmark = pytest.mark.skipif(BROWSER is None, reason=f"no browser here: {', '.join(BROWSERS)}")


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def visit(browser, tmp_path_factory):
    """Opens the sample's page; fails at the end where it complained or asked for anything else."""
    path = tmp_path_factory.mktemp("page") / "profile.html"
    path.write_text(as_page(sample()), encoding="utf-8")
    complaints, requests, contexts = [], [], []

    def open_page(width=1200, **settings):
        context = browser.new_context(viewport={"width": width, "height": 900}, **settings)
        context.set_offline(True)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(path.as_uri())
        page.wait_for_selector("html[data-ready]", timeout=30_000)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []
    assert requests == [path.as_uri()] * len(contexts)


def first_column(page):
    return page.locator("#layers tbody tr:visible td:first-child").evaluate_all(
        "cells => cells.map(cell => cell.firstChild.textContent)"
    )


def test_charts_have_their_points_and_bars(visit):
    page = visit()
    assert page.locator("#roofline .scatterlayer .points path.point").count() == 2 * 4
    assert page.locator("#times .barlayer .point path").count() == 2 * 4
    assert page.locator("#memory .scatterlayer .lines path").count() == 2


def test_hovering_over_a_point_tells_its_layer(visit):
    page = visit()
    page.locator("#roofline .trace:last-child path.point").first.hover(force=True)
    text = page.locator("#roofline .hoverlayer .hovertext").first
    text.wait_for()
    shown = text.text_content()
    for words in ("stem", "0.50 ms", "rows", "1x16x56x56", "10.0 MFLOP", "60% of the roof"):
        assert words in shown


def test_headings_sort_the_layers_both_ways(visit):
    page = visit()
    assert first_column(page) == ["stem", "block.1", "block.2", "<head>"]
    heading = page.locator("#layers th", has_text="FLOP")
    heading.get_by_role("button").click()
    assert first_column(page) == ["<head>", "block.2", "block.1", "stem"]
    assert heading.get_attribute("aria-sort") == "descending"
    heading.get_by_role("button").click()
    assert first_column(page) == ["stem", "block.1", "block.2", "<head>"]
    page.locator("#layers th", has_text="layer").get_by_role("button").click()
    assert first_column(page) == ["stem", "block.1", "block.2", "<head>"]  # as they run
    assert heading.get_attribute("aria-sort") == "none"


def test_the_search_keeps_the_layers_that_hold_its_words(visit):
    page = visit()
    page.locator("#search").fill("block inverted_residual")
    assert first_column(page) == ["block.1", "block.2"]
    assert page.locator("#found").text_content() == "2 of 4"
    page.locator("#search").fill("")
    assert len(first_column(page)) == 4


def colours(page):
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    axis = page.locator("#roofline .xtick text").first.evaluate("e => getComputedStyle(e).fill")
    return [sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in (ground, axis)]


def test_dark_and_light_follow_the_system_without_a_reload(visit):
    page = visit(color_scheme="light")
    light_ground, light_text = colours(page)
    page.emulate_media(color_scheme="dark")
    axis = "document.querySelector('#roofline .xtick text')"
    page.wait_for_function(f"getComputedStyle({axis}).fill != 'rgb(104, 114, 122)'")
    dark_ground, dark_text = colours(page)
    assert light_ground - light_text > 200
    assert dark_text - dark_ground > 200


@pytest.mark.parametrize("width", [360, 768, 1200])
def test_nothing_is_wider_than_the_screen(visit, width):
    page = visit(width=width)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    for chart in ("times", "roofline", "memory"):
        box = page.locator(f"#{chart} svg.main-svg").first.bounding_box()
        assert 250 < box["width"] <= width


def test_it_prints_in_light(visit):
    page = visit(color_scheme="dark")
    page.emulate_media(media="print")
    ground, _ = colours(page)
    assert ground == 3 * 255
    assert page.pdf().startswith(b"%PDF")
