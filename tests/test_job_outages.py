"""Asynchronous requests while the jobs table goes away, comes back, or is another."""

from collections.abc import Callable
from io import BytesIO
from typing import Any

import pytest
from flask.testing import FlaskClient

from errors import DatabaseDown
from result_cache import generate_file_hash
from runner import Runner
from tests.conftest import PNG, FakeModel, assert_problem, make_upload, upload
from tests.waiting import wait_until

Execute = Callable[..., list[Any]]


def wait_for(client: FlaskClient, path: str, state: str) -> dict[str, Any]:
    """Poll until a job has a state, whatever the answers are before."""
    seen: dict[str, Any] = {}

    def is_there() -> bool:
        seen.update(client.get(path).get_json())
        return seen.get("state") == state

    wait_until(is_there, f"it never was {state}")
    return seen


# --- jobs of a newer version


@pytest.mark.parametrize(
    "options",
    ['{"format": "jxl"}', '{"format":"jxl","scale":3}', '{"format": "png", "tone_map": true}'],
    ids=["format", "written in another way", "option"],
)
def test_job_that_only_a_newer_version_can_compute_is_left_to_it(
    client: FlaskClient, runner: Runner, options: str, caplog: pytest.LogCaptureFixture
) -> None:
    key = generate_file_hash(PNG)
    tickets = []
    for number in range(3):
        spool = runner.spool.store(BytesIO(PNG), runner.jobs.table_id())
        ticket, _ = runner.jobs.submit(f"{key}.newer{number}.jxl", {}, 1 + number, spool)
        runner.jobs.database.execute(
            "UPDATE jobs SET options = ? WHERE spool = ?", [options, spool]
        )
        tickets.append(ticket)
    runner.keeper.wake()
    # Others' turn comes, though these are smaller.
    for shade in range(3):
        accepted = upload(client, content=make_upload(shade).file.read(), headers=ASYNC)
        wait_for(client, accepted.get_json()["status_url"], "done")
    wait_until(lambda: runner.jobs.count_states()["running"] == 0)
    rows = runner.jobs.database.execute(
        "SELECT state, attempts, owner FROM jobs WHERE name LIKE '%newer%'"
    )
    assert rows == [("queued", 0, None)] * 3
    assert len(list((runner.cache.folder / "spool").iterdir())) == 3
    assert caplog.text.count("left to a newer version") == 1
    # Its status is told here, too, and it can be taken back.
    for ticket in tickets:
        assert client.get(f"/api/jobs/{ticket}").get_json()["state"] == "queued"
        assert client.delete(f"/api/jobs/{ticket}").status_code == 204
    assert list((runner.cache.folder / "spool").iterdir()) == []


# --- a table that goes away


ASYNC = {"Prefer": "respond-async"}


@pytest.mark.parametrize("prefer", ["respond-async", "respond-async, wait=1"])
def test_accepted_upload_has_its_ticket_though_the_database_goes_away(
    client: FlaskClient,
    runner: Runner,
    fake_model: FakeModel,
    prefer: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake_model.may_go_on.clear()
    database = runner.jobs.database
    execute, submit = database.execute, runner.jobs.submit

    def go_away(*arguments: Any) -> tuple[str, str]:
        accepted = submit(*arguments)
        monkeypatch.setattr(database, "execute", refuse)
        return accepted

    def refuse(*_arguments: Any) -> list[Any]:
        raise DatabaseDown("It is away.", 1)

    monkeypatch.setattr(runner.jobs, "submit", go_away)
    response = upload(client, headers={"Prefer": prefer})
    assert response.status_code == 202
    status = response.get_json()
    assert status["state"] == "queued"
    assert response.headers["Location"] == status["status_url"]
    assert int(response.headers["Retry-After"]) >= 1
    assert_problem(client.get(status["status_url"]), 503, "jobs_unavailable")
    monkeypatch.setattr(database, "execute", execute)
    fake_model.may_go_on.set()
    wait_for(client, status["status_url"], "done")


def test_long_poll_goes_on_after_the_database_was_away(
    client: FlaskClient, runner: Runner, fake_model: FakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_model.may_go_on.clear()
    path = upload(client, headers=ASYNC).get_json()["status_url"]
    wait_for(client, path, "running")
    glance, failures = runner.jobs.glance, iter(range(3))

    def fail_first(ticket: str) -> tuple[str, int] | None:
        if next(failures, None) is not None:
            raise DatabaseDown("It is away.", 1)
        fake_model.may_go_on.set()
        return glance(ticket)

    monkeypatch.setattr(runner.jobs, "glance", fail_first)
    response = client.get(path, headers={"Prefer": "wait=30"})
    assert response.status_code == 200
    assert next(failures, None) is None
