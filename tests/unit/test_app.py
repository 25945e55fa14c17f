import logging
import re
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flask import Flask
from flask.testing import FlaskClient
from PIL import Image

from superres.service.runner import Runner
from superres.service.upload import Upload
from superres.settings import Settings
from superres.store.result_name import generate_file_hash
from superres.web.uploads import file_stem
from testkit.app_client import assert_problem, upload
from testkit.pictures import PNG, encode

AppMaker = Callable[[Settings], Flask]
CUT_SHORT = encode(Image.effect_noise((50, 50), 80), "PNG")[:1500]


# --- POST /api/enhance


def test_form_upload_returns_the_picture_three_times_larger(client: FlaskClient) -> None:
    response = upload(client)
    assert (response.status_code, response.content_type) == (200, "image/png")
    image = Image.open(BytesIO(response.data))
    assert image.size == (60, 30)
    assert np.asarray(image)[0, 0].tolist() == [10, 20, 30]
    assert response.content_length == len(response.data)


def test_second_upload_is_a_hit_with_the_same_bytes(client: FlaskClient) -> None:
    first, second = upload(client), upload(client, name="other.png")
    assert (first.headers["X-Cache-Hit"], second.headers["X-Cache-Hit"]) == ("false", "true")
    assert first.data == second.data
    assert first.headers["ETag"] == second.headers["ETag"]


@pytest.mark.parametrize("content_type", ["image/png", "application/octet-stream", "image/jpeg"])
def test_raw_body_gives_the_same_result_as_the_form(client: FlaskClient, content_type: str) -> None:
    response = client.post("/api/enhance", data=PNG, content_type=content_type)
    assert response.status_code == 200
    assert response.headers["X-Cache-Hit"] == "false"
    assert upload(client).headers["X-Cache-Hit"] == "true"
    assert 'filename="image_x3.png"' in response.headers["Content-Disposition"]


@pytest.mark.parametrize(
    ("name", "disposition"),
    [
        ("photo.png", 'attachment; filename="photo_x3.png"'),
        (
            "50%20off.png",
            "attachment; filename=\"image_x3.png\"; filename*=UTF-8''50%2520off_x3.png",
        ),
        (
            "写真.png",
            "attachment; filename=\"image_x3.png\"; filename*=UTF-8''%E5%86%99%E7%9C%9F_x3.png",
        ),
    ],
)
def test_browsers_save_a_download_under_its_own_name(
    client: FlaskClient, name: str, disposition: str
) -> None:
    shown, saved = upload(client, name=name, download="0"), upload(client, name=name, download="1")
    assert saved.headers["Content-Disposition"] == disposition
    assert shown.headers["Content-Disposition"] == disposition.replace("attachment", "inline")
    assert saved.headers["X-Cache-Hit"] == "true"
    assert (saved.data, saved.headers["ETag"]) == (shown.data, shown.headers["ETag"])


def test_download_must_be_0_or_1(client: FlaskClient) -> None:
    for value in ("yes", "2", "true"):
        assert_problem(upload(client, download=value), 400, "bad_request")
    twice = client.post(
        "/api/enhance?download=1", data={"image": (BytesIO(PNG), "a"), "download": "1"}
    )
    assert_problem(twice, 400, "bad_request")
    as_file = {"image": (BytesIO(PNG), "a.png"), "download": (BytesIO(b"1"), "b.txt")}
    assert_problem(client.post("/api/enhance", data=as_file), 400, "bad_request")
    assert_problem(client.get(f"/api/result?sha256={'0' * 64}&download=1"), 400, "bad_request")


