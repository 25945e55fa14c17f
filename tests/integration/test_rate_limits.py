import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import limits
import pytest
import redis
from flask import Flask
from flask.testing import FlaskClient
from limits.storage import MemoryStorage
from PIL import Image
from werkzeug.datastructures import Headers
from werkzeug.test import TestResponse

from app import create_app
from superres.errors import ConfigError, RateLimited
from superres.jobs.job_records import Backlog
from superres.service.runner import Runner
from superres.settings import Settings
from superres.store.result_name import generate_file_hash
from superres.store.stored_result import StoredResult
from superres.web.api_keys import hash_key, make_key
from superres.web.rate_limits import RateLimits
from testkit.app_client import AppMaker, assert_problem, upload
from testkit.fakes import FakeModel
from testkit.pictures import encode
from testkit.service import find_free_port
from testkit.waiting import wait_until

REQUESTS = 6
HOUR = 3600
PIXELS = 500
PICTURE_PIXELS = 200
SENT_AT_ONCE = 12
# Memory left in a nearly full Redis, and how many clients it then has to count.
MEMORY_LEFT, CLIENTS_BEYOND = 10_000, 250
FORWARDED = {"X-Forwarded-For": "192.0.2.1"}


def limit(settings: Settings, requests: int = REQUESTS, pixels: int = PIXELS) -> Settings:
    return replace(
        settings,
        trusted_proxies=1,
        rate_limit_requests=limits.parse(f"{requests}/hour"),
        rate_limit_pixels=limits.parse(f"{pixels}/hour"),
    )


@pytest.fixture
def limited(make_app: AppMaker, settings: Settings) -> FlaskClient:
    return make_app(limit(settings)).test_client()


def send(
    client: FlaskClient, number: int, address: str = "192.0.2.1", prefer: str = ""
) -> TestResponse:
    """Upload an image of 200 pixels that is unique to a number."""
    content = encode(Image.new("RGB", (20, 10), (number, 0, 0)), "PNG")
    headers = {"X-Forwarded-For": address, "Prefer": prefer}
    return upload(client, content=content, headers=headers)


def remaining(headers: Headers) -> dict[str, int]:
    """Return what is left according to the RateLimit header."""
    items = [item.split(";") for item in headers["RateLimit"].split(", ")]
    return {name.strip('"'): int(left.removeprefix("r=")) for name, left, _ in items}


def test_requests_beyond_the_limit_are_told_when_to_return(limited: FlaskClient) -> None:
    for left in reversed(range(REQUESTS)):
        response = limited.get("/api/stats")
        assert response.status_code == 200
        assert remaining(response.headers)["requests"] == left
    response = limited.get("/api/stats")
    assert_problem(response, 429, "rate_limited")
    seconds = response.headers["Retry-After"]
    assert 0 < int(seconds) <= 3600
    assert response.get_json()["error"] == (
        f"One client may send {REQUESTS} requests per hour. Try again in {seconds} seconds."
    )
    policy = response.headers["RateLimit-Policy"]
    assert policy == f'"requests";q={REQUESTS};w=3600, "pixels";q={PIXELS};w=3600'


def test_pixels_beyond_the_limit_are_not_computed(
    limited: FlaskClient, fake_model: FakeModel
) -> None:
    assert send(limited, 1).status_code == 200
    assert remaining(send(limited, 2).headers)["pixels"] == PIXELS - 2 * PICTURE_PIXELS
    tiles = fake_model.tiles
    response = send(limited, 3)
    assert_problem(response, 429, "rate_limited")
    words = (
        f"may have {PIXELS} pixels computed per hour; this image counts {PICTURE_PIXELS} pixels."
    )
    assert words in response.get_json()["error"]
    assert fake_model.tiles == tiles
    assert_problem(send(limited, 3, prefer="respond-async"), 429, "rate_limited")


