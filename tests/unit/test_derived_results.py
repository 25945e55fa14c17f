"""Other formats and sizes of an image whose PNG is stored: the same bytes, without the network."""

from dataclasses import replace
from io import BytesIO
from pathlib import Path

import pytest
from flask.testing import FlaskClient
from limits import parse
from PIL import Image, ImageOps
from PIL.ExifTags import Base

from superres.engines.speed_meter import Speed
from superres.engines.upscaler import Upscaler
from superres.images.encoders import encode_picture
from superres.images.enlargement import resample_picture
from superres.images.image_codec import decode_image
from superres.images.options import RESTORE, Options
from superres.images.png_result import decode_png_result
from superres.service.runner import Runner
from superres.settings import Settings
from superres.store.result_name import generate_file_hash
from superres.store.stored_result import ResultInfo
from testkit.app_client import AppMaker, assert_problem, upload
from testkit.kinds import KINDS, PHOTO, SRGB
from testkit.pictures import PNG, encode
from testkit.waiting import wait_until

FORMATS = (
    *(Options("webp"), Options("webp", 80), Options("jpeg", 90), Options("avif", 60)),
    *(Options(scale=2), Options("jpeg", 75, scale=4), Options("webp", scale=None, width=100)),
    *(Options(scale=None, width=40), Options(scale=None, width=301, height=150)),
)
FORM = (
    *({"format": "webp"}, {"format": "jpeg", "quality": "80"}, {"format": "avif"}),
    *({"scale": "2"}, {"scale": "4", "format": "webp"}, {"width": "33"}),
)


@pytest.mark.parametrize("kind", KINDS)
def test_result_made_from_the_png_has_the_same_bytes(
    kind: str, fake_super_resolution: Upscaler
) -> None:
    picture = decode_image(BytesIO(KINDS[kind].content()))
    stored = bytes(encode_picture(fake_super_resolution.enlarge(picture), Options()))
    for options in FORMATS:
        direct = encode_picture(fake_super_resolution.enlarge(picture, options), options)
        target = options.result_size(*picture.size)
        derived = resample_picture(decode_png_result(stored), *target)
        assert encode_picture(derived, options) == direct, options


def test_metadata_is_the_same_too(fake_super_resolution: Upscaler) -> None:
    exif = Image.Exif()
    exif[Base.Artist], exif[Base.Copyright] = "Zoë Ångström", "© nobody"
    for dpi in ((72, 72), (72.5, 299.99), (1.4, 20_000)):
        image = ImageOps.grayscale(PHOTO)
        content = encode(image.convert("RGB"), "PNG", dpi=dpi, exif=exif, icc_profile=SRGB)
        picture = decode_image(BytesIO(content), "all")
        assert picture.metadata.exif is not None
        stored = bytes(encode_picture(fake_super_resolution.enlarge(picture), Options()))
        assert decode_png_result(stored).metadata.icc_profile == SRGB
        for options in FORMATS:
            direct = encode_picture(fake_super_resolution.enlarge(picture, options), options)
            target = options.result_size(*picture.size)
            derived = resample_picture(decode_png_result(stored), *target)
            assert encode_picture(derived, options) == direct, (dpi, options)


def inferences(client: FlaskClient) -> int:
    return int(client.get("/api/stats").get_json()["inferences"])


@pytest.mark.parametrize("mode", ["faithful", "restore"])
def test_network_runs_once_for_all_formats_and_sizes(
    make_app: AppMaker, settings: Settings, tmp_path: Path, mode: str
) -> None:
    content = KINDS["RGBA PNG"].content()
    client = make_app().test_client()
    folders = tmp_path / "other cache", tmp_path / "other state"
    other_settings = replace(settings, cache_dir=folders[0], state_dir=folders[1])
    without_png = make_app(other_settings).test_client()
    forms = [*FORM, {"scale": "1"}] if mode == RESTORE else FORM
    upload(client, content=content, mode=mode)
    for form in forms:
        derived = upload(client, content=content, mode=mode, headers=None, **form)
        direct = upload(without_png, content=content, mode=mode, headers=None, **form)
        assert derived.status_code == direct.status_code == 200
        assert derived.data == direct.data
        assert derived.headers["ETag"] == direct.headers["ETag"]
        assert derived.headers["X-Cache-Hit"] == "false"
        assert "resize;" in derived.headers["Server-Timing"]
        assert "upscale;" in direct.headers["Server-Timing"]
    assert inferences(client) == 1
    assert inferences(without_png) == len(forms)


