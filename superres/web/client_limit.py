"""One rate limit: whom a request counts for, what is left of it, and when there is enough again.

A client is the owner of an API key, or else an IP address; for IPv6, the /64 network that one
subscriber has.
"""

import ipaddress
import math
import re
from typing import cast

from flask import g, request
from limits import RateLimitItem
from limits.storage.base import SlidingWindowCounterSupport
from limits.strategies import SlidingWindowCounterRateLimiter

from superres.excess import show_amount

IPV6_NETWORK_BITS = 64
HOST_PATTERN = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\](?::[0-9]+)?|([0-9.]+):[0-9]+)")
# Nothing is refunded to a window that ends this soon: if it ended between the check and the refund,
# the next window's count would become negative.
LEAST_WINDOW_LEFT_SECONDS = 1.0


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
