"""Status of the service: `GET /api/health`, `/api/ready` and `/api/stats`."""

import time

from flask import Flask, Response, jsonify

from superres import __version__
from superres.images.options import RESTORE
from superres.service.runner import Runner
from superres.web.cache_policy import set_cache_policy
from superres.web.problems import utc_now


class StatusRoutes:
    """Reports the status of the service."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._started_at = time.monotonic()

    def install(self, app: Flask) -> None:
        """Register the routes."""
        app.get("/api/health")(self.show_health)
        app.get("/api/ready")(self.show_ready)
        app.get("/api/stats")(self.show_statistics)

    def show_health(self) -> Response:
        """Respond as long as the process is alive."""
        set_cache_policy("live_status")
        loader, settings = self._runner.model_loader, self._runner.settings
        model, restoring = loader.model, loader.models.get(RESTORE)
        path = settings.restore_model_path
        return jsonify(
            status="healthy",
            service="super-resolution",
            timestamp=utc_now(),
            version=__version__,
            model=settings.model_path.name,
            model_sha256=model.model_sha256 if model else None,
            engine=model.profile.engine if model else None,
            engine_fallback=model.engine.fallback_reason if model else None,
            restore_engine=restoring.profile.engine if restoring else None,
            restore_engine_fallback=restoring.engine.fallback_reason if restoring else None,
            restore_model=path.name if path else None,
            restore_model_sha256=restoring.model_sha256 if restoring else None,
            sandbox=self._runner.resources.codec.sandbox.locks,
        )

    def show_ready(self) -> Response:
        """Respond with success if uploads can be computed."""
        set_cache_policy("live_status")
        self._runner.check_ready()
        return jsonify(status="ready", timestamp=utc_now())

    def show_statistics(self) -> Response:
        """Respond with statistics since the start."""
        return jsonify(
            cache_dir=self._runner.settings.cache_dir.name,
            model_loaded=self._runner.model_loader.model is not None,
            service_uptime=round(time.monotonic() - self._started_at, 1),
            timestamp=utc_now(),
            **self._runner.statistics(),
        )
