"""Flask's test client: uploads, and assertions about error responses."""

from collections.abc import Callable
from io import BytesIO
from typing import Any

from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from testkit.pictures import PNG

AppMaker = Callable[..., Flask]


class BufferedClient(FlaskClient):
    """Reads every response to its end and closes it, as a server does."""

    def open(self, *args: Any, **kwargs: Any) -> TestResponse:
        return super().open(*args, **{"buffered": True, **kwargs})


def upload(
    client: FlaskClient,
    name: str = "photo.png",
    headers: dict[str, str] | None = None,
    content: bytes = PNG,
    **options: str,
) -> TestResponse:
    form = {"image": (BytesIO(content), name), **options}
    return client.post("/api/enhance", data=form, headers=headers or {})


def assert_problem(response: TestResponse, status: int, code: str) -> None:
    assert response.status_code == status, response.data
    assert response.content_type == "application/problem+json"
    assert response.headers["Cache-Control"] == "no-store, must-revalidate"
    body = response.get_json()
    assert (body["status"], body["code"]) == (status, code)
    assert body["error"] == body["detail"]
    assert body["type"] == "about:blank"
    assert body["timestamp"].endswith("+00:00")
    for internal in ("Traceback", "Error:", ".py", "werkzeug"):
        assert internal not in body["error"]
