"""The service's HTTP surface: `create_app`, its routes, and `python app.py`."""

import os
import sys
import time
from collections.abc import Iterable
from urllib.parse import quote

from flask import Flask, Response, g, jsonify, request
from werkzeug.datastructures import MIMEAccept
from werkzeug.urls import iri_to_uri
from werkzeug.wsgi import wrap_file

from access import install_access
from api_docs import install_api_docs
from cache_headers import evaluate_preconditions, install_cache_headers, set_cache_policy
from charges import Charge
from dask_tiles import load_on_cluster
from errors import BadRequest, NotStored, ResultNotFound
from formats import FORMATS
from forms import FIELD, FormRequest
from job_routes import JobRoutes, read_preference
from metrics import install_metrics
from openvino_engine import choose_fastest_engine
from options import Options, read_options
from problems import install_problems, make_problem, utc_now
from rate_limits import RateLimits
from request_log import install_request_log
from result_cache import READ_CHUNK_BYTES, StoredResult
from result_name import KEY_PATTERN, ResultName
from runner import Result, Runner
from settings import PROJECT_DIR, Settings
from super_resolution import SuperResolution
from uploads import drain_body, has_left, read_upload
from upscaler import Upscaler
from web_pages import install_web_pages

VERSION = "0.1.0"
# A form has the picture and a few options.
MAX_FORM_PARTS = 32
RESULT_RETRY_SECONDS = 60
NO_PAGE = "default-src 'none'; frame-ancestors 'none'"
ANY_PICTURE = tuple(each.media_type for each in FORMATS.values())


def create_app(settings: Settings | None = None, super_resolution: Upscaler | None = None) -> Flask:
    """Make the application; the model is loaded by its runner's `start`, or by the first upload.

    Parameters
    ----------
    settings : defaults to the environment's
    super_resolution : a loaded model; defaults to the settings' model, loaded when started

    Raises
    ------
    ConfigError
        The environment has wrong settings.
    """
    settings = settings or Settings.from_env(os.environ)

    def load() -> Upscaler:
        if super_resolution is not None:
            return super_resolution
        if settings.dask_scheduler:
            return load_on_cluster(settings.dask_scheduler, settings.model_path, settings.lanes)
        if settings.engine == "opencv":
            return SuperResolution(settings.model_path, settings.lanes)
        engine = choose_fastest_engine(settings.model_path)
        return Upscaler(settings.model_path, engine, settings.lanes)

    app = Flask(__name__, static_folder=None)
    app.request_class = FormRequest
    app.config["MAX_CONTENT_LENGTH"] = settings.max_body_bytes
    app.config["MAX_FORM_PARTS"] = MAX_FORM_PARTS
    runner = app.extensions["runner"] = Runner(settings, load)
    install_request_log(app)
    app.after_request(finish_request)
    app.after_request(lambda response: drain_refused_upload(response, runner))
    install_metrics(
        app,
        runner,
        VERSION,
        {
            "sr_api_keys_stale": lambda: keys is not None and keys.are_stale,
            "sr_rate_limits_down": lambda: rate_limits.are_down,
        },
    )
    install_cache_headers(app)
    keys = install_access(app, settings)
    rate_limits = RateLimits(settings)
    rate_limits.install(app)
    install_problems(app)
    add_routes(app, settings, runner, rate_limits.charge)
    install_web_pages(app, settings)
    install_api_docs(app)
    return app


def finish_request(response: Response) -> Response:
    """Set the headers that every answer has, and those that only uncached ones may have."""
    response.headers["X-Content-Type-Options"] = "nosniff"
    # Nothing but the pages, which have policies of their own, is to be shown as one.
    response.headers.setdefault("Content-Security-Policy", NO_PAGE)
    if request.path.startswith("/api/"):
        response.headers["X-Request-ID"] = g.request_id
        response.headers["X-Process-Time"] = f"{time.perf_counter() - g.started:.3f}"
    return response


def drain_refused_upload(response: Response, runner: Runner) -> Response:
    """Let a client that still sends its upload come to the end, so that it can read its refusal."""
    if response.status_code >= 400:
        with runner.scheduler.draining() as has_slot:
            if has_slot:
                drain_body(request)
    return response