@pytest.mark.parametrize("image_format", ["png", "jpeg"])
def test_stored_result_is_saved_under_a_name_made_from_its_own(
    client: FlaskClient, image_format: str
) -> None:
    link = upload(client, format=image_format).headers["Link"]
    path = link.partition(">")[0].removeprefix("<http://localhost")
    shown, saved = client.get(path), client.get(f"{path}?download=1")
    key, variant, _ = path.removeprefix("/cache/").split(".")
    assert saved.headers["Content-Disposition"] == (
        f'attachment; filename="{key[:8]}-{variant}.{image_format}"'
    )
    assert (saved.data, saved.headers["ETag"]) == (shown.data, shown.headers["ETag"])
    for query in ("", "?download=0", "?download=yes", "?download="):
        assert "Content-Disposition" not in client.get(path + query).headers
    unchanged = client.get(f"{path}?download=1", headers={"If-None-Match": saved.headers["ETag"]})
    assert unchanged.status_code == 304


def test_result_carries_its_headers(client: FlaskClient) -> None:
    headers = upload(client).headers
    assert headers["Cache-Control"] == "public, max-age=2592000, immutable"
    assert headers["X-Cache-Hint"] == "long-term"
    assert headers["Content-Disposition"] == 'inline; filename="photo_x3.png"'
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert len(headers.getlist("Cache-Control")) == 1
    # With a Content-Location, caches may assume that the POST changed the result, and drop it.
    assert "Content-Location" not in headers
    assert 0 <= float(headers["X-Process-Time"]) < 30
    assert re.fullmatch(r'"[0-9a-f]{32}"', headers["ETag"])
    link = re.fullmatch(r'<http://localhost(/cache/.*)>; rel="canonical"', headers["Link"])
    assert link is not None
    assert client.get(link[1]).headers["ETag"] == headers["ETag"]
    for stage in ("decode", "upscale", "encode", "store"):
        assert re.search(rf"{stage};dur=\d", headers["Server-Timing"])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("photo.jpg", 'inline; filename="photo_x3.png"'),
        ("../../etc/passwd", 'inline; filename="passwd_x3.png"'),
        (".png", 'inline; filename="png_x3.png"'),
        ("bild-ä.png", "inline; filename=\"image_x3.png\"; filename*=UTF-8''bild-%C3%A4_x3.png"),
        (
            "照片.jpg",
            "inline; filename=\"image_x3.png\"; filename*=UTF-8''%E7%85%A7%E7%89%87_x3.png",
        ),
    ],
)
def test_result_is_named_after_the_upload(client: FlaskClient, name: str, expected: str) -> None:
    assert upload(client, name=name).headers["Content-Disposition"] == expected


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("C:\\pictures\\a b.png", "a b"),
        ('quo"te\r\n.png', "quote"),
        ("", "image"),
        ("..", "image"),
        ("archive.tar.gz", "archive.tar"),
        ("n" * 5000 + ".png", "n" * 100),
    ],
)
def test_stem_has_nothing_that_a_header_or_folder_could_trip_over(name: str, stem: str) -> None:
    assert file_stem(name) == stem


@pytest.mark.parametrize(
    ("accept", "answer"),
    [
        ("application/json", "application/json"),
        ("application/json, image/png;q=0.5", "application/json"),
        ("application/json; charset=utf-8", "application/json"),
        ("Application/JSON;charset=UTF-8, */*;q=0.1", "application/json"),
        ("application/json;charset=utf-8;q=0.4, image/png;v=1;q=0.5", "image/png"),
        ("application/json, text/plain, */*", "image/png"),
        ("*/*", "image/png"),
        ("image/*, application/json;q=0.9", "image/png"),
        ("image/webp", "image/png"),
        ("text/html", "image/png"),
    ],
)
def test_json_only_where_it_is_preferred_strictly(
    client: FlaskClient, accept: str, answer: str
) -> None:
    assert upload(client, headers={"Accept": accept}).mimetype == answer


