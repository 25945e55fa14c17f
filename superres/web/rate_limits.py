"""Rate limits per client, for requests and pixels, counted by `limits`.

A client is the owner of an API key, or else an IP address; for IPv6, the /64 network that one
subscriber has.
"""

import contextlib
import ipaddress
import logging
import math
import re
import time
from collections.abc import Iterator
from importlib.util import find_spec
from typing import cast

from flask import Flask, Response, g, request
from limits import RateLimitItem, storage
from limits.errors import ConfigurationError, StorageError
from limits.storage.base import SlidingWindowCounterSupport
from limits.strategies import SlidingWindowCounterRateLimiter

from superres.errors import ConfigError, RateLimited
from superres.excess import show_amount
from superres.service.charges import FREE, Charge, Reservation
from superres.settings import Settings
from superres.web.access import is_guarded

IPV6_NETWORK_BITS = 64
HOST_PATTERN = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\](?::[0-9]+)?|([0-9.]+):[0-9]+)")
STORE_TIMEOUT_SECONDS = 1.0
# Nothing is refunded to a window that ends this soon: if it ended between the check and the refund,
# the next window's count would become negative.
LEAST_WINDOW_LEFT_SECONDS = 1.0
# A store that does not respond is retried after this; until then requests do not wait for it.
DOWN_SECONDS = 5.0

logger = logging.getLogger(__name__)


def client_name() -> str:
    """Return the client that the current request counts for."""
    if "api_key_name" in g:
        return f"key {g.api_key_name}"
    address = request.remote_addr or ""
    try:
        # Some proxies include the client's port.
        with_port = HOST_PATTERN.fullmatch(address)
        ip = ipaddress.ip_address(with_port[1] or with_port[2] if with_port else address)
    except ValueError:
        return address
    if ip.version == 4:
        return str(ip)
    if ip.ipv4_mapped is not None:
        return str(ip.ipv4_mapped)
    return str(ipaddress.ip_network((ip, IPV6_NETWORK_BITS), strict=False))


class Limit:
    """A rate limit per client.

    Parameters
    ----------
    name : of what is counted
    item : the amount and the time
    """

    whose = "One client"

    def __init__(
        self, name: str, item: RateLimitItem, strategy: SlidingWindowCounterRateLimiter
    ) -> None:
        self.name = name
        self._item = item
        self._strategy = strategy

    def client(self) -> str:
        """Return whom the current request counts for."""
        return client_name()

    def _cost(self, amount: int) -> int:
        # A single request above the limit is let through if nothing else has been counted.
        return min(amount, self._item.amount)

    def spend(self, amount: int) -> bool:
        """Charge the current request's client; False if that would exceed the limit."""
        cost = self._cost(amount)
        return self._strategy.hit(self._item, self.name, self.client(), cost=cost)

    def give_back(self, amount: int, client: str, seconds_ago: float) -> None:
        """Refund what was spent.

        If the window that it was counted in has ended, or is about to, it stays counted: it fades
        with that window, and must not be subtracted from another one.
        """
        expiry, cost = self._item.get_expiry(), self._cost(amount)
        before, _, now, now_seconds = self._read_window(client)
        window_left, window_age = now_seconds - expiry, 2 * expiry - now_seconds
        # In Redis, the first amount counted opens the window, and is as old as the window.
        is_same_window = window_age > seconds_ago or (before == 0 and seconds_ago < expiry)
        if is_same_window and window_left > LEAST_WINDOW_LEFT_SECONDS and now >= cost:
            # `limits` has no method for refunds; its stores apply a negative cost atomically, too.
            self._strategy.hit(self._item, self.name, client, cost=-cost)

    def _read_window(self, client: str) -> tuple[int, float, int, float]:
        store = cast(SlidingWindowCounterSupport, self._strategy.storage)
        key = self._item.key_for(self.name, client)
        return store.get_sliding_window(key, self._item.get_expiry())

    @property
    def policy(self) -> str:
        """The limit, as in `RateLimit-Policy`."""
        return f'"{self.name}";q={self._item.amount};w={self._item.get_expiry()}'

    def explain(self, amount: int) -> str:
        """Return what a client may have, and what it asks for."""
        multiples, unit = self._item.multiples, self._item.GRANULARITY.name
        window = f"per {unit}" if multiples == 1 else f"in {multiples} {unit}s"
        if self.name != "pixels":
            return f"{self.whose} may send {self._item.amount:,} {self.name} {window}."
        allowed, asked = show_amount(self._item.amount, "pixels"), show_amount(amount, "pixels")
        return f"{self.whose} may have {allowed} computed {window}; this image counts {asked}."

    def describe(self) -> str:
        """Return what is left, and in how many seconds all will be, as in `RateLimit`."""
        stats = self._strategy.get_window_stats(self._item, self.name, self.client())
        return f'"{self.name}";r={max(stats.remaining, 0)};t={self.wait(self._item.amount)}'

    def wait(self, amount: int) -> int:
        """Return the seconds until the client may spend an amount.

        The count is the current window's, plus the previous window's, whose weight shrinks to 0
        until the current one ends: `limits` only tells when a single unit becomes available.
        """
        expiry = self._item.get_expiry()
        # Fractions of the count do not matter: it must be below this.
        most = self._item.amount - self._cost(amount) + 1
        before, before_seconds, now, now_seconds = self._read_window(self.client())
        if now < most:
            seconds = before_seconds - (most - now) * expiry / before if before else 0.0
        else:
            # The current window becomes the previous one, and then its weight has to shrink.
            seconds = now_seconds - expiry + expiry * (1 - most / now)
        return max(math.floor(seconds) + 1, 1)


class SharedLimit(Limit):
    """A rate limit for all clients together; it needs no request."""

    whose = "All clients"

    def client(self) -> str:
        """Return the name for all."""
        return "all"


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
