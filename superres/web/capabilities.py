"""`GET /api/capabilities`: what clients can ask for, what is accepted, and how long it takes."""

from dataclasses import asdict
from typing import Any

from flask import Flask, Response, jsonify

from superres.disk import MEGABYTE
from superres.errors import DatabaseDown
from superres.images.formats import FORMATS, Format
from superres.images.image_codec import MAX_SIDE
from superres.images.input_formats import INPUT_FORMATS
from superres.images.options import DEFAULT_OPTIONS, MAX_QUALITY, list_scales
from superres.service.runner import Runner
from superres.settings import Settings
from superres.web.cache_policy import set_cache_policy


def install_capabilities(app: Flask, runner: Runner) -> None:
    """Register the route, from which pages and programs learn limits that they need not copy."""

    @app.get("/api/capabilities")
    def show_capabilities() -> Response:
        set_cache_policy("live_status")
        settings, model, defaults = runner.settings, runner.model_loader.model, DEFAULT_OPTIONS
        return jsonify(
            api_key_required=settings.api_keys_file is not None,
            modes=[
                {"name": mode, "scales": list_scales(mode)} for mode in runner.model_loader.modes
            ],
            formats=[describe_format(each) for each in FORMATS.values()],
            defaults={
                "mode": defaults.mode,
                "format": defaults.format,
                "scale": defaults.scale,
            },
            inputs=[asdict(each) for each in INPUT_FORMATS],
            limits={
                "upload_bytes": settings.max_upload_bytes,
                "input_pixels": runner.resources.max_input_pixels,
                "input_side": MAX_SIDE,
                "output_pixels": settings.max_output_pixels,
                "sync_seconds": settings.max_sync_seconds,
            },
            retention=describe_retention(settings),
            seconds_per_pixel=model.speed.now if model else None,
            queued_pixels=count_queued(runner),
        )


def count_queued(runner: Runner) -> int:
    """Return the input pixels of all images that wait or are computed, here or elsewhere."""
    try:
        return sum(runner.jobs.open_pixels().values())
    except DatabaseDown:
        return runner.scheduler.queued_pixels


def describe_format(image_format: Format) -> dict[str, Any]:
    """Return a result format's properties; `quality` is null if it is always lossless."""
    default = image_format.default_quality
    return {
        "name": image_format.name,
        "media_type": image_format.media_type,
        "ending": image_format.ending,
        "has_alpha": image_format.has_alpha,
        "has_lossless": image_format.has_lossless,
        "max_side": image_format.max_side,
        "quality": None if default is None else {"min": 1, "max": MAX_QUALITY, "default": default},
    }


def describe_retention(settings: Settings) -> dict[str, int | None]:
    """Return how long what is kept: null in a shared store, whose own rules decide."""
    is_shared = bool(settings.store_url)
    return {
        "result_days": None if is_shared else settings.cache_max_age_days,
        "results_bytes": None if is_shared else settings.cache_max_mb * MEGABYTE,
        "job_seconds": settings.job_ttl_seconds,
    }
