"""Absolute URLs of results and jobs, as clients reach them."""

from flask import request
from werkzeug.urls import iri_to_uri

from superres.settings import Settings


class Addresses:
    """Makes URLs below `SR_PUBLIC_URL`, or below the one that the request was sent to."""

    def __init__(self, settings: Settings) -> None:
        self._public_url = settings.public_url

    def result(self, name: str) -> str:
        """Return a result's URL."""
        return f"{self._base()}/cache/{name}"

    def job(self, ticket: str) -> str:
        """Return the URL of a job's status."""
        return f"{self._base()}/api/jobs/{ticket}"

    def _base(self) -> str:
        return self._public_url or iri_to_uri(request.url_root).rstrip("/")