def test_hits_cost_no_pixels(limited: FlaskClient) -> None:
    for _ in range(4):
        response = send(limited, 1)
        assert response.status_code == 200
    assert remaining(response.headers)["pixels"] == PIXELS - PICTURE_PIXELS


def test_refused_pictures_cost_no_pixels(limited: FlaskClient) -> None:
    response = upload(limited, content=b"no picture")
    assert response.status_code == 415
    assert remaining(response.headers)["pixels"] == PIXELS


@pytest.mark.parametrize("prefer", ["", "respond-async"])
def test_pictures_that_find_no_room_cost_no_pixels(
    make_app: AppMaker, settings: Settings, fake_model: FakeModel, prefer: str
) -> None:
    full = replace(limit(settings), max_queue_pixels=PICTURE_PIXELS, max_waiting_requests=1)
    fake_model.may_go_on.clear()
    app = make_app(full)
    client, scheduler = app.test_client(), app.extensions["runner"].scheduler
    assert send(client, 0, address="192.0.2.9", prefer="respond-async").status_code == 202
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(send, client, 1, "192.0.2.9")
        wait_until(lambda: scheduler.waiting_requests > 0)
        response = send(client, 2, prefer=prefer)
        assert_problem(response, 503, "busy")
        assert remaining(response.headers)["pixels"] == PIXELS
        fake_model.may_go_on.set()
        assert waiting.result().status_code == 200


def test_equal_pictures_under_way_cost_their_pixels_once(
    limited: FlaskClient, fake_model: FakeModel
) -> None:
    fake_model.may_go_on.clear()
    for _ in range(3):
        response = send(limited, 1, prefer="respond-async")
        assert response.status_code == 202
        assert remaining(response.headers)["pixels"] == PIXELS - PICTURE_PIXELS
    fake_model.may_go_on.set()


@pytest.mark.parametrize("prefer", ["", "respond-async"])
@pytest.mark.parametrize("store", ["memory", "redis"])
def test_pictures_sent_at_once_pass_no_further_than_the_limit(
    make_app: AppMaker,
    settings: Settings,
    fake_model: FakeModel,
    request: pytest.FixtureRequest,
    store: str,
    prefer: str,
) -> None:
    url = request.getfixturevalue("redis_url") if store == "redis" else "memory://"
    app = make_app(replace(limit(settings, requests=99), rate_limit_store=url))
    runner = app.extensions["runner"]
    fake_model.may_go_on.clear()

    def send_one(number: int) -> TestResponse:
        return send(app.test_client(), number, prefer=prefer)

    with ThreadPoolExecutor(SENT_AT_ONCE) as pool:
        if prefer:
            answers = pool.map(send_one, range(SENT_AT_ONCE))
        else:
            # All of them reach the queue before any is in it.
            with runner._local_jobs._lock:
                sent = [pool.submit(send_one, number) for number in range(SENT_AT_ONCE)]
                while runner.scheduler.waiting_requests < SENT_AT_ONCE:
                    time.sleep(0.01)
            fake_model.may_go_on.set()
            answers = (each.result() for each in sent)
        statuses = [answer.status_code for answer in answers]
    fake_model.may_go_on.set()
    passed = [status for status in statuses if status in {200, 202}]
    assert 0 < len(passed) * PICTURE_PIXELS <= PIXELS
    assert set(statuses) - {200, 202} == {429}


@pytest.mark.parametrize("store", ["memory", "redis"])
def test_what_is_given_back_can_be_spent_again_and_never_twice(
    settings: Settings, request: pytest.FixtureRequest, store: str
) -> None:
    url = request.getfixturevalue("redis_url") if store == "redis" else "memory://"
    charge = RateLimits(replace(limit(settings), rate_limit_store=url)).charge
    app = Flask(__name__)
    with app.test_request_context(environ_base={"REMOTE_ADDR": "192.0.2.1"}):
        first = charge.reserve(200)
        charge.reserve(200)
        with pytest.raises(RateLimited):
            charge.reserve(200)
    first.give_back()  # another thread's request may have ended by then
    first.give_back()
    with app.test_request_context(environ_base={"REMOTE_ADDR": "192.0.2.1"}):
        charge.reserve(300)
        with pytest.raises(RateLimited):
            charge.reserve(1)


