import zlib
from dataclasses import replace
from types import ModuleType

import cv2
import pi_heif
import pytest
from flask.testing import FlaskClient
from PIL import _avif
from werkzeug.datastructures import MultiDict
from zlib_ng import zlib_ng

from superres.errors import BadRequest
from superres.images.libraries import PILLOW_PARTS, list_libraries
from superres.images.options import Options, read_options
from superres.images.picture import ImageHeader
from superres.service.cost_estimate import estimate_cost
from superres.service.memory_estimate import peak_bytes
from superres.service.runner import Runner
from superres.settings import Settings
from testkit.app_client import AppMaker, assert_problem
from testkit.pictures import PNG


@pytest.mark.parametrize(
    ("given", "options", "suffix"),
    [
        ({}, Options(), "_x3.png"),
        ({"format": ""}, Options(), "_x3.png"),
        ({"format": "JPG"}, Options("jpeg", 92), "_x3.jpg"),
        ({"format": "webp"}, Options("webp", 90), "_x3.webp"),
        ({"format": "webp", "lossless": "true"}, Options("webp"), "_x3.webp"),
        ({"format": "avif", "quality": "55"}, Options("avif", 55), "_x3.avif"),
        ({"lossless": "true"}, Options(), "_x3.png"),
        ({"scale": "2"}, Options(scale=2), "_x2.png"),
        ({"width": "0800"}, Options(scale=None, width=800), "_800w.png"),
        ({"height": "600"}, Options(scale=None, height=600), "_600h.png"),
        (
            {"width": "8", "height": "6", "format": "jpeg", "quality": "1"},
            Options("jpeg", 1, None, 8, 6),
            "_8x6.jpg",
        ),
        ({"_": "x"}, Options(), "_x3.png"),
    ],
)
def test_options_are_read(given: dict[str, str], options: Options, suffix: str) -> None:
    assert read_options({name: [text] for name, text in given.items()}) == options
    assert options.suffix == suffix
    assert Options(**options.as_dict()) == options


WRONG = [
    ({"format": "gif"}, "format"),
    ({"quality": "90"}, "quality"),
    ({"outscale": "2"}, "no option 'outscale'; the options are format, quality, scale, width"),
    ({"Scale": "2"}, "no option 'Scale'"),
    ({"": "2"}, "no option ''"),
    ({"image": "http://a.example/a.png"}, "no option 'image'"),
    ({"format": "jpeg", "quality": "0"}, "quality"),
    ({"format": "jpeg", "quality": "101"}, "quality"),
    ({"format": "jpeg", "quality": "9.5"}, "quality"),
    ({"format": "jpeg", "lossless": "true"}, "lossless"),
    ({"format": "webp", "lossless": "true", "quality": "80"}, "quality"),
    ({"format": "webp", "lossless": "maybe"}, "lossless"),
    ({"scale": "1"}, "scale"),
    ({"scale": "5"}, "scale"),
    ({"scale": "3", "width": "9"}, "scale"),
    ({"width": "0"}, "width must be from 1 to 999,999,999"),
    ({"width": "-3"}, "width must be from 1 to 999,999,999"),
    ({"width": "1000000000"}, "width must be from 1 to 999,999,999"),
    ({"height": "\u0663"}, "height must be a whole number"),
    ({"height": "9" * 5000}, "height must be from 1 to 999,999,999"),
]


@pytest.mark.parametrize(("given", "field"), WRONG)
def test_wrong_option_is_named(given: dict[str, str], field: str) -> None:
    with pytest.raises(BadRequest, match=field):
        read_options({name: [text] for name, text in given.items()})


@pytest.mark.parametrize(("given", "field"), WRONG[:6])
def test_wrong_option_of_a_request_is_a_bad_request(
    client: FlaskClient, given: dict[str, str], field: str
) -> None:
    for response in (
        client.post("/api/enhance", data=PNG, content_type="image/png", query_string=given),
        client.get("/api/result", query_string={"sha256": "0" * 64, **given}),
    ):
        assert_problem(response, 400, "bad_request")
        assert field in response.get_json()["error"]


def test_hash_is_known_where_a_result_is_found_by_it_alone(client: FlaskClient) -> None:
    given = {"sha256": "0" * 64, "_": "1"}
    assert client.get("/api/result", query_string=given).status_code == 200
    response = client.post("/api/enhance", data=PNG, content_type="image/png", query_string=given)
    assert_problem(response, 400, "bad_request")
    assert "no option 'sha256'" in response.get_json()["error"]


def test_option_given_twice_is_a_bad_request(client: FlaskClient) -> None:
    twice = [("format", "png"), ("format", "png")]
    response = client.post(
        "/api/enhance", data=PNG, content_type="image/png", query_string=MultiDict(twice)
    )
    assert_problem(response, 400, "bad_request")


