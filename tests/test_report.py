"""The page that `evaluate --save` writes: what is in it, and how it behaves in a browser."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from playwright.sync_api import Page, sync_playwright

from conftest import find_chromium, save
from synergic import Restorer
from synergic.evaluate import Protocol, evaluate
from synergic.images import read_pixels

NAMES = ["a", "b<i>?#%20", "c"]


@pytest.fixture
def saved(
    tmp_path: Path, make_weights: Callable[..., Path], random: np.random.Generator
) -> tuple[Path, dict[str, Any]]:
    """A folder with a page of three pictures, of which c is restored best and a worst; the report."""
    for name, contrast in zip(NAMES, (255, 120, 0), strict=True):
        blocks = random.integers(0, contrast + 1, (6, 5, 1), np.uint8).repeat(8, 0).repeat(8, 1)
        save(tmp_path / "clean" / f"{name}.png", blocks)
        save(tmp_path / "degraded" / f"{name}.png", blocks // 2 + (100 if name == "a" else 0))
    restorer = Restorer.from_pretrained(make_weights(), device="cpu", precision="float32")
    protocol = Protocol(tmp_path / "clean", pairs=tmp_path / "degraded")
    return tmp_path / "saved", evaluate(restorer, protocol, tmp_path / "saved")


def test_the_page_holds_report_and_pictures(saved: tuple[Path, dict[str, Any]]) -> None:
    folder, report = saved
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    kinds = {"restored": "", "degraded": "index_files/degraded/", "clean": "index_files/clean/"}
    assert files == {"index.html"} | {f"{place}{name}.png" for name in NAMES for place in kinds.values()}
    page = (folder / "index.html").read_text()
    assert re.search(r"https?:|src=|@import|url\(", page) is None, "nothing is fetched"
    text = re.search(r'<script type="application/json" id="report">(.*?)</script>', page, re.DOTALL)
    assert text is not None
    held = json.loads(text[1], parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert report["images"][2]["degraded_psnr"] == float("inf"), "black stays black"
    assert held["images"][2]["degraded_psnr"] is None
    assert held["psnr"] == report["psnr"]
    for image, known in zip(held["images"], report["images"], strict=True):
        assert (image["name"], image["psnr"], image["ssim"]) == (known["name"], known["psnr"], known["ssim"])
        assert image["pictures"] == {kind: quote(f"{place}{image['name']}.png") for kind, place in kinds.items()}
        assert (image["width"], image["height"]) == (40, 48)
        for kind in ("clean", "degraded"):
            shown, known_pixels = (
                read_pixels(path / f"{image['name']}.png") for path in (folder / kinds[kind], folder.parent / kind)
            )
            assert np.array_equal(shown, known_pixels)


@pytest.fixture
def page(saved: tuple[Path, dict[str, Any]]) -> Iterator[Page]:
    """The page in headless Chromium. At the end: only it and its pictures were asked for, and no script failed."""
    chromium = find_chromium()
    address, asked, errors = (saved[0] / "index.html").as_uri(), list[str](), list[str]()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1000, "height": 800})
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda message: errors.append(message.text))
        page.goto(address)
        yield page
        browser.close()
    pictures = {
        (saved[0] / f"{place}{name}.png").as_uri()
        for name in NAMES
        for place in ("", "index_files/degraded/", "index_files/clean/")
    }
    assert asked[0] == address and set(asked[1:]) - {"data:,"} <= pictures
    assert errors == []


def column(page: Page, number: int) -> list[str]:
    """The cells of a column, from the first, as shown."""
    return page.locator(f"tbody tr td:nth-child({number + 1})").all_inner_texts()


def test_scores_are_sorted_by_any_column(page: Page, saved: tuple[Path, dict[str, Any]]) -> None:
    report = saved[1]
    assert column(page, 0) == NAMES
    assert column(page, 2) == [f"{image['psnr']:.2f}" for image in report["images"]]
    assert column(page, 1)[2] == "∞"
    assert column(page, 3)[2] == "-∞", "what had no noise has lost"
    assert page.locator("tfoot td").all_inner_texts()[::2] == ["mean", f"{report['psnr']:.2f}", f"{report['ssim']:.4f}"]
    by_psnr = [image["name"] for image in sorted(report["images"], key=lambda image: -image["psnr"])]
    assert by_psnr != NAMES
    page.get_by_role("button", name="restored, dB").click()
    assert column(page, 0) == by_psnr
    captions = page.locator("figcaption").all_inner_texts()
    assert [caption.split(":")[0] for caption in captions] == by_psnr, "the pictures follow the table"
    page.get_by_role("button", name="restored, dB").click()
    assert column(page, 0) == by_psnr[::-1]
    assert page.locator("th[aria-sort]").all_inner_texts() == ["restored, dB"]
    page.get_by_role("button", name="picture").click()
    assert column(page, 0) == NAMES


def test_a_slider_uncovers_the_picture_beneath(page: Page) -> None:
    pair = page.locator(".pair").first
    slider = page.get_by_label("a: where left meets right")

    def left_edge() -> str:
        return pair.locator("img.left").evaluate("image => getComputedStyle(image).clipPath")

    assert left_edge() == "inset(0px 50% 0px 0px)"
    box = slider.bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + box["width"] * 0.25, box["y"] + 9)
    assert 20 < float(slider.input_value()) < 30
    dragged = slider.input_value()
    slider.press("ArrowRight")
    assert float(slider.input_value()) == float(dragged) + 0.5
    assert left_edge() == f"inset(0px {100 - float(slider.input_value()):g}% 0px 0px)"


def test_what_is_compared_and_how_large_is_chosen(page: Page) -> None:
    pair = page.locator(".pair").first
    assert pair.locator("span").all_inner_texts() == ["restored", "degraded"]
    degraded = pair.locator("img.left").get_attribute("src")
    page.select_option("#left", "clean")
    assert pair.locator("span").all_inner_texts() == ["restored", "clean"]
    assert pair.locator("img.left").get_attribute("src") not in (
        degraded,
        pair.locator("img.right").get_attribute("src"),
    )
    page.wait_for_function("[...document.images].every(image => image.complete && image.naturalWidth === 40)")
    for size, width in (("1", 40), ("4", 160)):
        page.select_option("#size", size)
        page.wait_for_function(f"document.querySelector('.pair').clientWidth === {width}")
    page.get_by_role("link", name="c").click()
    assert page.url.endswith("#picture2")
