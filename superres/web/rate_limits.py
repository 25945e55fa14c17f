"""Rate limits for requests and pixels: those that are set, counted by `limits`."""

import contextlib
import logging
import time
from collections.abc import Iterator
from importlib.util import find_spec

from flask import Flask, Response
from limits import storage
from limits.errors import ConfigurationError, StorageError
from limits.strategies import SlidingWindowCounterRateLimiter

from superres.errors import ConfigError, RateLimited
from superres.service.charges import FREE, Charge, Reservation
from superres.settings import Settings
from superres.web.access import is_guarded
from superres.web.client_limit import Limit, SharedLimit

STORE_TIMEOUT_SECONDS = 1.0
# A store that does not respond is retried after this; until then requests do not wait for it.
DOWN_SECONDS = 5.0

logger = logging.getLogger(__name__)


class PixelReservation(Reservation):
    """Pixels charged to whom a limit counts for."""

    def __init__(self, limits: "RateLimits", limit: Limit, pixels: int) -> None:
        self._limits = limits
        self._limit = limit
        self._pixels = pixels
        self._client = limit.client()
        self._since = time.monotonic()
        self._counts = True

    def give_back(self) -> None:
        """Refund the pixels."""
        if self._counts and not self._limits.are_down:
            with self._limits.tolerate_outage():
                seconds_ago = time.monotonic() - self._since
                self._limit.give_back(self._pixels, self._client, seconds_ago)
        self._counts = False


class PixelCharge(Charge):
    """Charges whom a limit counts for."""

    def __init__(self, limits: "RateLimits", limit: Limit) -> None:
        self._limits = limits
        self._limit = limit

    def reserve(self, pixels: int) -> Reservation:
        """Charge an image; the store checks and counts atomically."""
        # Created first: it must not be younger than what is counted.
        reservation = PixelReservation(self._limits, self._limit, pixels)
        return reservation if self._limits.spend(self._limit, pixels) else Reservation()


class RateLimits:
    """The limits that are set, of `requests` and `pixels`, if any.

    Headers are those of draft-ietf-httpapi-ratelimit-headers-10.

    Raises
    ------
    ConfigError
        `limits` does not support the store.
    """

    def __init__(self, settings: Settings) -> None:
        store = settings.rate_limit_store
        timeouts = dict.fromkeys(
            ("socket_timeout", "socket_connect_timeout"), STORE_TIMEOUT_SECONDS
        )
        if store.startswith("redis") and find_spec("redis") is None:
            raise ConfigError("SR_RATE_LIMIT_STORE needs the extra redis: pip install '.[redis]'")
        try:
            backend = storage.storage_from_string(
                store, wrap_exceptions=True, **(timeouts if store.startswith("redis") else {})
            )
        except ConfigurationError as error:
            raise ConfigError(f"SR_RATE_LIMIT_STORE: {error}") from None
        strategy = SlidingWindowCounterRateLimiter(backend)
        amounts = {"requests": settings.rate_limit_requests, "pixels": settings.rate_limit_pixels}
        self._limits = {
            name: Limit(name, item, strategy) for name, item in amounts.items() if item is not None
        }
        images = settings.rate_limit_image_requests
        self._images = None if images is None else Limit("images", images, strategy)
        pixels = settings.rate_limit_image_pixels
        self._image_pixels = None if pixels is None else SharedLimit("pixels", pixels, strategy)
        self._down_until = 0.0

    @property
    def are_down(self) -> bool:
        """Whether the store does not respond, so that limits are not enforced."""
        return time.monotonic() < self._down_until

    @contextlib.contextmanager
    def tolerate_outage(self) -> Iterator[None]:
        """Continue if the store does not respond: better no limits than no service."""
        try:
            yield
        except StorageError as error:
            self._down_until = time.monotonic() + DOWN_SECONDS
            logger.error("rate limits are not enforced: %s", error.storage_error)

    def spend(self, limit: Limit, amount: int) -> bool:
        """Charge the current request's client; False if limits are not enforced now.

        Raises
        ------
        RateLimited
            The limit would be exceeded.
        """
        if self.are_down:
            return False
        with self.tolerate_outage():
            if not limit.spend(amount):
                raise refuse(limit, amount)
            return True
        return False

    @property
    def charge(self) -> Charge:
        """Charges images to the current request's client."""
        limit = self._limits.get("pixels")
        return FREE if limit is None else PixelCharge(self, limit)

    @property
    def image_charge(self) -> Charge:
        """Charges images below /image/, whoever asks for them: their addresses are signed."""
        return FREE if self._image_pixels is None else PixelCharge(self, self._image_pixels)

    def count_image(self) -> None:
        """Count the current request for an image below /image/.

        Raises
        ------
        RateLimited
            Its client has exceeded the limit.
        """
        if self._images is not None:
            self.spend(self._images, 1)

    def install(self, app: Flask) -> None:
        """Register the hooks."""
        if not self._limits:
            return

        @app.before_request
        def count_request() -> None:
            requests = self._limits.get("requests")
            if requests is not None and is_guarded():
                self.spend(requests, 1)

        @app.after_request
        def tell_limits(response: Response) -> Response:
            if is_guarded() and not self.are_down:
                limits = self._limits.values()
                with self.tolerate_outage():
                    response.headers["RateLimit"] = ", ".join(each.describe() for each in limits)
                    response.headers["RateLimit-Policy"] = ", ".join(each.policy for each in limits)
            return response


def refuse(limit: Limit, amount: int) -> RateLimited:
    """Make the error for a client that exceeds a limit."""
    seconds = limit.wait(amount)
    return RateLimited(f"{limit.explain(amount)} Try again in {seconds} seconds.", seconds)