def test_json_answer_names_the_result(client: FlaskClient) -> None:
    response = upload(client, headers={"Accept": "application/json"})
    body = response.get_json()
    assert body.keys() == {"status", "url", "width", "height", "cache_hit", "process_time"}
    assert (body["status"], body["width"], body["height"]) == ("success", 60, 30)
    assert body["cache_hit"] is False
    assert "ETag" not in response.headers
    assert response.headers["Cache-Control"] == "no-cache"
    assert client.get(body["url"]).status_code == 200
    assert upload(client, headers={"Accept": "application/json"}).get_json()["cache_hit"] is True


def test_public_url_is_the_base_of_every_link(settings: Settings, make_app: AppMaker) -> None:
    app = make_app(replace(settings, public_url="https://sr.example/prefix"))
    response = upload(app.test_client())
    assert response.headers["Link"].startswith("<https://sr.example/prefix/cache/")


def test_international_host_is_linked_in_ascii(client: FlaskClient) -> None:
    link = upload(client, headers={"Host": "xn--bcher-kva.example"}).headers["Link"]
    assert link.startswith("<http://xn--bcher-kva.example/cache/")


def test_proxy_headers_count_only_where_a_proxy_is_trusted(
    settings: Settings, make_app: AppMaker
) -> None:
    forwarded = {
        "X-Forwarded-Proto": "https",
        "X-Forwarded-Host": "sr.example",
        "X-Forwarded-Prefix": "/sr",
    }
    direct = upload(make_app(settings).test_client(), headers=forwarded)
    assert direct.headers["Link"].startswith("<http://localhost/cache/")
    proxied = upload(
        make_app(replace(settings, trusted_proxies=1)).test_client(), headers=forwarded
    )
    assert proxied.headers["Link"].startswith("<https://sr.example/sr/cache/")


def test_no_store_leaves_nothing_behind(client: FlaskClient, settings: Settings) -> None:
    response = upload(client, headers={"Cache-Control": "no-store"})
    assert (response.status_code, response.mimetype) == (200, "image/png")
    assert Image.open(BytesIO(response.data)).size == (60, 30)
    assert response.headers["Cache-Control"] == "no-store"
    assert not {"Link", "ETag", "Expires", "X-Cache-Hint"} & set(response.headers.keys())
    assert [path.name for path in settings.cache_dir.iterdir()] == ["spool.id"]
    assert upload(client).headers["X-Cache-Hit"] == "false"


def test_no_store_may_be_answered_by_an_existing_result(client: FlaskClient) -> None:
    stored = upload(client)
    response = upload(client, headers={"Cache-Control": "no-store"})
    assert response.headers["X-Cache-Hit"] == "true"
    assert response.data == stored.data
    assert response.headers["Cache-Control"] == "no-store"


def test_no_store_has_no_address_to_answer_in_json(client: FlaskClient) -> None:
    headers = {"Cache-Control": "no-store", "Accept": "application/json"}
    assert_problem(upload(client, headers=headers), 400, "bad_request")


def test_client_that_hashes_its_file_finds_the_result_without_uploading(
    client: FlaskClient,
) -> None:
    address = f"/api/result?sha256={generate_file_hash(PNG)}"
    before = client.get(address)
    assert before.headers["Cache-Control"] == "no-cache"
    assert before.get_json()["exists"] is False
    link = upload(client).headers["Link"]
    after = client.get(address).get_json()
    assert after["exists"] is True
    assert link == f'<{after["url"]}>; rel="canonical"'
    assert after["url"].endswith(f"/cache/{after['name']}")
    assert client.get(after["url"]).status_code == 200


@pytest.mark.parametrize(
    "query", ["", "?sha256=", "?sha256=abc", f"?sha256={'A' * 64}", f"?sha256={'a' * 64}" * 2]
)
def test_result_of_no_hash_is_a_bad_request(client: FlaskClient, query: str) -> None:
    twice = query.replace("?sha256=" + "a" * 64 + "?", "?sha256=" + "a" * 64 + "&")
    assert_problem(client.get(f"/api/result{twice}"), 400, "bad_request")


