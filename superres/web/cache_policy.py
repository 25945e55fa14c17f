"""A view's choice of cache policy, from which `cache_headers.py` makes the headers."""

from flask import g


def set_cache_policy(resource_type: str, content_hash: str | None = None) -> None:
    """Choose the cache policy for the current request's response."""
    g.cache_policy = (resource_type, content_hash)


def asked_policy() -> tuple[str, str | None] | None:
    """Return what the current request's view has chosen: type and content hash."""
    policy: tuple[str, str | None] | None = g.get("cache_policy")
    return policy
