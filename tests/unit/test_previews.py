"""`POST /api/preview`: what the network sees of an upload, as PNG, and nothing kept."""

from collections.abc import Iterator
from dataclasses import replace
from io import BytesIO

import limits
import numpy as np
import pytest
from flask import Flask
from flask.testing import FlaskClient
from PIL import Image
from werkzeug.test import TestResponse

from superres.errors import ClientLeft
from superres.images.encoders import to_pil
from superres.images.image_codec import MAX_SIDE, decode_image
from superres.images.picture import Picture
from superres.images.png_file import walk_chunks
from superres.service import previews
from superres.service.memory_queue import MemoryClaim
from superres.service.runner import Runner
from superres.settings import Settings
from testkit.app_client import AppMaker, assert_problem, upload
from testkit.fakes import FakeModel
from testkit.kinds import KINDS, SRGB, Kind, soft_disc, write_with_metadata
from testkit.pictures import PNG, encode, make_upload

NO_PICTURES = (b"", b"hello", b"%PDF-1.7\n%", PNG[:-30], b"x" * 3000)
TOO_MANY = encode(Image.new("RGB", (50, 41)), "PNG")


def preview(
    client: FlaskClient, content: bytes = PNG, query: dict[str, object] | None = None
) -> TestResponse:
    form = {"image": (BytesIO(content), "photo.tiff")}
    return client.post("/api/preview", data=form, query_string=query)


def open_png(response: TestResponse) -> Image.Image:
    assert (response.status_code, response.content_type) == (200, "image/png"), response.data
    assert response.headers["Cache-Control"] == "no-store"
    image = Image.open(BytesIO(response.data))
    image.load()
    return image


def colours_of(content: bytes) -> dict[bytes, bytes]:
    """Return a PNG's chunks that say what its samples mean (PNG 3rd edition, 11.3.2)."""
    names = {b"iCCP", b"cICP", b"sRGB", b"gAMA", b"cHRM", b"mDCV", b"cLLI"}
    return {name: content[start:end] for name, start, end in walk_chunks(content) if name in names}


def seen(image: Image.Image) -> np.ndarray:
    """Return what is visible, (H, W, 4) uint8: hidden colours are black."""
    pixels = np.array(image.convert("RGBA"))
    pixels[pixels[:, :, 3] == 0] = 0
    return pixels


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())
def test_preview_lies_exactly_below_the_result(client: FlaskClient, kind: Kind) -> None:
    """The fake model repeats each pixel: the middle of every nine of a result is its input."""
    content = kind.content()
    shown, made = preview(client, content), upload(client, content=content)
    image, result = open_png(shown), open_result(made)
    decoded = decode_image(BytesIO(content))
    np.testing.assert_array_equal(seen(image), seen(to_pil(Picture(decoded.pixels, decoded.alpha))))
    assert colours_of(shown.data) == colours_of(made.data)
    assert [3 * side for side in image.size] == list(result.size)
    if kind.depth == 8:
        np.testing.assert_array_equal(seen(image), seen(result)[1::3, 1::3])


def open_result(response: TestResponse) -> Image.Image:
    image = Image.open(BytesIO(response.data))
    image.load()
    return image


def test_metadata_beside_the_colours_is_dropped(client: FlaskClient) -> None:
    image = open_png(preview(client, write_with_metadata("png", None)))
    assert image.info == {"icc_profile": SRGB}


def test_raw_body_is_taken_as_well(client: FlaskClient) -> None:
    response = client.post("/api/preview", data=PNG, content_type="image/png")
    assert open_png(response).size == (20, 10)


def test_nothing_is_kept(client: FlaskClient, runner: Runner, settings: Settings) -> None:
    assert open_png(preview(client)).size == (20, 10)
    assert list(runner.cache.scan()) == []
    assert runner.spool.used_bytes == 0
    assert set(runner.jobs.count_states().values()) == {0}
    assert runner.resources.memory.used_bytes == 0


@pytest.mark.parametrize(
    ("longest", "size"), [(96, (96, 72)), (500, (96, 72)), (48, (48, 36)), (1, (1, 1))]
)
def test_larger_images_are_reduced_and_smaller_ones_stay(
    client: FlaskClient, longest: int, size: tuple[int, int]
) -> None:
    response = preview(client, encode(soft_disc(), "PNG"), {"max_side": longest})
    assert open_png(response).size == size