def test_request_log_has_one_line_with_everything(
    client: FlaskClient, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="request"):
        upload(client), upload(client)
        client.get("/api/no%0athing%1b[31m")
    lines = [record.getMessage() for record in caplog.records if record.name == "request"]
    patterns = [
        r"POST /api/enhance 200 \d+\.\d{3}s hit=false pixels=1800",
        r"POST /api/enhance 200 \d+\.\d{3}s hit=true pixels=1800",
        r"GET /api/no%0Athing%1B%5B31m 404 \d+\.\d{3}s code=not_found",
    ]
    assert len(lines) == 3
    for line, pattern in zip(lines, patterns, strict=True):
        assert re.fullmatch(pattern, line), line


# --- invalid uploads


@pytest.mark.parametrize(
    ("request_arguments", "status", "code", "words"),
    [
        ({}, 415, "unsupported_media_type", "curl -F image=@photo.jpg"),
        ({"data": {"other": (BytesIO(PNG), "a.png")}}, 400, "bad_request", "no file in the field"),
        ({"data": {"image": "text"}, "content_type": "multipart/form-data"}, 400, "bad_request", "is text"),  # noqa: E501
        ({"data": {"image": (BytesIO(b""), "a.png")}}, 400, "bad_request", "empty"),
        ({"data": {"image": (BytesIO(b"hello"), "a.png")}}, 415, "unsupported_media_type", "PNG, JPEG"),  # noqa: E501
        ({"data": {"image": (BytesIO(CUT_SHORT), "a.png")}}, 422, "undecodable_image", "cut short"),
        ({"data": {"image": [(BytesIO(PNG), "a.png"), (BytesIO(PNG), "b.png")]}}, 400, "bad_request", "2 files"),  # noqa: E501
        ({"data": PNG, "content_type": "multipart/form-data"}, 400, "bad_request", "boundary"),
        ({"data": PNG, "content_type": "application/x-www-form-urlencoded"}, 415, "unsupported_media_type", "curl -F"),  # noqa: E501
        ({"json": {"image": "aGVsbG8="}}, 415, "unsupported_media_type", "curl -F"),
        ({"data": b"", "content_type": "image/png"}, 400, "bad_request", "empty"),
        ({"data": PNG, "content_type": "image/png", "headers": {"Content-Encoding": "gzip"}}, 415, "unsupported_media_type", "Content-Encoding"),  # noqa: E501
    ],
)  # fmt: skip
def test_request_without_a_picture_says_what_is_wrong(
    client: FlaskClient,
    request_arguments: dict[str, Any],
    status: int,
    code: str,
    words: str,
) -> None:
    response = client.post("/api/enhance", **request_arguments)
    assert_problem(response, status, code)
    assert words in response.get_json()["error"]


def test_file_chosen_by_nobody_is_a_bad_request(client: FlaskClient) -> None:
    body = (
        b'--x\r\nContent-Disposition: form-data; name="image"; filename=""\r\n'
        b"Content-Type: application/octet-stream\r\n\r\n\r\n--x--\r\n"
    )
    response = client.post(
        "/api/enhance", data=body, content_type="multipart/form-data; boundary=x"
    )
    assert_problem(response, 400, "bad_request")


def test_picture_sent_as_long_text_is_a_bad_request_and_not_too_large(client: FlaskClient) -> None:
    text = b"aGVsbG8=" * 100_000
    body = b'--x\r\nContent-Disposition: form-data; name="image"\r\n\r\n' + text + b"\r\n--x--\r\n"
    response = client.post(
        "/api/enhance", data=body, content_type="multipart/form-data; boundary=x"
    )
    assert_problem(response, 400, "bad_request")
    assert "text field" in response.get_json()["error"]


