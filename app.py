"""The Flask application: `create_app` assembles its parts, and `python app.py` serves it."""

import logging
import os
import time
from dataclasses import replace

from flask import Flask, Response, g, request

from cache_headers import install_cache_headers
from super_resolution import SuperResolution
from superres.engines.dask_tiles import load_on_cluster
from superres.engines.model_files import hash_model
from superres.engines.model_loader import ModelLoader
from superres.engines.opencv_engine import make_opencv_engine
from superres.engines.openvino_engine import choose_fastest_engine
from superres.engines.torch_engine import choose_torch_engine
from superres.engines.upscaler import Upscaler
from superres.errors import ModelError
from superres.service.runner import Runner
from superres.settings import Settings
from superres.temporary_files import keep_temporary_files_on_disk
from superres.web.access import install_access
from superres.web.addresses import Addresses
from superres.web.api_docs import install_api_docs
from superres.web.capabilities import install_capabilities
from superres.web.enhance_routes import EnhanceRoutes
from superres.web.forms import FormRequest
from superres.web.image_routes import ImageRoutes
from superres.web.job_routes import JobRoutes
from superres.web.metrics import install_metrics
from superres.web.preview_routes import PreviewRoutes
from superres.web.problems import install_problems
from superres.web.rate_limits import RateLimits
from superres.web.request_log import install_request_log
from superres.web.result_routes import ResultRoutes
from superres.web.status_routes import StatusRoutes
from superres.web.web_pages import install_web_pages

logger = logging.getLogger(__name__)

# A form has the image and a few options.
MAX_FORM_PARTS = 32
NO_PAGE = "default-src 'none'; frame-ancestors 'none'"


def create_app(settings: Settings | None = None, model_loader: ModelLoader | None = None) -> Flask:
    """Create the application; its runner's `start`, or the first upload, loads the model.

    Parameters
    ----------
    settings : defaults to those of the environment
    model_loader : defaults to one that loads the models that the settings name

    Raises
    ------
    ConfigError
        The environment has invalid settings, or one names what cannot be used.
    ModelError
        The restoring model's file is missing or damaged.
    """
    settings = settings or Settings.from_env(os.environ)
    keep_temporary_files_on_disk(settings.state_dir / "temporary")
    app = Flask(__name__, static_folder=None)
    app.request_class = FormRequest
    app.config["MAX_CONTENT_LENGTH"] = settings.max_body_bytes
    app.config["MAX_FORM_PARTS"] = MAX_FORM_PARTS
    runner = app.extensions["runner"] = Runner(settings, model_loader or find_models(settings))
    # Hooks on responses run in reverse: the log, the first here, sees what all others have set, and
    # cache headers have the last word over CORS, keys and limits.
    install_request_log(app)
    app.after_request(finish_request)
    addresses = Addresses(settings)
    rate_limits = RateLimits(settings)
    jobs = JobRoutes(runner, addresses)
    EnhanceRoutes(runner, jobs, addresses, rate_limits.charge).install(app)
    PreviewRoutes(runner, rate_limits.charge).install(app)
    install_metrics(
        app,
        runner,
        {
            "sr_api_keys_stale": lambda: keys is not None and keys.are_stale,
            "sr_rate_limits_down": lambda: rate_limits.are_down,
        },
    )
    install_cache_headers(app)
    keys = install_access(app, settings)
    rate_limits.install(app)
    install_problems(app)
    jobs.install(app)
    ResultRoutes(runner, addresses).install(app)
    if settings.url_key:
        ImageRoutes(runner, rate_limits).install(app)
    StatusRoutes(runner).install(app)
    install_capabilities(app, runner)
    install_web_pages(app, settings)
    install_api_docs(app)
    return app


def find_models(settings: Settings) -> ModelLoader:
    """Return what loads the models that the settings name."""
    path = settings.restore_model_path
    if path is None:
        return ModelLoader(lambda: load_model(settings))

    def load_restoring(beside: Upscaler) -> Upscaler:
        engine = make_opencv_engine(path)
        if beside.profile.engine == "openvino" and engine.profile.golden_output:
            engine = choose_fastest_engine(path, is_faster=True)
        elif beside.profile.engine == "torch":  # and its GPU has not failed since
            try:
                engine = choose_torch_engine(path, settings.device)
            except ModelError as error:  # another network, which only OpenCV can run
                logger.warning("%s", error)
                engine = replace(engine, fallback_reason=str(error))
        else:  # they share the reason, too
            engine = replace(engine, fallback_reason=beside.engine.fallback_reason)
        return Upscaler(path, engine, beside=beside)

    hash_model(path)  # a path that is wrong is told at start
    return ModelLoader(lambda: load_model(settings), load_restoring)


def load_model(settings: Settings) -> Upscaler:
    """Load the model of the default mode into the engine that the settings name."""
    if settings.dask_scheduler:
        return load_on_cluster(settings.dask_scheduler, settings.model_path, settings.lanes)
    if settings.engine == "opencv":
        return SuperResolution(settings.model_path, settings.lanes)
    if settings.engine == "torch":
        engine = choose_torch_engine(settings.model_path, settings.device)
    else:
        engine = choose_fastest_engine(settings.model_path)
    return Upscaler(settings.model_path, engine, settings.lanes)


def finish_request(response: Response) -> Response:
    """Set the headers of every response, and those that only uncached ones may have."""
    response.headers["X-Content-Type-Options"] = "nosniff"
    # Only the pages, which set their own policies, may be rendered as pages.
    response.headers.setdefault("Content-Security-Policy", NO_PAGE)
    if request.path.startswith("/api/"):
        response.headers["X-Request-ID"] = g.request_id
        response.headers["X-Process-Time"] = f"{time.perf_counter() - g.started:.3f}"
    return response


if __name__ == "__main__":
    from superres.server.start import start_server

    start_server()
else:
    app = create_app()