def add_routes(app: Flask, settings: Settings, runner: Runner, charge: Charge) -> None:
    """Register the routes."""
    started_at = time.monotonic()

    @app.post("/api/enhance")
    def enhance() -> Response:
        keep = not request.cache_control.no_store
        preference = read_preference(request)
        if not keep and (prefers_json(ANY_PICTURE) or preference.respond_async):
            raise BadRequest("With Cache-Control: no-store nothing is kept to be fetched later.")
        with runner.scheduler.reading_upload():
            upload = read_upload(
                request, settings.max_upload_bytes, settings.upload_timeout_seconds
            )
        try:
            options = read_options(
                request.values.to_dict(flat=False), files=request.files.keys() - {FIELD}
            )
        except BadRequest:
            upload.close()
            raise
        if preference.respond_async:
            answer = job_routes.accept(upload, options, preference, charge)
            if isinstance(answer, Response):
                return answer
            result = answer
        else:
            result = runner.enhance(upload, options, keep, lambda: has_left(request), charge)
        g.cache_hit = result.hit
        g.pixels = result.note.width * result.note.height
        if prefers_json([FORMATS[options.format].media_type]):
            return make_json(result)
        response = make_picture(result, upload.stem, options)
        if not keep:
            set_cache_policy("live_status")
        elif isinstance(result.content, StoredResult):
            response.headers["Link"] = f'<{result_url(result.name)}>; rel="canonical"'
        return response

    def make_json(result: Result) -> Response:
        if not isinstance(result.content, StoredResult):
            raise NotStored("The result cannot be stored now; ask for the picture instead of JSON.")
        result.content.file.close()
        return jsonify(
            status="success",
            url=result_url(result.name),
            width=result.note.width,
            height=result.note.height,
            cache_hit=result.hit,
            process_time=round(time.perf_counter() - g.started, 3),
        )

    def make_picture(result: Result, stem: str, options: Options) -> Response:
        content_type = FORMATS[options.format].media_type
        response = send_result(result.content, result.note.length, content_type)
        response.headers["X-Cache-Hit"] = "true" if result.hit else "false"
        response.headers["Content-Disposition"] = disposition(f"{stem}{options.suffix}", options)
        stages = [f"{name};dur={1000 * took:.1f}" for name, took in result.stage_seconds.items()]
        if stages:
            response.headers["Server-Timing"] = ", ".join(stages)
        set_cache_policy("enhanced_image", result.note.etag)
        return response

    @app.get("/api/result")
    def find_result() -> Response:
        keys = request.args.getlist("sha256")
        if len(keys) != 1 or not KEY_PATTERN.fullmatch(keys[0]):
            raise BadRequest("sha256 must be given once, as 64 lower-case hexadecimal digits.")
        options = read_options(request.args.to_dict(flat=False), besides={"sha256"})
        name = runner.result_name(keys[0], options)
        return jsonify(name=name, url=result_url(name), exists=runner.cache.contains(name))

    def absolute(path: str) -> str:
        base = settings.public_url or iri_to_uri(request.url_root).rstrip("/")
        return base + path

    def result_url(name: str) -> str:
        return absolute(f"/cache/{name}")

    job_routes = JobRoutes(runner, result_url, lambda ticket: absolute(f"/api/jobs/{ticket}"))
    job_routes.install(app)

    @app.get("/cache/<name>")
    def cached_result(name: str) -> Response:
        parts = ResultName.parse(name)
        stored = runner.cache.open(name) if parts else None
        if stored is None and parts and runner.cache.contains(name):
            raise NotStored("The result cannot be read now.", RESULT_RETRY_SECONDS)
        if stored is None or parts is None:
            raise ResultNotFound("No result has this name; it may have been cleaned up.")
        content_type = parts.format.media_type
        status = evaluate_preconditions(request, stored.note.etag, stored.modified)
        if status is not None or request.method == "HEAD":
            stored.file.close()
        if status == 412:
            return make_problem(
                412, "precondition_failed", "The result is not the one that the request asks for."
            )
        if status == 304:
            response = Response(status=304)
        elif request.method == "HEAD":
            response = Response(content_type=content_type)
            response.content_length = stored.note.length
        else:
            response = send_result(stored, stored.note.length, content_type)
        response.last_modified = stored.modified  # type: ignore[assignment]  # takes seconds too
        response.headers["Cross-Origin-Resource-Policy"] = "cross-origin"
        set_cache_policy("enhanced_image", stored.note.etag)
        return response

    @app.get("/api/health")
    def health() -> Response:
        set_cache_policy("live_status")
        model = runner.model_loader.model
        return jsonify(
            status="healthy",
            service="super-resolution",
            timestamp=utc_now(),
            version=VERSION,
            model=settings.model_path.name,
            model_sha256=model.model_sha256 if model else None,
            engine=model.profile.engine if model else None,
            sandbox=runner.resources.codec.sandbox.locks,
        )

    @app.get("/api/ready")
    def ready() -> Response:
        set_cache_policy("live_status")
        runner.check_ready()
        return jsonify(status="ready", timestamp=utc_now())

    @app.get("/api/stats")
    def stats() -> Response:
        return jsonify(
            cache_dir=settings.cache_dir.name,
            model_loaded=runner.model_loader.model is not None,
            service_uptime=round(time.monotonic() - started_at, 1),
            timestamp=utc_now(),
            **runner.statistics(),
        )


def prefers_json(pictures: Iterable[str]) -> bool:
    """Tell whether the client wants JSON rather than a picture; a tie gives the picture."""
    # Without parameters: "application/json; charset=utf-8" asks for JSON.
    accepted = MIMEAccept(
        (kind.partition(";")[0].strip(), quality) for kind, quality in request.accept_mimetypes
    )
    json_quality = accepted.quality("application/json")
    return all(json_quality > accepted.quality(each) for each in pictures)


def send_result(content: StoredResult | memoryview, length: int, content_type: str) -> Response:
    """Answer with a result's bytes; gunicorn hands a file to the kernel's sendfile."""
    if isinstance(content, StoredResult):
        body = wrap_file(request.environ, content.file)
        response = Response(body, direct_passthrough=True, content_type=content_type)
    else:
        # In pieces: a copy for each of those who wait for the same result would fill the memory.
        starts = range(0, length, READ_CHUNK_BYTES)
        body = (bytes(content[start : start + READ_CHUNK_BYTES]) for start in starts)
        response = Response(body, content_type=content_type)
    response.content_length = length
    return response


def disposition(file_name: str, options: Options) -> str:
    """Return a Content-Disposition that shows the picture and names it for saving (RFC 6266)."""
    if file_name.isascii():
        return f'inline; filename="{file_name}"'
    encoded = quote(file_name, safe="")
    return f"inline; filename=\"image{options.suffix}\"; filename*=UTF-8''{encoded}"


def run_server() -> None:
    """Serve with gunicorn and its configuration file beside this one: `python app.py`."""
    from gunicorn.app.wsgiapp import WSGIApplication

    sys.argv = ["gunicorn", "--config", str(PROJECT_DIR / "gunicorn.conf.py"), "app:app"]
    WSGIApplication("%(prog)s [OPTIONS]").run()


if __name__ == "__main__":
    run_server()
else:
    app = create_app()
