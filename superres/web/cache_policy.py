"""What a view says of its answer, for `cache_headers.py` to make headers of."""

from flask import g


def set_cache_policy(resource_type: str, content_hash: str | None = None) -> None:
    """Name the type of the answer that the current request gets."""
    g.cache_policy = (resource_type, content_hash)


def asked_policy() -> tuple[str, str | None] | None:
    """Return what the current request's view has named: type and content hash."""
    policy: tuple[str, str | None] | None = g.get("cache_policy")
    return policy
