"""Cache policy in one table, applied to every response by one hook.

A view names the type of its response with `set_cache_policy`; the hook has the last word, so that
no error is ever cached.
"""

from email.utils import formatdate
from time import time

from flask import Flask, Response

from superres.web.cache_policy import asked_policy

RESULT_MAX_AGE_SECONDS = 30 * 86400
STATIC_MAX_AGE_SECONDS = 7 * 86400

CACHE_CONTROL = {
    # The name of a result changes with its content, so a cached copy never goes stale.
    "enhanced_image": f"public, max-age={RESULT_MAX_AGE_SECONDS}, immutable",
    "api_response": "no-cache",
    "error_response": "no-store, must-revalidate",
    "static_file": f"public, max-age={STATIC_MAX_AGE_SECONDS}",
    "live_status": "no-store",
}
MAX_AGE_SECONDS = {
    "enhanced_image": RESULT_MAX_AGE_SECONDS,
    "static_file": STATIC_MAX_AGE_SECONDS,
}
CACHE_HINTS = {"enhanced_image": "long-term"}


def get_cache_headers(resource_type: str, content_hash: str | None = None) -> dict[str, str]:
    """Return the cache headers for a type of response.

    Parameters
    ----------
    resource_type : a key of `CACHE_CONTROL`
    content_hash : becomes the strong entity tag
    """
    headers = {"Cache-Control": CACHE_CONTROL[resource_type]}
    if resource_type in MAX_AGE_SECONDS:
        headers["Expires"] = formatdate(time() + MAX_AGE_SECONDS[resource_type], usegmt=True)
    if resource_type in CACHE_HINTS:
        headers["X-Cache-Hint"] = CACHE_HINTS[resource_type]
    if content_hash is not None:
        headers["ETag"] = f'"{content_hash}"'
    return headers


def apply_cache_headers(response: Response) -> Response:
    """Set the response's cache headers: the hook."""
    resource_type, content_hash = asked_policy() or ("api_response", None)
    if response.status_code >= 400:
        resource_type, content_hash = "error_response", None
    response.headers.update(get_cache_headers(resource_type, content_hash))
    return response


def install_cache_headers(app: Flask) -> None:
    """Register the hook."""
    app.after_request(apply_cache_headers)
