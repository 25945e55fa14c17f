"""Chromium shows results in the colours in which it shows the upload."""

import base64
from collections.abc import Iterator

import numpy as np
import pytest
from playwright.sync_api import Page

from superres.engines.upscaler import Upscaler
from testkit.coloured_files import COLOURED, avif, cicp, heic_of, png
from testkit.kinds import enhance
from tests.e2e.browser import run_chromium

LOOK = """async (url) => {
  const image = new Image();
  image.src = url;
  await image.decode();
  const context = document.createElement("canvas").getContext("2d");
  context.drawImage(image, 0, 0);
  return Array.from(context.getImageData(8, 8, 1, 1).data.slice(0, 3));
}"""
RESULTS = {"png": None, "webp": None, "jpeg": 100, "avif": 100}
# Bright enough for HDR, and not clipped.
HDR = {
    "HLG PNG": png(cicp(9, 18)),
    "PQ PNG": png(cicp(1, 16)),
    "HLG AVIF": avif(9, 18),
    "PQ AVIF": avif(1, 16),
}


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with run_chromium() as browser:
        yield browser.new_page()


def shown(page: Page, content: bytes) -> list[int]:
    name = "avif" if content[4:8] == b"ftyp" else "png"
    name = {b"\xff\xd8": "jpeg", b"RI": "webp"}.get(content[:2], name)
    url = f"data:image/{name};base64,{base64.b64encode(content).decode()}"
    found: list[int] = page.evaluate(LOOK, url)
    return found


def check_results(page: Page, upload: bytes, expected: list[int], model: Upscaler) -> None:
    for image_format, quality in RESULTS.items():
        result = enhance(model, upload, format=image_format, quality=quality)
        tolerance = 8 if image_format == "avif" else 2
        found = shown(page, result)
        assert np.abs(np.subtract(found, expected)).max() <= tolerance, image_format


@pytest.mark.parametrize("kind", COLOURED)
def test_results_look_like_the_upload(
    page: Page, kind: str, fake_super_resolution: Upscaler
) -> None:
    upload, colour = COLOURED[kind]
    expected = list(colour)
    if not kind.startswith("HEIC"):  # which Chromium does not show
        expected = shown(page, upload)
        assert np.abs(np.subtract(expected, colour)).max() <= 2
    check_results(page, upload, expected, fake_super_resolution)


@pytest.mark.parametrize("kind", HDR)
def test_hdr_looks_like_the_upload(page: Page, kind: str, fake_super_resolution: Upscaler) -> None:
    check_results(page, HDR[kind], shown(page, HDR[kind]), fake_super_resolution)


@pytest.mark.parametrize("transfer", [16, 18])
def test_hdr_of_a_heic_looks_like_that_of_an_avif(
    page: Page, transfer: int, fake_super_resolution: Upscaler
) -> None:
    expected = shown(page, avif(9, transfer))
    check_results(page, heic_of(9, transfer), expected, fake_super_resolution)