def test_file_of_exactly_the_limit_passes_and_one_byte_more_does_not(
    settings: Settings, make_app: AppMaker
) -> None:
    exact = make_app(replace(settings, max_upload_bytes=len(PNG))).test_client()
    assert upload(exact).status_code == 200
    tight = make_app(replace(settings, max_upload_bytes=len(PNG) - 1)).test_client()
    assert_problem(upload(tight), 413, "too_large")
    refused = tight.post("/api/enhance", data=PNG, content_type="image/png")
    assert_problem(refused, 413, "too_large")
    assert refused.get_json()["exceeded"] == {
        "name": "upload_bytes",
        "limit": len(PNG) - 1,
        "actual": len(PNG),
    }
    words = f"The upload has {len(PNG)} bytes; at most {len(PNG) - 1} are accepted."
    assert words in refused.get_json()["error"]


@pytest.mark.parametrize("content_type", ["multipart/form-data; boundary=x", "image/png"])
def test_body_over_the_limit_is_too_large(
    settings: Settings, make_app: AppMaker, content_type: str
) -> None:
    client = make_app(replace(settings, max_upload_bytes=1000)).test_client()
    response = client.post("/api/enhance", data=b"x" * 100_000, content_type=content_type)
    assert_problem(response, 413, "too_large")
    assert "The upload has 100,000 bytes; at most 1,000 are" in response.get_json()["error"]


def test_too_many_pixels_in_or_out_is_unprocessable(settings: Settings, make_app: AppMaker) -> None:
    for tight in (
        replace(settings, max_input_pixels=199),
        replace(settings, max_output_pixels=9 * 200 - 1),
    ):
        assert_problem(upload(make_app(tight).test_client()), 422, "too_many_pixels")
    fitting = replace(settings, max_input_pixels=1800, max_output_pixels=9 * 200)
    assert upload(make_app(fitting).test_client()).status_code == 200


@pytest.mark.parametrize(
    ("given", "options", "name", "limit", "actual"),
    [
        ({"max_input_pixels": 199}, {}, "input_pixels", 199, 200),
        ({"max_output_pixels": 9 * 199}, {}, "input_pixels", 199, 200),
        ({"max_output_pixels": 1999}, {"width": "100"}, "output_pixels", 1999, 5000),
        ({}, {"width": "16384", "height": "1", "format": "webp"}, "output_side", 16383, 16384),
    ],
)
def test_exceeded_limit_is_told_in_numbers(
    settings: Settings,
    make_app: AppMaker,
    given: dict[str, Any],
    options: dict[str, str],
    name: str,
    limit: int,
    actual: int,
) -> None:
    client = make_app(replace(settings, **given)).test_client()
    response = client.post("/api/enhance", data=PNG, content_type="image/png", query_string=options)
    assert_problem(response, 422, "too_many_pixels")
    expected = {"name": name, "limit": limit, "actual": actual}
    assert response.get_json()["exceeded"] == expected


def test_other_errors_exceed_nothing(client: FlaskClient) -> None:
    assert "exceeded" not in upload(client, content=b"hello").get_json()


def test_busy_service_says_when_to_return(settings: Settings, make_app: AppMaker) -> None:
    app = make_app(replace(settings, max_queue_pixels=100))
    app.extensions["runner"].scheduler.admit(100)
    response = upload(app.test_client())
    assert_problem(response, 503, "busy")
    assert int(response.headers["Retry-After"]) >= 1


