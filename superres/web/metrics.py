"""Prometheus metrics at `/metrics`: requests are counted as they end, the rest on each scrape."""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping

from flask import Flask, Response, g, request
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    ProcessCollector,
)
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from superres import __version__
from superres.errors import DatabaseDown, ServiceError
from superres.service.runner import Runner
from superres.web.cache_policy import set_cache_policy

# From a cache hit to the longest time that a request may wait, in seconds.
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 240)
# Clients may send any method, and each would be a separate time series.
METHODS = frozenset({"GET", "HEAD", "POST", "DELETE", "OPTIONS"})

# Statistic of the runner -> name and help of its metric.
GAUGES = {
    "cache_size": ("sr_cache_results", "Stored results."),
    "cache_bytes": ("sr_cache_bytes", "Disk space that stored results take."),
    "spool_bytes": ("sr_spool_bytes", "Disk space that uploads of accepted jobs take."),
    "queue_length": ("sr_queue_pictures", "Images that are waiting or being computed."),
    "queue_pixels": ("sr_queue_pixels", "Input pixels that are waiting or being computed."),
    "waiting_requests": ("sr_waiting_requests", "Requests that wait for a result."),
    "decoded_bytes": ("sr_decoded_bytes", "Memory that images being processed hold."),
    "lanes": ("sr_lanes", "Tiles that can be computed at once."),
    "lanes_busy": ("sr_lanes_busy", "Tiles that are being computed."),
}
COUNTERS = {
    "cache_hits": ("sr_cache_hits", "Uploads whose result was stored."),
    "cache_misses": ("sr_cache_misses", "Uploads whose result was not stored."),
    "cache_evictions": (
        "sr_cache_evictions",
        "Results evicted to keep the cache within its limits.",
    ),
    "cache_write_errors": ("sr_cache_write_errors", "Results that could not be stored."),
    "cache_damaged": ("sr_cache_damaged", "Stored results found damaged and removed."),
    "store_errors": ("sr_store_errors", "Failures of the shared store."),
    "inferences": ("sr_inferences", "Images computed."),
    "inference_pixels": ("sr_inference_pixels", "Input pixels of the images computed."),
    "inference_seconds": (
        "sr_inference_seconds",
        "Time of images on the lanes, including waiting.",
    ),
    "lane_seconds": ("sr_lane_seconds", "Total time that lanes have spent computing."),
    "sandbox_deaths": ("sr_sandbox_deaths", "Images that killed their sandboxed process."),
    "jobs_unavailable": ("sr_jobs_unavailable", "Times that the jobs table could not be used."),
    "job_faults": (
        "sr_job_faults",
        "Asynchronous jobs that failed through a fault of the service.",
    ),
    "source_hits": ("sr_source_hits", "Images below /image/ whose source was fresh."),
    "source_stale_hits": (
        "sr_source_stale_hits",
        "Old images sent while the new one was made, or their source did not answer.",
    ),
    "source_fetches": ("sr_source_fetches", "Sources fetched."),
    "source_revalidations": ("sr_source_revalidations", "Sources asked whether they have changed."),
}


class RunnerCollector(Collector):
    """Collects the runner's statistics on each scrape."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner

    def collect(self) -> Iterator[Metric]:
        """Yield the current values."""
        yield InfoMetricFamily("sr_build", "The service.", {"version": __version__})
        statistics = self._runner.statistics()
        for statistic, (name, text) in GAUGES.items():
            yield GaugeMetricFamily(name, text, statistics[statistic])
        for statistic, (name, text) in COUNTERS.items():
            yield CounterMetricFamily(name, text, statistics[statistic])
        loader = self._runner.model_loader
        yield GaugeMetricFamily("sr_ready", "1: uploads can be computed.", self._runner.is_ready())
        if loader.model is not None:
            labels = {
                "name": loader.model.model_path.name,
                "sha256": loader.model.model_sha256,
                "engine": loader.model.profile.engine,
            }
            yield InfoMetricFamily("sr_model", "The model.", labels)
            yield GaugeMetricFamily(
                "sr_seconds_per_pixel",
                "Recent time per input pixel with all lanes busy.",
                loader.model.speed.now,
            )
        failures = CounterMetricFamily(
            "sr_source_failures", "Sources that gave no image, by code.", labels=["code"]
        )
        for code in all_codes():
            number = self._runner.resources.counters[f"source_failures_{code}"]
            if number:
                failures.add_metric([code], number)
        yield failures
        jobs = GaugeMetricFamily("sr_jobs", "Rows of the jobs table by state.", labels=["state"])
        pixels = GaugeMetricFamily(
            "sr_jobs_pixels", "Input pixels of jobs that have not ended.", labels=["state"]
        )
        with contextlib.suppress(DatabaseDown):  # no value is better than an old one
            for state, number in self._runner.jobs.count_states().items():
                jobs.add_metric([state], number)
            for state, number in self._runner.jobs.open_pixels().items():
                pixels.add_metric([state], number)
        yield from (jobs, pixels)


def all_codes(kind: type[ServiceError] = ServiceError) -> set[str]:
    """Return the codes of all the service's errors."""
    return {kind.code}.union(*map(all_codes, kind.__subclasses__()))


def install_metrics(app: Flask, runner: Runner, faults: Mapping[str, Callable[[], bool]]) -> None:
    """Count responses, and serve `/metrics`.

    Parameters
    ----------
    faults : faults of other parts of the service: name of the metric -> whether there is one now
    """
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    GCCollector(registry=registry)
    registry.register(RunnerCollector(runner))
    labels = ["route", "method"]
    requests = Counter("sr_requests", "Responses.", [*labels, "status"], registry=registry)
    seconds = Histogram(
        "sr_request_seconds", "Time to a response.", labels, buckets=BUCKETS, registry=registry
    )
    refused = Counter("sr_refused", "Errors returned, by code.", ["code"], registry=registry)
    for code in all_codes():
        # Start at 0, so that the first error is an increase.
        refused.labels(code)
    for name, is_there in faults.items():
        Gauge(name, "1: see the log.", registry=registry).set_function(is_there)

    @app.after_request
    def count(response: Response) -> Response:
        route = request.url_rule.rule if request.url_rule else "none"
        method = request.method if request.method in METHODS else "other"
        requests.labels(route, method, response.status_code).inc()
        seconds.labels(route, method).observe(time.perf_counter() - g.started)
        if "problem_code" in g:
            refused.labels(g.problem_code).inc()
        return response

    @app.get("/metrics")
    def metrics() -> Response:
        set_cache_policy("live_status")
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        return Response(encode(registry), content_type=content_type)
