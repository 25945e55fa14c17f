"""`GET /image/<signature>/<options>/<source>.<format>`: an image by its address, for `<img>`."""

import time
from dataclasses import replace
from http import HTTPStatus
from urllib.parse import unquote, urlsplit

from flask import Flask, Response, redirect, request

from superres.errors import BadSignature, ServiceError, SourceRefused
from superres.service.runner import Runner
from superres.service.sources import SourcedResult, Sources
from superres.sources.fetcher import Fetcher
from superres.sources.signed_address import (
    AUTO,
    OFFERED,
    PREFIX,
    ImageRequest,
    make_loop_id,
    read_address,
)
from superres.store.result_name import ResultName
from superres.web.cache_policy import ResponseFreshness, set_cache_policy
from superres.web.disposition import make_disposition
from superres.web.rate_limits import RateLimits
from superres.web.result_routes import answer_conditions
from superres.web.uploads import file_stem, has_left


class ImageRoutes:
    """Sends images whose addresses are signed with one of the service's keys."""

    def __init__(self, runner: Runner, rate_limits: RateLimits) -> None:
        settings = runner.settings
        self._keys = settings.url_key
        self._rate_limits = rate_limits
        self._loop_id = make_loop_id(self._keys[0])
        fetcher = Fetcher(settings.max_upload_bytes, settings.source_networks, self._loop_id)
        self._sources = Sources(runner, fetcher, rate_limits.image_charge)

    def install(self, app: Flask) -> None:
        """Register the route."""
        app.get(f"{PREFIX}<signature>/<options>/<file>")(self.send_image)
        app.get(f"{PREFIX}<path:_rest>")(self.refuse_form)
        app.get(PREFIX)(self.refuse_form)

    def refuse_form(self, _rest: str = "") -> Response:
        """Refuse an address of another form."""
        raise BadSignature(
            "Addresses of images are /image/<signature>/<options>/<source>.<format>, as "
            "`superres sign` makes them."
        )

    def send_image(self, signature: str, options: str, file: str) -> Response:
        """Respond with an image, or 304 if the client's copy is still good."""
        asked = read_address(self._keys, signature, options, file)
        if self._loop_id in request.headers.get("CDN-Loop", ""):
            raise SourceRefused("The source's address leads back to this service.")
        if asked.format == AUTO:
            asked = replace(asked, media_types=accepted_types())
        try:
            self._rate_limits.count_image()
            found = self._sources.get(asked, lambda: has_left(request))
        except SourceRefused:
            raise
        except ServiceError:
            if not asked.falls_back:
                raise
            found = None
        response = self._go_to(asked) if found is None else self._answer(asked, found)
        response.headers["Cross-Origin-Resource-Policy"] = "cross-origin"
        if asked.format == AUTO:
            response.vary.add("Accept")
        return response

    def _go_to(self, asked: ImageRequest) -> Response:
        """Send the client to the source while there is no result."""
        set_cache_policy("live_status")
        response = redirect(asked.source)
        assert isinstance(response, Response)
        return response

    def _answer(self, asked: ImageRequest, found: SourcedResult) -> Response:
        info = found.result.info
        name = ResultName.parse(found.result.name)
        assert name is not None
        # A date would not do: an image may have been stored before the one that it replaces.
        response = answer_conditions(found.result.content, info, name.format, modified=None)
        if response.status_code == HTTPStatus.PRECONDITION_FAILED:
            return response
        if response.status_code == HTTPStatus.OK:
            response.headers["Content-Disposition"] = make_disposition(
                name_source(asked.source), f".{name.format.ending}", is_download=False
            )
        if found.freshness.is_forbidden:
            set_cache_policy("live_status")
        else:
            set_cache_policy("sourced_image", info.etag, limit_freshness(asked, found))
        return response


def limit_freshness(asked: ImageRequest, found: SourcedResult) -> ResponseFreshness:
    """Return how long a response is fresh: as long as its source, and its address is valid."""
    now = time.time()
    age = found.freshness.age(now)
    shared, lifetime = found.freshness.lifetime, found.freshness.private_lifetime
    extensions = found.freshness.extensions
    if asked.expires is not None:
        valid = max(age + asked.expires - now, 0)
        shared, lifetime = min(shared, valid), min(lifetime, valid)
        extensions = ", must-revalidate"
    if lifetime < shared:
        extensions = f", s-maxage={int(shared)}{extensions}"
    return ResponseFreshness(int(lifetime), int(age), extensions)


def accepted_types() -> tuple[str, ...]:
    """Return those of the offered media types that the client names.

    Ranges such as `image/*` do not count: browsers that show neither AVIF nor WebP send them, too.
    """
    named = {each.lower() for each, quality in request.accept_mimetypes if quality > 0}
    return tuple(each.media_type for each in OFFERED if each.media_type in named)


def name_source(source: str) -> str:
    """Return the name for a file made from a source: its own, without extension."""
    return file_stem(unquote(urlsplit(source).path))
