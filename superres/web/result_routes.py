"""Stored results: `GET /api/result` finds one by its upload's hash, `GET /cache/<name>` sends."""

from http import HTTPStatus

from flask import Flask, Response, jsonify, request
from werkzeug.wsgi import wrap_file

from superres.errors import BadRequest, NotStored, ResultNotFound
from superres.images.formats import Format
from superres.images.options import read_options
from superres.service.runner import Runner
from superres.store.result_name import KEY_PATTERN, READ_CHUNK_BYTES, ResultName
from superres.store.stored_result import ResultInfo, StoredResult
from superres.web.addresses import Addresses
from superres.web.cache_policy import set_cache_policy
from superres.web.disposition import make_disposition
from superres.web.preconditions import evaluate_preconditions
from superres.web.problems import make_problem

RETRY_SECONDS = 60


class ResultRoutes:
    """Finds and sends stored results."""

    def __init__(self, runner: Runner, addresses: Addresses) -> None:
        self._runner = runner
        self._addresses = addresses

    def install(self, app: Flask) -> None:
        """Register the routes."""
        app.get("/api/result")(self.find)
        app.get("/cache/<name>")(self.send)

    def find(self) -> Response:
        """Respond with the URL of an upload's result, and whether it exists."""
        keys = request.args.getlist("sha256")
        if len(keys) != 1 or not KEY_PATTERN.fullmatch(keys[0]):
            raise BadRequest("sha256 must be given once, as 64 lower-case hexadecimal digits.")
        options = read_options(request.args.to_dict(flat=False), besides={"sha256"})
        name = self._runner.result_name(keys[0], options)
        exists = self._runner.cache.contains(name)
        return jsonify(name=name, url=self._addresses.result(name), exists=exists)

    def send(self, name: str) -> Response:
        """Respond with a stored result, or 304 if the client's copy is still good."""
        cache = self._runner.cache
        parts = ResultName.parse(name)
        stored = cache.open(name) if parts else None
        if stored is None and parts and cache.contains(name):
            raise NotStored("The result cannot be read now.", RETRY_SECONDS)
        if stored is None or parts is None:
            raise ResultNotFound("No result has this name; it may have been cleaned up.")
        response = answer_conditions(stored, stored.info, parts.format, stored.modified)
        if response.status_code == HTTPStatus.PRECONDITION_FAILED:
            return response
        response.last_modified = stored.modified  # type: ignore[assignment]  # takes seconds too
        response.headers["Cross-Origin-Resource-Policy"] = "cross-origin"
        # Anything else is ignored, as in Nginx, which answers from one copy whatever the query.
        if request.args.get("download") == "1" and response.status_code == HTTPStatus.OK:
            response.headers["Content-Disposition"] = make_disposition(
                f"{parts.key[:8]}-{parts.variant}", f".{parts.format.name}", is_download=True
            )
        set_cache_policy("enhanced_image", stored.info.etag)
        return response


def answer_conditions(
    content: StoredResult | memoryview,
    info: ResultInfo,
    image_format: Format,
    modified: float | None,
) -> Response:
    """Respond to a GET or HEAD with a result, or with 304 or 412 if its conditions require that.

    Parameters
    ----------
    content : the result; its file is closed unless it is sent
    modified : see `evaluate_preconditions`
    """
    status = evaluate_preconditions(request, info.etag, modified)
    if isinstance(content, StoredResult) and (status is not None or request.method == "HEAD"):
        content.file.close()
    if status == HTTPStatus.PRECONDITION_FAILED:
        return make_problem(
            412, "precondition_failed", "The result does not match the request's preconditions."
        )
    if status == HTTPStatus.NOT_MODIFIED:
        return Response(status=304)
    if request.method == "HEAD":
        response = Response(content_type=image_format.media_type)
        response.content_length = info.length
        return response
    return send_content(content, info.length, image_format.media_type)


def send_content(content: StoredResult | memoryview, length: int, content_type: str) -> Response:
    """Respond with a result's bytes; gunicorn sends a file with the kernel's sendfile."""
    if isinstance(content, StoredResult):
        body = wrap_file(request.environ, content.file)
        response = Response(body, direct_passthrough=True, content_type=content_type)
    else:
        # In pieces: a copy for every request that waits for the same result would exhaust memory.
        starts = range(0, length, READ_CHUNK_BYTES)
        body = (bytes(content[start : start + READ_CHUNK_BYTES]) for start in starts)
        response = Response(body, content_type=content_type)
    response.content_length = length
    return response
