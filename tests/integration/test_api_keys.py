import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from flask.testing import FlaskClient

from app import create_app
from superres.errors import ConfigError
from superres.paths import PROJECT_DIR
from superres.settings import Settings
from superres.web.api_keys import ApiKeys, hash_key, make_key
from testkit.app_client import AppMaker, assert_problem, upload
from testkit.pictures import PNG

KEY = make_key()


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@pytest.fixture
def keys_file(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    path.write_text(f"# keys\n\nanna:{hash_key(KEY)}\n")
    return path


@pytest.fixture
def guarded(make_app: AppMaker, settings: Settings, keys_file: Path) -> FlaskClient:
    return make_app(replace(settings, api_keys_file=keys_file)).test_client()


def test_known_key_opens_the_api(guarded: FlaskClient) -> None:
    assert upload(guarded, headers=bearer(KEY)).status_code == 200
    assert upload(guarded, headers={"Authorization": f"bearer  {KEY} "}).status_code == 200


@pytest.mark.parametrize(
    "headers", [{}, bearer(""), {"Authorization": KEY}, {"Authorization": f"Basic {KEY}"}]
)
def test_without_a_key_one_is_asked_for_before_it_costs_anything(
    guarded: FlaskClient, headers: dict[str, str]
) -> None:
    response = upload(guarded, headers=headers)
    assert_problem(response, 401, "unauthorized")
    assert response.headers["WWW-Authenticate"] == 'Bearer realm="super-resolution"'
    assert guarded.get("/api/stats", headers=bearer(KEY)).get_json()["cache_misses"] == 0


@pytest.mark.parametrize(
    "key",
    [make_key(), KEY[:-1], hash_key(KEY), "ä\x7f"],
    ids=["other", "cut short", "hash", "not ASCII"],
)
def test_wrong_key_is_told_from_a_missing_one(guarded: FlaskClient, key: str) -> None:
    response = upload(guarded, headers=bearer(key))
    assert_problem(response, 401, "invalid_key")
    assert response.headers["WWW-Authenticate"] == (
        'Bearer realm="super-resolution", error="invalid_token"'
    )
    assert guarded.get("/api/stats", headers=bearer(KEY)).get_json()["cache_misses"] == 0


@pytest.mark.parametrize("path", ["/api/stats", "/api/result", "/api/jobs/abc", "/api/nothing"])
def test_every_other_address_of_the_api_needs_a_key(guarded: FlaskClient, path: str) -> None:
    assert_problem(guarded.get(path), 401, "unauthorized")
    assert guarded.get(path, headers=bearer(KEY)).status_code != 401


def test_results_monitors_preflights_and_the_page_need_none(guarded: FlaskClient) -> None:
    link = upload(guarded, headers=bearer(KEY)).headers["Link"]
    assert guarded.get(link[1:].partition(">")[0]).status_code == 200
    for path in ("/api/health", "/api/ready", "/", "/metrics", "/static/client.js"):
        assert guarded.get(path).status_code == 200, path
    preflight = guarded.options(
        "/api/enhance",
        headers={
            "Origin": "https://app.example",
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization",
        },
    )
    assert preflight.status_code == 200
    assert "authorization" in preflight.headers["Access-Control-Allow-Headers"].lower()


def test_without_a_file_no_key_is_asked_for(client: FlaskClient) -> None:
    assert upload(client).status_code == 200


def test_file_is_read_again_when_it_changes(keys_file: Path, guarded: FlaskClient) -> None:
    other = make_key()
    keys_file.write_text(f"bert:{hash_key(other)}\n")
    assert upload(guarded, headers=bearer(other)).status_code == 200
    assert_problem(upload(guarded, headers=bearer(KEY)), 401, "invalid_key")
    keys_file.write_text("")
    assert_problem(upload(guarded, headers=bearer(other)), 401, "invalid_key")


def test_replaced_file_is_noticed_even_with_the_same_time_and_size(keys_file: Path) -> None:
    keys = ApiKeys(keys_file)
    before = keys_file.stat()
    other = make_key()
    replacement = keys_file.with_name("new")
    replacement.write_text(f"# keys\n\nbert:{hash_key(other)}\n")
    os.utime(replacement, ns=(before.st_atime_ns, before.st_mtime_ns))
    replacement.rename(keys_file)
    assert (keys.find(other), keys.find(KEY)) == ("bert", None)


def test_file_that_cannot_be_read_leaves_the_keys_as_they_were(
    keys_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    keys = ApiKeys(keys_file)
    keys_file.write_text("what is this\n")
    assert keys.find(KEY) == "anna"
    assert keys.are_stale
    keys_file.unlink()
    assert keys.find(KEY) == "anna"
    assert keys.find(KEY) == "anna"
    complaints = [
        each for each in caplog.records if "keeping the previous API keys" in each.getMessage()
    ]
    assert 1 <= len(complaints) <= 2
    keys_file.write_text("")
    assert keys.find(KEY) is None
    assert not keys.are_stale


@pytest.mark.parametrize(
    "text",
    ["anna", f"anna:{KEY}", "a b:" + "0" * 64, "\udcff"],
    ids=["no digest", "the key itself", "a blank", "no UTF-8"],
)
def test_service_does_not_start_with_a_wrong_file(
    settings: Settings, tmp_path: Path, text: str
) -> None:
    path = tmp_path / "keys"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ConfigError, match="keys"):
        create_app(replace(settings, api_keys_file=path))
    with pytest.raises(ConfigError, match="No such file"):
        create_app(replace(settings, api_keys_file=tmp_path / "none"))


def test_command_prints_a_line_for_the_file_and_the_key_for_its_owner(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "superres", "key", "anna"],
        cwd=PROJECT_DIR,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    path = tmp_path / "keys"
    path.write_text(done.stdout)
    key = done.stderr.split()[-1]
    assert key not in done.stdout
    assert ApiKeys(path).find(key) == "anna"


def test_key_is_in_no_log(guarded: FlaskClient, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    guarded.post("/api/enhance", data=PNG, content_type="image/png", headers=bearer(KEY))
    upload(guarded, headers=bearer("sr_wrong"))
    assert "anna" in caplog.text
    assert KEY not in caplog.text
    assert "sr_wrong" not in caplog.text
