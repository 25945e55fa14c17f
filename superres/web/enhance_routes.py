"""`POST /api/enhance`: turns an upload into a result, its URL, or a ticket."""

import time
from collections.abc import Iterable
from contextlib import closing

from flask import Flask, Response, g, jsonify, request
from werkzeug.datastructures import MIMEAccept

from superres.errors import BadRequest, NotStored
from superres.images.formats import FORMATS
from superres.images.options import Options, read_options
from superres.service.charges import Charge
from superres.service.runner import Result, Runner
from superres.store.stored_result import StoredResult
from superres.web.addresses import Addresses
from superres.web.cache_policy import set_cache_policy
from superres.web.disposition import DOWNLOAD, make_disposition, read_download
from superres.web.forms import FIELD
from superres.web.job_routes import JobRoutes, read_preference
from superres.web.result_routes import send_content
from superres.web.uploads import drain_body, has_left, read_upload

ANY_PICTURE = tuple(each.media_type for each in FORMATS.values())


class EnhanceRoutes:
    """Accepts uploads.

    Parameters
    ----------
    jobs : accepts asynchronous uploads
    charge : charges the client
    """

    def __init__(
        self, runner: Runner, jobs: JobRoutes, addresses: Addresses, charge: Charge
    ) -> None:
        self._runner = runner
        self._jobs = jobs
        self._addresses = addresses
        self._charge = charge

    def install(self, app: Flask) -> None:
        """Register the route."""
        app.post("/api/enhance")(self.enhance)
        app.after_request(self.drain_refused)

    def enhance(self) -> Response:
        """Respond to an upload."""
        settings, runner = self._runner.settings, self._runner
        keep = not request.cache_control.no_store
        preference = read_preference(request)
        if not keep and (prefers_json(ANY_PICTURE) or preference.respond_async):
            raise BadRequest("With Cache-Control: no-store nothing is stored to be fetched later.")
        with runner.scheduler.reading_upload():
            upload = read_upload(
                request, settings.max_upload_bytes, settings.upload_timeout_seconds
            )
        with closing(upload):
            values = request.values.to_dict(flat=False)
            is_download = read_download(values)
            options = read_options(values, request.files.keys() - {FIELD}, besides={DOWNLOAD})
            if preference.respond_async:
                answer = self._jobs.accept(upload, options, preference, self._charge)
                if isinstance(answer, Response):
                    return answer
                result = answer
            else:
                result = runner.enhance(
                    upload, options, keep, lambda: has_left(request), self._charge
                )
        g.cache_hit = result.hit
        g.pixels = result.info.width * result.info.height
        if prefers_json([FORMATS[options.format].media_type]):
            return self._make_json(result)
        response = make_picture(result, options)
        disposition = make_disposition(upload.stem, options.suffix, is_download)
        response.headers["Content-Disposition"] = disposition
        if not keep:
            set_cache_policy("live_status")
        elif isinstance(result.content, StoredResult):
            address = self._addresses.result(result.name)
            response.headers["Link"] = f'<{address}>; rel="canonical"'
        return response

    def _make_json(self, result: Result) -> Response:
        if not isinstance(result.content, StoredResult):
            raise NotStored("The result cannot be stored now; ask for the image instead of JSON.")
        result.content.file.close()
        return jsonify(
            status="success",
            url=self._addresses.result(result.name),
            width=result.info.width,
            height=result.info.height,
            cache_hit=result.hit,
            process_time=round(time.perf_counter() - g.started, 3),
        )

    def drain_refused(self, response: Response) -> Response:
        """Let a client finish sending a rejected upload, so that it reads the error.

        On all routes: uploads are sent to other URLs too, by mistake.
        """
        if response.status_code >= 400:
            with self._runner.scheduler.draining() as has_slot:
                if has_slot:
                    drain_body(request)
        return response


def make_picture(result: Result, options: Options) -> Response:
    """Respond with a result's image."""
    content_type = FORMATS[options.format].media_type
    response = send_content(result.content, result.info.length, content_type)
    response.headers["X-Cache-Hit"] = "true" if result.hit else "false"
    stages = [f"{name};dur={1000 * took:.1f}" for name, took in result.stage_seconds.items()]
    if stages:
        response.headers["Server-Timing"] = ", ".join(stages)
    set_cache_policy("enhanced_image", result.info.etag)
    return response


def prefers_json(pictures: Iterable[str]) -> bool:
    """Tell whether the client prefers JSON to an image; in a tie the image wins."""
    # Without parameters: "application/json; charset=utf-8" asks for JSON.
    accepted = MIMEAccept(
        (kind.partition(";")[0].strip(), quality) for kind, quality in request.accept_mimetypes
    )
    json_quality = accepted.quality("application/json")
    return all(json_quality > accepted.quality(each) for each in pictures)