def test_each_mode_and_upload_has_its_own(client: FlaskClient) -> None:
    upload(client)
    upload(client, format="webp", mode="restore")
    assert inferences(client) == 2
    other = encode(Image.new("RGB", (20, 10), (10, 20, 31)), "PNG")
    upload(client, content=other, format="webp")
    assert inferences(client) == 3


def test_lossy_result_is_no_source(client: FlaskClient) -> None:
    """Nothing is kept for it: a PNG is three to ten times as large, and most want one format."""
    upload(client, format="jpeg")
    upload(client, format="webp")
    assert inferences(client) == 2


def test_request_that_stores_nothing_uses_what_is_stored(client: FlaskClient) -> None:
    upload(client)
    private = upload(client, headers={"Cache-Control": "no-store"}, format="webp")
    assert private.status_code == 200
    assert inferences(client) == 1
    assert client.get("/api/stats").get_json()["cache_size"] == 1


@pytest.mark.parametrize("content", [b"no picture", encode(Image.new("RGB", (9, 9)), "PNG")])
def test_png_that_is_not_the_uploads_is_not_used(
    client: FlaskClient, runner: Runner, content: bytes
) -> None:
    """Its digest is right, so that only its pixels show that it is of no use."""
    name = runner.result_name(generate_file_hash(PNG))
    info = ResultInfo.describe(content, 60, 30)
    runner.cache.store(name, content, info)
    derived = upload(client, format="jpeg", quality="100")
    assert inferences(client) == 1
    image = Image.open(BytesIO(derived.data))
    assert image.size == (60, 30)
    assert image.getpixel((30, 15)) == (10, 20, 30)


def test_png_that_takes_too_much_memory_to_read_is_not_used(
    client: FlaskClient, runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload(client)
    monkeypatch.setattr("superres.service.pipeline.deriving_bytes", lambda *_: 1 << 60)
    assert upload(client, format="webp").status_code == 200
    assert inferences(client) == 2


def test_jobs_use_it_too(client: FlaskClient) -> None:
    upload(client)
    ticket = upload(client, headers={"Prefer": "respond-async"}, format="webp")
    wait_until(lambda: client.get(ticket.headers["Location"]).get_json()["state"] == "done")
    assert inferences(client) == 1


def test_it_is_not_too_costly_for_a_request(
    make_app: AppMaker, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = make_app(replace(settings, max_sync_seconds=100))
    scheduler = app.extensions["runner"].scheduler
    monkeypatch.setattr(scheduler, "_measure_speed", lambda: Speed(1.0, 1.0))
    client = app.test_client()
    assert_problem(upload(client), 422, "too_costly_sync")  # 200 pixels
    ticket = upload(client, headers={"Prefer": "respond-async"})
    wait_until(lambda: client.get(ticket.headers["Location"]).get_json()["state"] == "done")
    assert upload(client, format="webp").status_code == 200


def test_its_pixels_are_charged_at_a_tenth(make_app: AppMaker, settings: Settings) -> None:
    client = make_app(replace(settings, rate_limit_pixels=parse("250/hour"))).test_client()
    assert upload(client).status_code == 200  # 200 pixels
    assert upload(client, format="webp").status_code == 200
    assert upload(client, format="jpeg").status_code == 200
    assert_problem(upload(client, mode="restore"), 429, "rate_limited")
