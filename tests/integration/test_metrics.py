import os
import re
import signal
import time
from io import BytesIO
from pathlib import Path

import pytest
from flask.testing import FlaskClient
from PIL import Image
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families

from superres.engines.lanes import Lanes, Progress, Task
from superres.paths import PROJECT_DIR
from superres.settings import Settings
from testkit import loopback
from testkit.app_client import AppMaker, upload
from testkit.fakes import FakeModel
from testkit.pictures import PNG, encode
from testkit.service import run_light_service, wait_until_ready


def read_metrics(text: str) -> dict[str, float]:
    """Return samples as `name{label="value",...}` -> value, labels in the order of their names."""
    samples = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f'{name}="{value}"' for name, value in sorted(sample.labels.items()))
            samples[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return samples


def scrape(client: FlaskClient) -> dict[str, float]:
    response = client.get("/metrics")
    assert response.status_code == 200
    assert response.headers["Cache-Control"] == "no-store"
    return read_metrics(response.text)


def test_answers_are_counted_by_route_method_and_status(client: FlaskClient) -> None:
    upload(client), upload(client), upload(client, content=b"no picture")
    client.get("/cache/anything"), client.get("/cache/other")
    metrics = scrape(client)
    posted = 'sr_requests_total{method="POST",route="/api/enhance",status="%d"}'
    assert (metrics[posted % 200], metrics[posted % 415]) == (2, 1)
    # By route, not by URL, of which there are endlessly many.
    missed = 'sr_requests_total{method="GET",route="/cache/<name>",status="404"}'
    assert metrics[missed] == 2
    assert metrics['sr_request_seconds_count{method="POST",route="/api/enhance"}'] == 3
    assert metrics['sr_refused_total{code="unsupported_media_type"}'] == 1
    assert metrics['sr_refused_total{code="not_found"}'] == 2


def test_the_first_refusal_of_a_kind_is_an_increase(client: FlaskClient) -> None:
    before = scrape(client)
    assert before['sr_refused_total{code="unsupported_media_type"}'] == 0
    for code in ("internal_error", "busy", "not_stored", "jobs_unavailable", "rate_limited"):
        assert before[f'sr_refused_total{{code="{code}"}}'] == 0


def test_queued_jobs_count_with_their_pixels(client: FlaskClient, fake_model: FakeModel) -> None:
    fake_model.may_go_on.clear()
    for number in range(6):
        content = encode(Image.new("RGB", (20, 10), (number, 0, 0)), "PNG")
        upload(client, content=content, headers={"Prefer": "respond-async"})
    deadline = time.monotonic() + 20
    pixels = 0.0
    while pixels != 2 * 200 and time.monotonic() < deadline:  # four are claimed at a time
        pixels = scrape(client)['sr_jobs_pixels{state="queued"}']
    assert pixels == 2 * 200
    assert scrape(client)['sr_jobs_pixels{state="running"}'] == 4 * 200
    fake_model.may_go_on.set()


def test_what_clients_invent_adds_no_series(client: FlaskClient) -> None:
    for number in range(3):
        client.get(f"/nothing/{number}")
        client.open("/api/health", method=f"INVENTED{number}")
    invented = [name for name in scrape(client) if "nothing" in name or "INVENTED" in name]
    assert invented == []
    assert scrape(client)['sr_requests_total{method="GET",route="none",status="404"}'] == 3


def test_cache_inference_and_jobs_are_told(client: FlaskClient) -> None:
    before = scrape(client)
    upload(client), upload(client)
    client.post(
        "/api/enhance?scale=2",
        data={"image": (BytesIO(PNG), "photo.png")},
        headers={"Prefer": "respond-async, wait=20"},
    )
    metrics = scrape(client)
    for name, value in {
        "sr_cache_hits_total": 1,
        "sr_cache_misses_total": 2,
        "sr_cache_results": 2,
        "sr_inferences_total": 1,  # the other is made from its result
        "sr_inference_pixels_total": 200,
        "sr_lanes": 2,
        "sr_lanes_busy": 0,
        "sr_queue_pictures": 0,
        'sr_jobs{state="done"}': 2,
        'sr_jobs{state="queued"}': 0,
        "sr_ready": 1,
    }.items():
        assert metrics[name] == value, name
    for name in ("sr_cache_bytes", "sr_inference_seconds_total", "sr_lane_seconds_total"):
        assert metrics[name] > before[name] == 0, name
    (model,) = (name for name in metrics if name.startswith("sr_model_info"))
    assert 'name="fake.pb"' in model
    assert 'engine="cv2.dnn"' in model


def test_lanes_are_busy_while_a_tile_is_computed(fake_model: FakeModel) -> None:
    lanes = Lanes(1)
    seen: list[int] = []

    def look(_lane: int) -> None:
        seen.append(lanes.busy)

    lanes.run([Task(look, 1)], Progress())
    lanes.close()
    assert (seen, lanes.busy) == ([1], 0)


def test_scrape_does_not_need_the_jobs_table(
    make_app: AppMaker, settings: Settings, tmp_path: Path
) -> None:
    (tmp_path / "state").write_text("a file where the folder belongs")
    metrics = scrape(make_app().test_client())
    assert not [name for name in metrics if name.startswith("sr_jobs{")]
    assert metrics["sr_lanes"] == 2


def test_openmetrics_is_spoken_to_those_who_ask(client: FlaskClient) -> None:
    accept = "application/openmetrics-text; version=1.0.0"
    response = client.get("/metrics", headers={"Accept": accept})
    assert response.content_type.startswith("application/openmetrics-text")
    assert len(list(parse_openmetrics(response.text))) > 20  # type: ignore[no-untyped-call]


def test_metrics_are_right_after_a_worker_restart(tmp_path: Path, photo_jpeg: bytes) -> None:
    with run_light_service(tmp_path) as service:
        answer = loopback.post(f"{service.url}/api/enhance", files={"image": photo_jpeg})
        size = len(answer.content)
        os.kill(service.worker_pid, signal.SIGKILL)
        wait_until_ready(service)
        metrics = read_metrics(loopback.get(f"{service.url}/metrics").text)
    assert metrics["sr_cache_results"] == 1
    assert metrics["sr_cache_bytes"] > size
    assert metrics['sr_jobs{state="done"}'] == 1
    assert metrics["sr_inferences_total"] == 0
    assert metrics["process_open_fds"] > 0


def metric_names_of(text: str) -> set[str]:
    return set(re.findall(r"\b(?:sr|process)_[a-z_]+\b", text))


@pytest.mark.parametrize("name", ["alerts.yaml", "grafana-dashboard.json"])
def test_rules_and_dashboard_ask_for_metrics_that_exist(client: FlaskClient, name: str) -> None:
    upload(client)
    known = {sample.partition("{")[0] for sample in scrape(client)}
    asked = metric_names_of((PROJECT_DIR / "deploy" / name).read_text())
    assert len(asked) >= 8
    # A counter for something that has not happened yet has no sample.
    assert asked - known <= {"sr_refused_total", "sr_source_failures_total"}
