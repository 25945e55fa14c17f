"""Cache policy in one table, applied to every response by one hook.

A view names the type of its response with `set_cache_policy`; the hook has the last word, so that
no error is ever cached.
"""

from email.utils import formatdate
from time import time

from flask import Flask, Response

from superres.web.cache_policy import CachePolicy, ResponseFreshness, chosen_policy

RESULT_MAX_AGE_SECONDS = 30 * 86400
STATIC_MAX_AGE_SECONDS = 7 * 86400

CACHE_CONTROL = {
    # The name of a result changes with its content, so a cached copy never goes stale.
    "enhanced_image": f"public, max-age={RESULT_MAX_AGE_SECONDS}, immutable",
    # Its address stays while its source changes, so it is fresh for as long as the source says.
    "sourced_image": "public, max-age={lifetime}{extensions}",
    "api_response": "no-cache",
    "error_response": "no-store, must-revalidate",
    "static_file": f"public, max-age={STATIC_MAX_AGE_SECONDS}",
    "live_status": "no-store",
}
MAX_AGE_SECONDS = {
    "enhanced_image": RESULT_MAX_AGE_SECONDS,
    "static_file": STATIC_MAX_AGE_SECONDS,
}
NGINX_SHARE = 10
CACHE_HINTS = {"enhanced_image": "long-term"}


def get_cache_headers(
    resource_type: str, content_hash: str | None = None, freshness: ResponseFreshness | None = None
) -> dict[str, str]:
    """Return the cache headers for a type of response.

    Parameters
    ----------
    resource_type : a key of `CACHE_CONTROL`
    content_hash : becomes the strong entity tag
    freshness : of a `sourced_image`
    """
    headers = {"Cache-Control": CACHE_CONTROL[resource_type]}
    if freshness is not None:
        headers["Cache-Control"] = headers["Cache-Control"].format(**freshness._asdict())
        headers["Age"] = str(freshness.age)
        left = max(freshness.lifetime - freshness.age, 0)
        headers["Expires"] = formatdate(time() + left, usegmt=True)
        # Nginx keeps `Age` as it was when it got the copy, so that clients would take the copy for
        # younger than it is: by a tenth of its lifetime at most. While the service or a source is
        # away it uses copies however old, so it gets none of sources that limit that.
        headers["X-Accel-Expires"] = str(0 if freshness.extensions else left // NGINX_SHARE)
    if resource_type in MAX_AGE_SECONDS:
        headers["Expires"] = formatdate(time() + MAX_AGE_SECONDS[resource_type], usegmt=True)
    if resource_type in CACHE_HINTS:
        headers["X-Cache-Hint"] = CACHE_HINTS[resource_type]
    if content_hash is not None:
        headers["ETag"] = f'"{content_hash}"'
    return headers


def apply_cache_headers(response: Response) -> Response:
    """Set the response's cache headers: the hook."""
    policy = chosen_policy() or CachePolicy("api_response")
    if response.status_code >= 400:
        policy = CachePolicy("error_response")
    headers = get_cache_headers(*policy)
    if response.status_code == 304 and "X-Accel-Expires" in headers:
        # Nginx would keep the 304 itself, and send it to clients without a copy.
        headers["X-Accel-Expires"] = "0"
    response.headers.update(headers)
    return response


def install_cache_headers(app: Flask) -> None:
    """Register the hook."""
    app.after_request(apply_cache_headers)
