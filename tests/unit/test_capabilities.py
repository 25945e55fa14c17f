"""`GET /api/capabilities` says what the service does: each claim is tried."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from flask.testing import FlaskClient
from PIL import Image

from superres.errors import BadRequest
from superres.images.options import read_options
from superres.settings import Settings
from superres.web.api_docs import CONTRACT_PATH
from superres.web.api_keys import hash_key, make_key
from testkit.app_client import AppMaker, assert_problem, upload
from testkit.fakes import FakeModel
from testkit.pictures import encode
from testkit.waiting import wait_until

PATH = "/api/capabilities"


@pytest.fixture
def told(client: FlaskClient) -> dict[str, Any]:
    response = client.get(PATH)
    assert response.headers["Cache-Control"] == "no-store"
    found: dict[str, Any] = response.get_json()
    return found


def is_accepted(**values: object) -> bool:
    try:
        read_options({name: [str(value)] for name, value in values.items()})
    except BadRequest:
        return False
    return True


def test_scales_are_those_that_each_mode_takes(told: dict[str, Any]) -> None:
    taken = {
        mode: [scale for scale in range(10) if is_accepted(mode=mode, scale=scale)]
        for mode in ("faithful", "restore")
    }
    assert {each["name"]: each["scales"] for each in told["modes"]} == taken


def test_qualities_are_those_that_each_format_takes(told: dict[str, Any]) -> None:
    for each in told["formats"]:
        name, quality = each["name"], each["quality"]
        assert is_accepted(format=name)
        assert is_accepted(format=name, lossless="true") == each["has_lossless"]
        taken = [value for value in range(-1, 200) if is_accepted(format=name, quality=value)]
        assert taken == ([] if quality is None else list(range(quality["min"], quality["max"] + 1)))
        chosen = read_options({"format": [name]})
        assert chosen.quality == (quality and quality["default"])


def test_defaults_are_those_of_an_upload_without_options(told: dict[str, Any]) -> None:
    options = read_options({})
    assert told["defaults"] == {
        "mode": options.mode,
        "format": options.format,
        "scale": options.scale,
    }


def test_inputs_are_those_of_the_contract(told: dict[str, Any]) -> None:
    contract = yaml.safe_load(CONTRACT_PATH.read_text())
    bodies = contract["paths"]["/api/enhance"]["post"]["requestBody"]["content"]
    types = {each for row in told["inputs"] for each in row["media_types"]}
    assert types == {each for each in bodies if each.startswith("image/")}


def test_pixel_limit_is_the_one_that_uploads_meet(make_app: AppMaker, settings: Settings) -> None:
    client = make_app(replace(settings, max_output_pixels=9 * 400)).test_client()
    limit = client.get(PATH).get_json()["limits"]["input_pixels"]
    assert limit == 400
    assert upload(client, content=encode(Image.new("RGB", (limit, 1)), "PNG")).status_code == 200
    over = upload(client, content=encode(Image.new("RGB", (limit + 1, 1)), "PNG"))
    assert_problem(over, 422, "too_many_pixels")


def test_mode_without_a_model_is_not_offered(settings: Settings, make_idle_app: AppMaker) -> None:
    client = make_idle_app(replace(settings, restore_model_path=None)).test_client()
    assert [each["name"] for each in client.get(PATH).get_json()["modes"]] == ["faithful"]


def test_speed_is_unknown_until_the_model_is_loaded(
    settings: Settings, make_idle_app: AppMaker
) -> None:
    app = make_idle_app(settings)
    assert app.test_client().get(PATH).get_json()["seconds_per_pixel"] is None
    assert app.extensions["runner"].model_loader.model is None


def test_queue_counts_what_is_not_done_yet(client: FlaskClient, fake_model: FakeModel) -> None:
    assert client.get(PATH).get_json()["queued_pixels"] == 0
    fake_model.may_go_on.clear()
    assert upload(client, headers={"Prefer": "respond-async"}).status_code == 202
    told = client.get(PATH).get_json()
    assert told["queued_pixels"] == 20 * 10
    assert told["seconds_per_pixel"] > 0
    fake_model.may_go_on.set()
    wait_until(lambda: client.get(PATH).get_json()["queued_pixels"] == 0)


def test_page_without_a_key_learns_that_it_needs_one(
    settings: Settings, told: dict[str, Any], tmp_path: Path, make_idle_app: AppMaker
) -> None:
    keys = tmp_path / "keys"
    keys.write_text(f"anna:{hash_key(make_key())}\n")
    guarded = make_idle_app(replace(settings, api_keys_file=keys)).test_client()
    assert guarded.get(PATH).get_json()["api_key_required"] is True
    assert told["api_key_required"] is False


def test_retention_is_that_of_the_cleaner(told: dict[str, Any], settings: Settings) -> None:
    assert told["retention"] == {
        "result_days": settings.cache_max_age_days,
        "results_bytes": settings.cache_max_mb * 1024**2,
        "job_seconds": settings.job_ttl_seconds,
    }


def test_retention_in_a_shared_store_is_not_known(
    settings: Settings, tmp_path: Path, make_idle_app: AppMaker
) -> None:
    folder = tmp_path / "shared"
    folder.mkdir()
    shared = replace(settings, store_url=folder.as_uri())
    retention = make_idle_app(shared).test_client().get(PATH).get_json()["retention"]
    assert retention["result_days"] is None
    assert retention["results_bytes"] is None