def test_what_an_ended_window_counted_is_not_given_back_to_the_next(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    charge = RateLimits(limit(settings)).charge
    clock = [HOUR * 1000.0 + HOUR - 10]
    monkeypatch.setattr(time, "time", lambda: clock[0])
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    with Flask(__name__).test_request_context(environ_base={"REMOTE_ADDR": "192.0.2.1"}):
        late = charge.reserve(PIXELS)
        clock[0] += HOUR  # ten seconds before the end of the next window: a few still count
        charge.reserve(PIXELS - 10)
        late.give_back()
        with pytest.raises(RateLimited):
            charge.reserve(100)


def test_result_that_another_process_stored_meanwhile_costs_no_pixels(
    make_app: AppMaker, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    app, other = make_app(limit(settings)), make_app()
    cache = app.extensions["runner"].cache
    open_result = cache.open

    def miss_once(name: str) -> StoredResult | None:
        monkeypatch.setattr(cache, "open", open_result)
        assert send(other.test_client(), 1).status_code == 200
        return None

    monkeypatch.setattr(cache, "open", miss_once)
    response = send(app.test_client(), 1)
    assert response.status_code == 200
    assert remaining(response.headers)["pixels"] == PIXELS


def test_job_that_ended_just_before_it_was_joined_is_paid_or_withdrawn(
    make_app: AppMaker, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = make_app(limit(settings, pixels=PICTURE_PIXELS))
    runner: Runner = app.extensions["runner"]
    runner.keeper.stop()
    contents = (encode(Image.new("RGB", (20, 10), (each, 0, 0)), "PNG") for each in (2, 3))
    names = [runner.result_name(generate_file_hash(content)) for content in contents]
    backlog = runner.jobs.backlog

    def look(name: str) -> Backlog:
        return replace(backlog(name), has_it=name in names)

    monkeypatch.setattr(runner.jobs, "backlog", look)
    client = app.test_client()
    assert send(client, 2, prefer="respond-async").status_code == 202
    assert remaining(client.get("/api/stats", headers=FORWARDED).headers)["pixels"] == 0
    assert_problem(send(client, 3, prefer="respond-async"), 429, "rate_limited")
    states = runner.jobs.count_states()
    assert (states["queued"], states["cancelled"]) == (1, 1)
    assert len(list((settings.cache_dir / "spool").iterdir())) == 1


def test_large_result_of_a_small_picture_costs_its_own_pixels(limited: FlaskClient) -> None:
    content = encode(Image.new("RGB", (20, 10)), "PNG")
    form = {"image": (BytesIO(content), "a.png")}
    response = limited.post("/api/enhance?width=90&height=40", data=form)
    assert response.status_code == 200
    assert remaining(response.headers)["pixels"] == PIXELS - 90 * 40 // 9


@pytest.mark.parametrize(
    ("moments", "later"),
    [
        ([0] * 6, 10),
        ([0] * 6, 1000),
        ([0, 3000, 3000, 3000, 3000, 3000], 100),
        ([3500] * 6, 10),
        # The previous window and this one count together.
        ([3500] * 3 + [3610] * 4, 10),
    ],
)
def test_whoever_returns_when_told_is_served_and_not_much_earlier(
    limited: FlaskClient, monkeypatch: pytest.MonkeyPatch, moments: list[int], later: int
) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "time", lambda: clock[0])
    for moment in moments:
        clock[0] = HOUR * 1000.0 + moment
        assert limited.get("/api/stats").status_code == 200
    clock[0] += later
    response = limited.get("/api/stats")
    assert_problem(response, 429, "rate_limited")
    seconds = int(response.headers["Retry-After"])
    clock[0] += seconds - 2
    assert limited.get("/api/stats").status_code == 429
    clock[0] += 3
    assert limited.get("/api/stats").status_code == 200


def test_picture_larger_than_the_limit_is_computed_for_who_asked_for_nothing_else(
    make_app: AppMaker, settings: Settings
) -> None:
    client = make_app(limit(settings, pixels=100)).test_client()
    assert send(client, 1).status_code == 200
    assert_problem(send(client, 2), 429, "rate_limited")


def test_each_client_has_limits_of_its_own(limited: FlaskClient) -> None:
    for number in range(3):
        send(limited, number)
    assert send(limited, 3).status_code == 429
    assert send(limited, 3, address="192.0.2.2").status_code == 200


@pytest.mark.parametrize("form", ["{}:4711", "::ffff:{}", "[::ffff:{}]:4711"])
def test_ipv4_address_is_a_client_in_every_form(limited: FlaskClient, form: str) -> None:
    for number in range(3):
        send(limited, number, address=form.format("192.0.2.1"))
    assert send(limited, 3, address="192.0.2.1").status_code == 429
    assert send(limited, 3, address=form.format("192.0.2.2")).status_code == 200


def test_ipv6_network_is_one_client(limited: FlaskClient) -> None:
    for number in range(3):
        send(limited, number, address=f"2001:db8:0:1::{number}")
    assert send(limited, 3, address="2001:db8:0:1:ffff::9").status_code == 429
    assert send(limited, 3, address="2001:db8:0:2::1").status_code == 200


def test_owner_of_a_key_is_one_client_wherever_they_are(
    make_app: AppMaker, settings: Settings, tmp_path: Path
) -> None:
    keys = {name: make_key() for name in ("anna", "bert")}
    path = tmp_path / "keys"
    path.write_text("".join(f"{name}:{hash_key(key)}\n" for name, key in keys.items()))
    client = make_app(replace(limit(settings, requests=2), api_keys_file=path)).test_client()

    def ask(name: str, address: str) -> int:
        headers = {"Authorization": f"Bearer {keys[name]}", "X-Forwarded-For": address}
        return client.get("/api/stats", headers=headers).status_code

    answers = [ask("anna", f"192.0.2.{number}") for number in range(3)]
    assert answers == [200, 200, 429]
    assert ask("bert", "192.0.2.0") == 200


def test_monitors_results_and_preflights_do_not_count(
    make_app: AppMaker, settings: Settings
) -> None:
    client = make_app(limit(settings, requests=1)).test_client()
    link = send(client, 1).headers["Link"]
    assert client.get("/api/stats", headers={"X-Forwarded-For": "192.0.2.1"}).status_code == 429
    for path in ("/api/health", "/api/ready", "/", link[1:].partition(">")[0]):
        response = client.get(path, headers={"X-Forwarded-For": "192.0.2.1"})
        assert response.status_code == 200
        assert "RateLimit" not in response.headers
    preflight = {"Origin": "https://a.example", "Access-Control-Request-Method": "POST"}
    assert client.options("/api/enhance", headers=preflight).status_code == 200


def test_without_limits_nothing_is_said_of_them(client: FlaskClient) -> None:
    assert "RateLimit" not in upload(client).headers


def test_broken_store_stops_nobody(
    limited: FlaskClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_arguments: object, **_more: object) -> int:
        raise limits.errors.StorageError(ConnectionError("gone"))

    monkeypatch.setattr(MemoryStorage, "acquire_sliding_window_entry", fail)
    monkeypatch.setattr(MemoryStorage, "get_sliding_window", fail)
    for number in range(REQUESTS + 1):
        assert send(limited, number).status_code == 200
    assert "rate limits are not enforced" in caplog.text


def test_redis_that_is_not_there_costs_no_time(make_app: AppMaker, settings: Settings) -> None:
    store = f"redis://127.0.0.1:{find_free_port()}"
    client = make_app(replace(limit(settings), rate_limit_store=store)).test_client()
    for number in range(REQUESTS + 1):
        response = send(client, number)
        assert response.status_code == 200
        assert "RateLimit" not in response.headers
    assert "sr_rate_limits_down 1.0" in client.get("/metrics").text


@pytest.mark.parametrize("variable", ["SR_RATE_LIMIT_REQUESTS", "SR_RATE_LIMIT_PIXELS"])
@pytest.mark.parametrize("rate", ["many", "0/minute", "60/minute;1000/hour"])
def test_limit_that_is_none_is_a_wrong_setting(variable: str, rate: str) -> None:
    with pytest.raises(ConfigError, match=variable):
        Settings.from_env({variable: rate})


def test_store_that_is_none_is_a_wrong_setting(settings: Settings) -> None:
    with pytest.raises(ConfigError, match="SR_RATE_LIMIT_STORE"):
        create_app(replace(settings, rate_limit_store="nonsense://host"))


def test_redis_without_its_extra_says_what_to_install(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("superres.web.rate_limits.find_spec", lambda _name: None)
    with pytest.raises(ConfigError, match="needs the extra redis"):
        create_app(replace(settings, rate_limit_store="redis://host"))


@pytest.fixture
def redis_url(tmp_path: Path) -> Iterator[str]:
    port = find_free_port()
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--dir", str(tmp_path)]
    process = subprocess.Popen([*command, "--save", ""], stdout=subprocess.DEVNULL)
    client = redis.Redis(port=port)
    try:
        for _ in range(100):
            try:
                client.ping()
                break
            except redis.ConnectionError:
                time.sleep(0.05)
        yield f"redis://127.0.0.1:{port}"
    finally:
        client.close()
        process.terminate()
        process.wait(30)


def test_processes_that_share_a_redis_share_the_limits(
    make_app: AppMaker, settings: Settings, redis_url: str
) -> None:
    shared = replace(limit(settings), rate_limit_store=redis_url)
    clients = [make_app(shared).test_client() for _ in range(2)]
    answers = [clients[number % 2].get("/api/stats").status_code for number in range(REQUESTS + 2)]
    assert answers == [200] * REQUESTS + [429, 429]
    assert send(clients[0], 1, address="192.0.2.9").status_code == 200
    assert remaining(send(clients[1], 2, address="192.0.2.9").headers)["pixels"] == 100


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl", "noeviction"])
def test_redis_that_is_full_fails_nobody_and_refuses_none_who_may_ask(
    make_app: AppMaker, settings: Settings, redis_url: str, policy: str
) -> None:
    client = make_app(replace(limit(settings), rate_limit_store=redis_url)).test_client()
    for number in range(REQUESTS):
        assert send(client, number % 2).status_code == 200
    assert send(client, 1).status_code == 429
    with redis.Redis.from_url(redis_url) as server:
        server.config_set("maxmemory-policy", policy)
        server.config_set("maxmemory", server.info("memory")["used_memory"] + MEMORY_LEFT)
        for number in range(CLIENTS_BEYOND):
            answer = client.get("/api/stats", headers={"X-Forwarded-For": f"198.18.{number}.1"})
            assert answer.status_code == 200
            # Everything is left but this request, which may have expired in Redis already.
            if "RateLimit" in answer.headers:
                left = remaining(answer.headers)
                assert left["requests"] >= REQUESTS - 1
                assert left["pixels"] == PIXELS
        if policy == "noeviction":
            assert "RateLimit" not in answer.headers
            assert "sr_rate_limits_down 1.0" in client.get("/metrics").text
        else:
            assert server.info("stats")["evicted_keys"] > 0
    for number in range(3):
        assert send(client, number, address="198.18.1.1").status_code == 200