def test_fault_of_the_service_shows_nothing_of_itself(
    client: FlaskClient,
    runner: Runner,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(upload: Upload, *_options: object) -> None:
        upload.file.close()
        raise RuntimeError("secret detail")

    monkeypatch.setattr(runner, "enhance", fail)
    response = upload(client)
    assert_problem(response, 500, "internal_error")
    assert b"secret" not in response.data
    # The operator sees all details.
    assert "Traceback" in caplog.text
    assert "secret detail" in caplog.text


def test_result_without_an_address_is_delivered_as_a_picture_only(
    settings: Settings, make_app: AppMaker, tmp_path: Path
) -> None:
    occupied = tmp_path / "a file"
    occupied.touch()
    client = make_app(replace(settings, cache_dir=occupied)).test_client()
    response = upload(client)
    assert Image.open(BytesIO(response.data)).size == (60, 30)
    assert "Link" not in response.headers
    assert_problem(upload(client, headers={"Accept": "application/json"}), 503, "not_stored")


# --- the other routes


def test_health_is_alive_and_never_stored(client: FlaskClient) -> None:
    response = client.get("/api/health")
    body = response.get_json()
    assert (body["status"], body["service"]) == ("healthy", "super-resolution")
    assert re.fullmatch(r"[0-9a-f]{64}", body["model_sha256"])
    assert response.headers["Cache-Control"] == "no-store"


def test_ready_tells_loading_from_ready(
    settings: Settings, client: FlaskClient, make_idle_app: AppMaker
) -> None:
    assert client.get("/api/ready").get_json()["status"] == "ready"
    loading = make_idle_app(settings).test_client().get("/api/ready")
    assert_problem(loading, 503, "not_ready")
    assert loading.headers["Retry-After"] == "1"


def test_health_does_not_load_the_model(settings: Settings, make_idle_app: AppMaker) -> None:
    app = make_idle_app(settings)
    assert app.test_client().get("/api/health").get_json()["model_sha256"] is None
    assert app.extensions["runner"].model_loader.model is None


def test_stats_count_what_happened(client: FlaskClient) -> None:
    upload(client), upload(client)
    response = client.get("/api/stats")
    body = response.get_json()
    assert (body["cache_hits"], body["cache_misses"], body["inferences"]) == (1, 1, 1)
    assert (body["cache_size"], body["cache_hit_rate"], body["cache_dir"]) == (1, 0.5, "cache")
    assert body["cache_bytes"] > 0
    assert body["model_loaded"] is True
    assert (body["queue_length"], body["queue_pixels"]) == (0, 0)
    assert response.headers["Cache-Control"] == "no-cache"


def test_unknown_address_and_wrong_method_are_problems(client: FlaskClient) -> None:
    assert_problem(client.get("/nothing"), 404, "not_found")
    response = client.put("/api/enhance", data=PNG)
    assert_problem(response, 405, "method_not_allowed")
    assert set(response.headers["Allow"].split(", ")) == {"POST", "OPTIONS"}
    assert response.get_json()["error"] == "This address supports only POST."
    wrong = client.post("/api/jobs/ticket").get_json()["error"]
    assert wrong == "This address supports only DELETE and GET."


def test_request_id_is_the_clients_where_well_formed(client: FlaskClient) -> None:
    sent = client.get("/api/health", headers={"X-Request-ID": "abc-123"})
    assert sent.headers["X-Request-ID"] == "abc-123"
    made = client.get("/api/health", headers={"X-Request-ID": "a b\tc" * 20})
    assert re.fullmatch(r"[0-9a-f]{32}", made.headers["X-Request-ID"])
    problem = client.get("/api/nothing", headers={"X-Request-ID": "abc-123"})
    assert problem.get_json()["request_id"] == "abc-123"


def test_result_name_starts_with_the_uploads_hash(client: FlaskClient) -> None:
    assert f"/cache/{generate_file_hash(PNG)}." in upload(client).headers["Link"]


@pytest.mark.parametrize("path", ["/api/health", "/cache/nothing", "/api/nothing", "/metrics"])
def test_answers_that_are_no_page_can_do_nothing_as_one(client: FlaskClient, path: str) -> None:
    headers = client.get(path).headers
    assert headers["Content-Security-Policy"] == "default-src 'none'; frame-ancestors 'none'"
    assert headers["X-Content-Type-Options"] == "nosniff"


def test_form_of_many_parts_is_refused(client: FlaskClient) -> None:
    form: dict[str, Any] = {f"field{number}": "x" for number in range(50)}
    response = client.post("/api/enhance", data={**form, "image": (BytesIO(PNG), "a.png")})
    assert_problem(response, 400, "bad_request")