def test_format_and_size_are_those_of_the_request(client: FlaskClient) -> None:
    for given, content_type, name in (
        ({"format": "webp"}, "image/webp", "image_x3.webp"),
        ({"format": "jpeg", "scale": "2"}, "image/jpeg", "image_x2.jpg"),
        ({"format": "avif", "width": "30"}, "image/avif", "image_30w.avif"),
    ):
        response = client.post(
            "/api/enhance", data=PNG, content_type="image/png", query_string=given
        )
        assert (response.status_code, response.content_type) == (200, content_type)
        assert f'filename="{name}"' in response.headers["Content-Disposition"]
        path = response.headers["Link"].split(">")[0].removeprefix("<http://localhost")
        stored = client.get(path)
        assert (stored.content_type, stored.data) == (content_type, response.data)
        assert client.head(path).content_type == content_type
        found = client.get(
            "/api/result", query_string={"sha256": path.split("/")[2][:64], **given}
        ).get_json()
        assert found["exists"] is True
        assert found["url"].endswith(path)


def test_no_two_different_results_share_a_name(
    runner: Runner, make_app: AppMaker, settings: Settings
) -> None:
    chosen = [
        Options(),
        Options("webp", 90),
        Options("webp"),
        Options("webp", 91),
        Options(scale=2),
        Options(scale=None, width=9),
        Options(scale=None, height=9),
        Options(scale=None, width=9, height=9),
    ]
    key = "0" * 64
    names = {runner.result_name(key, options) for options in chosen}
    other: Runner = make_app(replace(settings, keep_metadata="none")).extensions["runner"]
    assert len(names | {other.result_name(key)}) == len(chosen) + 1


@pytest.mark.parametrize(
    "library",
    [
        (cv2, "__version__", "0.0.1"),
        (zlib, "ZLIB_RUNTIME_VERSION", "0.0.1"),
        (_avif, "codec_versions", lambda: "aom 0.0.1"),
        (pi_heif, "libheif_version", lambda: "0.0.1"),
        (zlib_ng, "ZLIBNG_RUNTIME_VERSION", "0.0.1"),
    ],
)
def test_name_depends_on_the_versions_of_the_libraries(
    runner: Runner, library: tuple[ModuleType, str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = runner.result_name("0" * 64)
    assert runner.result_name("0" * 64) == before
    monkeypatch.setattr(*library)
    assert runner.result_name("0" * 64) != before


def test_name_depends_on_every_part_of_pillow() -> None:
    parts = list_libraries()
    # None means a component that this Pillow does not have.
    assert {part.partition(" ")[0] for part in parts} > set(PILLOW_PARTS)
    assert not [part for part in parts if part.endswith(" None")]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"format": "webp", "width": "16384", "height": "1"}, "webp has at most 16,383"),
        ({"format": "jpeg", "width": "65501", "height": "1"}, "jpeg has at most 65,500"),
        ({"format": "avif", "width": "32769", "height": "1"}, "avif has at most 32,768"),
        ({"width": "20000", "height": "20000"}, "400 megapixels (20,000 x 20,000); at most 144 "),
    ],
)
def test_result_that_cannot_be_made_is_refused_before_computing(
    client: FlaskClient, runner: Runner, given: dict[str, str], words: str
) -> None:
    response = client.post("/api/enhance", data=PNG, content_type="image/png", query_string=given)
    assert_problem(response, 422, "too_many_pixels")
    assert words in response.get_json()["error"]
    assert runner.statistics()["queue_length"] == 0


def test_asynchronous_result_has_the_options_of_its_request(client: FlaskClient) -> None:
    response = client.post(
        "/api/enhance",
        data=PNG,
        content_type="image/png",
        query_string={"format": "webp", "scale": "2"},
        headers={"Prefer": "respond-async, wait=20"},
    )
    assert (response.status_code, response.content_type) == (200, "image/webp")
    assert "image_x2.webp" in response.headers["Content-Disposition"]


def test_large_result_of_a_tiny_picture_costs_its_own_pixels() -> None:
    tiny = ImageHeader(1, 1)
    assert estimate_cost(tiny, Options(), 100) == 6
    assert estimate_cost(ImageHeader(10, 10, has_alpha=True), Options(), 100) == 200
    huge = Options("avif", 80, None, 12_000, 12_000)
    assert estimate_cost(tiny, huge, 100) == 16_000_000
    assert peak_bytes(tiny, huge, 1) > 37 * 144_000_000


def test_file_that_is_large_for_its_picture_costs_its_bytes() -> None:
    assert estimate_cost(ImageHeader(1, 1), Options(), 16_000_000) == 1_000_000
    deep = ImageHeader(1000, 1000, is_deep=True)
    assert estimate_cost(deep, Options(), 8_000_000) == 1_000_000


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("image/webp, application/json;q=0.1", "image/webp"),
        ("application/json, image/png;q=0.5", "application/json"),
        ("application/json, text/plain, */*", "image/webp"),
    ],
)
def test_json_is_weighed_against_the_format_that_was_asked_for(
    client: FlaskClient, accept: str, content_type: str
) -> None:
    response = client.post(
        "/api/enhance",
        data=PNG,
        content_type="image/png",
        query_string={"format": "webp"},
        headers={"Accept": accept},
    )
    assert response.content_type == content_type


def test_other_forms_of_a_stored_result_cost_a_tenth() -> None:
    photo = ImageHeader(1000, 1000)
    assert estimate_cost(photo, Options("webp"), 100, needs_network=False) == 100_000
    assert estimate_cost(ImageHeader(1, 1), Options("webp"), 100, needs_network=False) == 6
    assert estimate_cost(photo, Options(scale=None, width=6000), 1, needs_network=False) == 400_000
