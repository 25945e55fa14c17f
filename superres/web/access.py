"""Access control: cross-origin pages, API keys, and trusted proxies."""

from urllib.parse import urlsplit

from flask import Flask, Response, g, request
from flask_cors import CORS
from werkzeug.middleware.proxy_fix import ProxyFix

from superres.errors import ForeignOrigin, InvalidKey, Unauthorized
from superres.origins import serialize_origin
from superres.settings import Settings
from superres.web.api_keys import ApiKeys
from superres.web.hosts import install_hosts

EXPOSED_HEADERS = (
    "Content-Length",
    "Content-Range",
    "ETag",
    "Link",
    "Location",
    "Retry-After",
    "Content-Disposition",
    "X-Cache-Hit",
    "X-Cache-Hint",
    "X-Process-Time",
    "X-Request-ID",
    "Server-Timing",
    "Preference-Applied",
    "RateLimit",
    "RateLimit-Policy",
)
API_METHODS = ("GET", "HEAD", "POST", "DELETE", "OPTIONS")
API_REQUEST_HEADERS = (
    "Content-Type",
    "Authorization",
    "X-Requested-With",
    "X-Request-ID",
    "Prefer",
    "If-Match",
    "If-None-Match",
    "Cache-Control",
)
PUBLIC_METHODS = ("GET", "HEAD", "OPTIONS")
# For conditional requests, and for resuming downloads (`If-Range`, handled by Nginx).
PUBLIC_REQUEST_HEADERS = (
    "If-Match",
    "If-None-Match",
    "If-Modified-Since",
    "If-Unmodified-Since",
    "Cache-Control",
    "Range",
    "If-Range",
)
GUARDED_METHODS = frozenset({"POST", "DELETE"})
# For monitoring and load balancers, which have no key, and for pages, which learn of it here.
OPEN_PATHS = frozenset({"/api/health", "/api/ready", "/api/capabilities"})


def install_cors(app: Flask, settings: Settings) -> None:
    """Let pages of other origins use the API (allowed ones) and the results (any).

    Results are public under names that nobody can guess, so they go to any origin with `*`:
    a `Vary: Origin` would let every visitor store another copy in every shared cache.
    """
    if not settings.cors_origins:
        app.logger.warning("SR_CORS_ORIGINS is empty: pages of any origin may use the API")
    if not settings.cors_enabled:
        return
    # Hooks run in reverse: this one sees flask-cors's headers. flask-cors adds `Vary: Origin` only
    # for allowed origins, and a shared cache would replay the other responses to those.
    app.after_request(vary_by_origin)
    shared = {
        "supports_credentials": False,
        "max_age": settings.cors_max_age_seconds,
        "expose_headers": EXPOSED_HEADERS,
    }
    public = shared | {
        "origins": "*",
        "send_wildcard": True,
        "always_send": True,
        "methods": PUBLIC_METHODS,
        "allow_headers": PUBLIC_REQUEST_HEADERS,
    }
    api = shared | {
        "origins": list(settings.cors_origins) or "*",
        "send_wildcard": not settings.cors_origins,
        "always_send": False,
        "methods": API_METHODS,
        "allow_headers": API_REQUEST_HEADERS,
    }
    CORS(app, resources={r"^/api/": api, r"^/(cache|image|static)/": public})


def vary_by_origin(response: Response) -> Response:
    """Add `Vary: Origin` to every API response."""
    if request.path.startswith("/api/"):
        response.vary.add("Origin")
    return response


def refuse_foreign_origin(settings: Settings) -> None:
    """Reject a page whose origin is not allowed before it costs anything.

    CORS only hides the response from such a page; the upload would still be computed.

    Raises
    ------
    ForeignOrigin
        A list of origins is set, and the request's is neither in it nor the service's own; or the
        request has none, but the browser says that the page is from another site.
    """
    if request.method not in GUARDED_METHODS or not settings.cors_origins:
        return
    origin = request.headers.get("Origin")
    if origin is not None and origin.lower() in settings.cors_origins:
        return
    is_cross_site = request.headers.get("Sec-Fetch-Site") == "cross-site"
    is_own = origin is None or is_own_origin(origin, settings.public_url)
    if is_cross_site or not is_own:
        raise ForeignOrigin("Pages of this origin may not use the service.")


def is_own_origin(origin: str, public_url: str) -> bool:
    """Tell whether the request's page came from this service itself.

    The Host is the service's own; hosts.py has checked that.
    """
    if public_url:
        return origin == serialize_origin(urlsplit(public_url))
    if request.headers.get("Sec-Fetch-Site") == "same-origin":
        return True
    return origin == f"{request.scheme}://{request.host.lower()}"


def is_guarded() -> bool:
    """Tell whether the current request needs a key, and counts towards rate limits.

    Results below /cache/ do not: a client that knows their names had the upload or got the URL.
    """
    is_api = request.path.startswith("/api/") and request.path not in OPEN_PATHS
    return is_api and request.method != "OPTIONS"  # preflights carry no key


def require_key(keys: ApiKeys) -> None:
    """Reject a request without a valid key.

    Raises
    ------
    Unauthorized
        It has no key.
    InvalidKey
        Its key is not in the file.
    """
    if not is_guarded():
        return
    scheme, _, key = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not key.strip():
        raise Unauthorized("Send an API key: 'Authorization: Bearer KEY'.")
    name = keys.find(key.strip())
    if name is None:
        raise InvalidKey("This API key is wrong, or was revoked; ask the operator for another.")
    g.api_key_name = name


def ask_for_key(response: Response) -> Response:
    """State how to authenticate in every 401 (RFC 6750, section 3)."""
    if response.status_code == 401:
        # Not to a request without a key (3.1).
        error = ', error="invalid_token"' if g.problem_code == InvalidKey.code else ""
        response.headers["WWW-Authenticate"] = f'Bearer realm="super-resolution"{error}'
    return response


def install_access(app: Flask, settings: Settings) -> ApiKeys | None:
    """Register checks of hosts, origins and API keys, and trusted proxies; return the keys.

    Raises
    ------
    ConfigError
        The file of API keys cannot be read.
    """
    install_cors(app, settings)
    install_hosts(app, settings)
    app.before_request(lambda: refuse_foreign_origin(settings))
    keys = None
    if settings.api_keys_file is not None:
        keys = ApiKeys(settings.api_keys_file)
        app.before_request(lambda: require_key(keys))
        app.after_request(ask_for_key)
    hops = settings.trusted_proxies
    if hops:
        proxied = ProxyFix(app.wsgi_app, x_for=hops, x_proto=hops, x_host=hops, x_prefix=hops)
        app.wsgi_app = proxied  # type: ignore[method-assign]  # Flask's documented way
    return keys
