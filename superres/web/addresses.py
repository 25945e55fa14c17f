"""Absolute addresses of what the service offers, as clients reach it."""

from flask import request
from werkzeug.urls import iri_to_uri

from superres.settings import Settings


class Addresses:
    """Makes addresses below `SR_PUBLIC_URL`, else below the one that the request came to."""

    def __init__(self, settings: Settings) -> None:
        self._public_url = settings.public_url

    def result(self, name: str) -> str:
        """Return where a result is, by its name."""
        return f"{self._base()}/cache/{name}"

    def job(self, ticket: str) -> str:
        """Return where a job's status is."""
        return f"{self._base()}/api/jobs/{ticket}"

    def _base(self) -> str:
        return self._public_url or iri_to_uri(request.url_root).rstrip("/")