@pytest.mark.parametrize("mode", ["RGBA", "LA", "RGB", "L"])
def test_reduced_colours_are_those_of_the_image_and_hidden_ones_do_not_show(
    client: FlaskClient, mode: str
) -> None:
    disc = soft_disc()  # red, on black that is hidden
    content = encode(disc.convert(mode), "PNG")
    image = open_png(preview(client, content, {"max_side": 24}))
    assert image.mode == mode
    whole = np.asarray(disc.convert(mode)).reshape(72, 96, -1)
    reduced = np.asarray(image).reshape(18, 24, -1).astype(int)
    np.testing.assert_allclose(reduced[9, 12], whole[36, 48], atol=1)
    if mode in {"RGBA", "LA"}:
        visible = reduced[reduced[:, :, -1] > 32]
        np.testing.assert_allclose(
            visible[:, :-1], whole[36, 48][:-1] + 0 * visible[:, :-1], atol=8
        )


@pytest.mark.parametrize("content", [*NO_PICTURES, TOO_MANY])
def test_what_is_refused_is_refused_as_an_upload(
    make_app: AppMaker, settings: Settings, content: bytes
) -> None:
    small = replace(settings, max_upload_bytes=2500, max_input_pixels=2000)
    client = make_app(small).test_client()
    refused, expected = preview(client, content), upload(client, content=content)
    body = expected.get_json()
    assert_problem(refused, expected.status_code, body["code"])
    assert refused.status_code >= 400
    assert refused.get_json()["error"] == body["error"]


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ({"max_side": 0}, "max_side must be from 1"),
        ({"max_side": MAX_SIDE + 1}, "max_side must be from 1"),
        ({"max_side": "big"}, "max_side must be a whole number"),
        ({"max_side": [1, 2]}, "max_side is given 2 times"),
        ({"width": 20}, "the options are max_side"),
    ],
)
def test_wrong_option_is_named(client: FlaskClient, query: dict[str, object], words: str) -> None:
    response = preview(client, query=query)
    assert_problem(response, 400, "bad_request")
    assert words in response.get_json()["error"]


def test_preview_does_not_wait_for_the_lanes(client: FlaskClient, fake_model: FakeModel) -> None:
    fake_model.may_go_on.clear()
    assert upload(client, headers={"Prefer": "respond-async"}).status_code == 202
    assert fake_model.started.wait(30)
    assert open_png(preview(client)).size == (20, 10)


@pytest.fixture
def full(make_app: AppMaker, settings: Settings) -> Iterator[Flask]:
    """An application whose memory another image holds, but for less than any preview takes."""
    app = make_app(replace(settings, max_decoded_bytes=60 * 1024**2))
    memory = app.extensions["runner"].resources.memory
    everything = memory.largest_bytes
    with memory.hold(MemoryClaim(everything, everything, 1), lambda: False):
        yield app


def test_preview_without_memory_is_busy_after_a_while(
    full: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(previews, "PATIENCE_SECONDS", 1)
    response = preview(full.test_client())
    assert_problem(response, 503, "busy")
    assert response.headers["Retry-After"] == "1"


def test_preview_ends_when_its_client_leaves(full: Flask) -> None:
    runner: Runner = full.extensions["runner"]
    asked = make_upload()
    with pytest.raises(ClientLeft):
        # Not before it waits for memory.
        runner.previews.make(asked, MAX_SIDE, lambda: runner.scheduler.waiting_requests > 0)
    assert asked.file.closed
    assert runner.scheduler.waiting_requests == 0


def test_a_tenth_of_its_pixels_is_charged(make_app: AppMaker, settings: Settings) -> None:
    # 200 pixels, and the file is too small to count more.
    limited = replace(settings, rate_limit_pixels=limits.parse("1000/hour"))
    client = make_app(limited).test_client()
    assert "r=980;" in preview(client).headers["RateLimit"]
    assert "r=960;" in preview(client).headers["RateLimit"]


def test_only_pictures_are_charged(make_app: AppMaker, settings: Settings) -> None:
    limited = replace(settings, rate_limit_pixels=limits.parse("1000/hour"))
    client = make_app(limited).test_client()
    assert "r=1000;" in preview(client, b"hello").headers["RateLimit"]
