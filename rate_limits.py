"""How much one client may ask for: requests and pixels, counted by `limits`.

A client is the owner of an API key, else an address; of IPv6 the network of 64 bits that a single
line has.
"""

import contextlib
import ipaddress
import logging
import math
import time

from flask import Flask, Response, g, request
from limits import RateLimitItem, storage
from limits.errors import ConfigurationError, StorageError
from limits.strategies import SlidingWindowCounterRateLimiter

from access import is_guarded
from errors import ConfigError, RateLimited
from settings import Settings

IPV6_NETWORK_BITS = 64
STORE_TIMEOUT_SECONDS = 1.0

logger = logging.getLogger(__name__)


def client_name() -> str:
    """Return whom the current request is counted for."""
    if "api_key_name" in g:
        return f"key {g.api_key_name}"
    address = request.remote_addr or ""
    try:
        is_ipv6 = ipaddress.ip_address(address).version == 6
    except ValueError:
        return address
    if not is_ipv6:
        return address
    return str(ipaddress.ip_network((address, IPV6_NETWORK_BITS), strict=False))


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

    def spend(self, amount: int) -> None:
        """Count something for the current request's client.

        Raises
        ------
        RateLimited
            There would be too much of it.
        """
        # What alone is more than the limit is let through where nothing else was asked for.
        cost = min(amount, self._item.amount)
        try:
            if self._strategy.hit(self._item, self.name, client_name(), cost=cost):
                return
            seconds = self._left()[1]
        except StorageError:
            # Rather no limits than no service.
            logger.exception("rate limits are not kept")
            return
        raise RateLimited(f"Too many {self.name}; slow down.", seconds)

    @property
    def policy(self) -> str:
        """The limit, as `RateLimit-Policy` tells it."""
        return f'"{self.name}";q={self._item.amount};w={self._item.get_expiry()}'

    def describe(self) -> str:
        """Return what is left, as `RateLimit` tells it."""
        remaining, seconds = self._left()
        return f'"{self.name}";r={remaining};t={seconds}'

    def _left(self) -> tuple[int, int]:
        """Return what is left for the client, and the seconds until all is."""
        stats = self._strategy.get_window_stats(self._item, self.name, client_name())
        return max(stats.remaining, 0), max(math.ceil(stats.reset_time - time.time()), 1)


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
        timeouts = {"socket_timeout": STORE_TIMEOUT_SECONDS} if store.startswith("redis") else {}
        try:
            backend = storage.storage_from_string(store, wrap_exceptions=True, **timeouts)
        except ConfigurationError as error:
            raise ConfigError(f"SR_RATE_LIMIT_STORE={store!r}: {error}") from None
        strategy = SlidingWindowCounterRateLimiter(backend)
        amounts = {"requests": settings.rate_limit_requests, "pixels": settings.rate_limit_pixels}
        self._limits = {
            name: Limit(name, item, strategy) for name, item in amounts.items() if item is not None
        }

    def spend(self, name: str, amount: int) -> None:
        """Count something for the current request's client: see `Limit.spend`."""
        if name in self._limits:
            self._limits[name].spend(amount)

    def install(self, app: Flask) -> None:
        """Register the hooks."""
        if not self._limits:
            return

        @app.before_request
        def count_request() -> None:
            if is_guarded():
                self.spend("requests", 1)

        @app.after_request
        def tell_limits(response: Response) -> Response:
            if is_guarded():
                limits = self._limits.values()
                with contextlib.suppress(StorageError):
                    response.headers["RateLimit"] = ", ".join(each.describe() for each in limits)
                    response.headers["RateLimit-Policy"] = ", ".join(each.policy for each in limits)
            return response
