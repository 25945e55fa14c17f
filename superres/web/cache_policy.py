"""A view's choice of cache policy, from which `cache_headers.py` makes the headers."""

from typing import NamedTuple

from flask import g


class ResponseFreshness(NamedTuple):
    """How long a response is fresh, if not for as long as others of its type.

    Attributes
    ----------
    lifetime, age : in seconds; it is fresh until they are equal
    extensions : further directives, each after a comma
    """

    lifetime: int
    age: int
    extensions: str = ""


class CachePolicy(NamedTuple):
    """What a view has chosen.

    Attributes
    ----------
    resource_type : a key of `cache_headers.CACHE_CONTROL`
    content_hash : the strong entity tag, without quotes
    """

    resource_type: str
    content_hash: str | None = None
    freshness: ResponseFreshness | None = None


def set_cache_policy(
    resource_type: str, content_hash: str | None = None, freshness: ResponseFreshness | None = None
) -> None:
    """Choose the cache policy for the current request's response: see `CachePolicy`."""
    g.cache_policy = CachePolicy(resource_type, content_hash, freshness)


def chosen_policy() -> CachePolicy | None:
    """Return what the current request's view has chosen."""
    policy: CachePolicy | None = g.get("cache_policy")
    return policy
