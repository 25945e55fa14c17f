import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest

from superres.logs import HumanFormatter, RequestIdFilter, current_request_id
from superres.paths import PROJECT_DIR
from testkit import loopback
from testkit.app_client import AppMaker, upload
from testkit.fakes import FakeModel
from testkit.service import run_light_service


def format_human(message: str, **extra: object) -> str:
    record = logging.makeLogRecord({"msg": message, "levelname": "INFO", "name": "test", **extra})
    return HumanFormatter("%(levelname)s %(name)s: %(message)s").format(record)


@pytest.mark.parametrize("sent", ["a\nINFO forged", "a\r", "\x1b[31m", "a\u2028b", "\x9b1A"])
def test_what_clients_send_stays_on_its_line(sent: str) -> None:
    line = format_human(f"cannot read {sent}")
    assert len(line.splitlines()) == 1
    assert line.isprintable()
    assert line.startswith("INFO test: cannot read ")


def test_traceback_keeps_its_lines() -> None:
    try:
        raise ValueError("inner")
    except ValueError:
        line = format_human("failed", exc_info=sys.exc_info())
    assert "\nTraceback (most recent call last):\n" in line


def test_lines_of_a_request_carry_its_id() -> None:
    record = logging.makeLogRecord({"msg": "hello"})
    token = current_request_id.set("abc-1")
    assert RequestIdFilter().filter(record)
    current_request_id.reset(token)
    assert HumanFormatter("%(message)s").format(record) == "hello id=abc-1"
    other = logging.makeLogRecord({"msg": "hello"})
    assert RequestIdFilter().filter(other)
    assert HumanFormatter("%(message)s").format(other) == "hello"


def test_fault_in_the_picture_threads_is_logged_with_the_requests_id(
    make_app: AppMaker, fake_model: FakeModel, caplog: pytest.LogCaptureFixture
) -> None:
    client = make_app().test_client()
    fake_model.error = RuntimeError("broken")
    caplog.handler.addFilter(RequestIdFilter())
    assert upload(client, headers={"X-Request-ID": "abc-7"}).status_code == 500
    (record,) = (each for each in caplog.records if "computing" in each.getMessage())
    assert record.__dict__["request_id"] == "abc-7"
    assert current_request_id.get() == ""


def test_asynchronous_job_has_an_id_of_its_own_from_its_request_on(
    make_app: AppMaker, fake_model: FakeModel, caplog: pytest.LogCaptureFixture
) -> None:
    client = make_app().test_client()
    fake_model.error = RuntimeError("broken")
    caplog.set_level(logging.INFO)
    caplog.handler.addFilter(RequestIdFilter())
    accepted = upload(client, headers={"Prefer": "respond-async"})
    assert accepted.status_code == 202
    url = accepted.headers["Location"]
    while client.get(url, headers={"Prefer": "wait=5"}).get_json()["state"] != "failed":
        pass
    (request,) = (each for each in caplog.records if each.__dict__.get("status") == 202)
    (fault,) = (each for each in caplog.records if "computing" in each.getMessage())
    assert fault.__dict__["request_id"] == request.__dict__["job"]
    assert request.__dict__["job"].startswith("job-")
    assert "sr_job_faults_total 1.0" in client.get("/metrics").text


def test_json_has_a_member_for_each_fact(tmp_path: Path, photo_jpeg: bytes) -> None:
    with run_light_service(tmp_path, log_format="json") as service:
        loopback.post(
            f"{service.url}/api/enhance",
            files={"image": ('x"\n{"level":"forged"}.jpg', photo_jpeg)},
            headers={"X-Request-ID": "abc-1"},
        )
        loopback.get(f"{service.url}/api/nothing%0a{{}}")
        events = [json.loads(line) for line in service.log.splitlines()]
    (posted,) = (each for each in events if each.get("request_id") == "abc-1")
    assert posted["logger"] == "request"
    assert posted["level"] == "INFO"
    assert (posted["method"], posted["path"], posted["status"]) == ("POST", "/api/enhance", 200)
    assert (posted["hit"], posted["pixels"]) == (False, 192 * 144)
    assert 0 < posted["seconds"] < 60
    assert posted["timestamp"].startswith("20")
    (missed,) = (each for each in events if each.get("status") == 404)
    assert (missed["path"], missed["code"]) == ("/api/nothing%0A%7B%7D", "not_found")
    assert any(each["logger"] == "gunicorn.error" for each in events)
    assert not [each for each in events if each.get("level") == "forged"]


def test_wrong_settings_are_told_in_words(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "gunicorn", "app:app"],
        cwd=PROJECT_DIR,
        env={"SR_LOG_FORMAT": "xml", "PATH": "/usr/bin"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode != 0
    assert "SR_LOG_FORMAT='xml': must be human or json" in done.stderr
