"""How much one client may ask for: requests and pixels, counted by `limits`.

A client is the owner of an API key, else an address; of IPv6 the network of 64 bits that a single
line has.
"""

import contextlib
import ipaddress
import logging
import math
import re
import time
from collections.abc import Iterator
from typing import cast

from flask import Flask, Response, g, request
from limits import RateLimitItem, storage
from limits.errors import ConfigurationError, StorageError
from limits.storage.base import SlidingWindowCounterSupport
from limits.strategies import SlidingWindowCounterRateLimiter

from superres.errors import ConfigError, RateLimited
from superres.service.charges import FREE, Charge, Reservation
from superres.settings import Settings
from superres.web.access import is_guarded

IPV6_NETWORK_BITS = 64
HOST_PATTERN = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\](?::[0-9]+)?|([0-9.]+):[0-9]+)")
STORE_TIMEOUT_SECONDS = 1.0
# Nothing is given back to a window that ends so soon: it must not end between the look at it and
# the giving, or the next one would count less than nothing.
LEAST_WINDOW_LEFT_SECONDS = 1.0
# A store that does not answer is asked again after this; requests do not wait for it meanwhile.
DOWN_SECONDS = 5.0

logger = logging.getLogger(__name__)


def client_name() -> str:
    """Return whom the current request is counted for."""
    if "api_key_name" in g:
        return f"key {g.api_key_name}"
    address = request.remote_addr or ""
    try:
        # Some proxies write the client's port, too.
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
    """So much of something in so much time, for each client.

    Parameters
    ----------
    name : of what is counted
    item : how much
    """

    def __init__(
        self, name: str, item: RateLimitItem, strategy: SlidingWindowCounterRateLimiter
    ) -> None:
        self.name = name
        self._item = item
        self._strategy = strategy

    def _cost(self, amount: int) -> int:
        # What alone is more than the limit is let through where nothing else was asked for.
        return min(amount, self._item.amount)

    def spend(self, amount: int) -> bool:
        """Count something for the current request's client; False: it would be too much."""
        cost = self._cost(amount)
        return self._strategy.hit(self._item, self.name, client_name(), cost=cost)

    def give_back(self, amount: int, client: str, seconds_ago: float) -> None:
        """Let what was spent count no more.

        Where the window that it was counted in is over, or about to be, it stays counted: it fades
        with that window, and the counter of another one is not its own.
        """
        expiry, cost = self._item.get_expiry(), self._cost(amount)
        before, _, now, now_seconds = self._read_window(client)
        window_left, window_age = now_seconds - expiry, 2 * expiry - now_seconds
        # The first to be counted opens the window, in Redis, and is as old as that.
        is_same_window = window_age > seconds_ago or (before == 0 and seconds_ago < expiry)
        if is_same_window and window_left > LEAST_WINDOW_LEFT_SECONDS and now >= cost:
            # `limits` has no other word for it; its stores take this, too, as one step.
            self._strategy.hit(self._item, self.name, client, cost=-cost)

    def _read_window(self, client: str) -> tuple[int, float, int, float]:
        store = cast(SlidingWindowCounterSupport, self._strategy.storage)
        key = self._item.key_for(self.name, client)
        return store.get_sliding_window(key, self._item.get_expiry())

    @property
    def policy(self) -> str:
        """The limit, as `RateLimit-Policy` tells it."""
        return f'"{self.name}";q={self._item.amount};w={self._item.get_expiry()}'

    def describe(self) -> str:
        """Return what is left, and in how many seconds all will be, as `RateLimit` tells it."""
        stats = self._strategy.get_window_stats(self._item, self.name, client_name())
        return f'"{self.name}";r={max(stats.remaining, 0)};t={self.wait(self._item.amount)}'

    def wait(self, amount: int) -> int:
        """Return the seconds until the client may have something.

        The count is that of the window that runs, plus that of the one before it, of which less
        and less counts until the running one ends: `limits` tells only when one unit comes back.
        """
        expiry = self._item.get_expiry()
        # Fractions of the count do not matter: it must be below this.
        most = self._item.amount - self._cost(amount) + 1
        before, before_seconds, now, now_seconds = self._read_window(client_name())
        if now < most:
            seconds = before_seconds - (most - now) * expiry / before if before else 0.0
        else:
            # The running window becomes the one before, and then its share has to shrink.
            seconds = now_seconds - expiry + expiry * (1 - most / now)
        return max(math.floor(seconds) + 1, 1)


class PixelReservation(Reservation):
    """Pixels that count for the client of the current request."""

    def __init__(self, limits: "RateLimits", limit: Limit, pixels: int) -> None:
        self._limits = limits
        self._limit = limit
        self._pixels = pixels
        self._client = client_name()
        self._since = time.monotonic()
        self._counts = True

    def give_back(self) -> None:
        """Let them count no more."""
        if self._counts and not self._limits.are_down:
            with self._limits.tolerate_outage():
                seconds_ago = time.monotonic() - self._since
                self._limit.give_back(self._pixels, self._client, seconds_ago)
        self._counts = False


class PixelCharge(Charge):
    """The client of the current request pays."""

    def __init__(self, limits: "RateLimits", limit: Limit) -> None:
        self._limits = limits
        self._limit = limit

    def reserve(self, pixels: int) -> Reservation:
        """Count an image; check and count are one step of the store."""
        # First: it must not be younger than what is counted.
        reservation = PixelReservation(self._limits, self._limit, pixels)
        return reservation if self._limits.spend(self._limit, pixels) else Reservation()


class RateLimits:
    """The limits that the settings name, `requests` and `pixels`; none where they name none.

    Headers are those of draft-ietf-httpapi-ratelimit-headers-10.

    Raises
    ------
    ConfigError
        The place where they are counted is none that `limits` knows.
    """

    def __init__(self, settings: Settings) -> None:
        store = settings.rate_limit_store
        timeouts = dict.fromkeys(
            ("socket_timeout", "socket_connect_timeout"), STORE_TIMEOUT_SECONDS
        )
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
        self._down_until = 0.0

    @property
    def are_down(self) -> bool:
        """Whether the store does not answer, so that nobody is limited."""
        return time.monotonic() < self._down_until

    @contextlib.contextmanager
    def tolerate_outage(self) -> Iterator[None]:
        """Rather no limits than no service: go on where the store does not answer."""
        try:
            yield
        except StorageError as error:
            self._down_until = time.monotonic() + DOWN_SECONDS
            logger.error("rate limits are not kept: %s", error.storage_error)

    def spend(self, limit: Limit, amount: int) -> bool:
        """Count something for the current request's client; False: nobody counts now.

        Raises
        ------
        RateLimited
            There would be too much of it.
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
        """What an image costs the current request's client."""
        limit = self._limits.get("pixels")
        return FREE if limit is None else PixelCharge(self, limit)

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
    """Make the error for a client that asks for too much."""
    return RateLimited(f"Too many {limit.name}; slow down.", limit.wait(amount))
