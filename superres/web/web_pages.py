"""The page at / and its files, and the client module for other sites."""

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from urllib.parse import urlsplit

from flask import Flask, Response, request

from superres.errors import ResultNotFound
from superres.settings import Settings
from superres.web.cache_policy import set_cache_policy

PAGE_DIR = Path(__file__).with_name("page")
CONTENT_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".ts": "text/plain; charset=utf-8",
    ".json": "application/json",
    ".webmanifest": "application/manifest+json",
    ".txt": "text/plain; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".webp": "image/webp",
}
# Other sites import these from a permanent URL, so each use revalidates them.
UNVERSIONED = frozenset({"client.js", "client.d.ts"})
ETAG_LENGTH = 32


@dataclass(frozen=True)
class WebFile:
    """One of the page's files, as sent."""

    content: bytes
    content_type: str

    @cached_property
    def etag(self) -> str:
        """The strong entity tag, without its quotes."""
        return hashlib.sha256(self.content).hexdigest()[:ETAG_LENGTH]


def read_files(folder: Path) -> dict[str, WebFile]:
    """Read the page's files: path below the folder -> file."""
    return {
        path.relative_to(folder).as_posix(): WebFile(path.read_bytes(), CONTENT_TYPES[path.suffix])
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def list_languages(files: dict[str, WebFile]) -> str:
    """Return the choice of languages as HTML: one for each file in `languages/`."""
    options = []
    for path, file in files.items():
        if path.startswith("languages/"):
            code = path.removeprefix("languages/").removesuffix(".json")
            name = json.loads(file.content)["language"]
            options.append(f'<option value="{code}" lang="{code}">{name}</option>')
    return "".join(options)


def content_security_policy(settings: Settings) -> str:
    """Return what the page may load: its own files, results, the API (CSP level 3)."""
    public = urlsplit(settings.public_url)
    # Results are linked at the public URL, which may be a CDN's.
    own = f"'self' {public.scheme}://{public.netloc}" if settings.public_url else "'self'"
    return "; ".join(
        [
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            f"img-src {own} blob:",
            f"connect-src {own}",
            "manifest-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        ]
    )


def send(file: WebFile) -> Response:
    """Respond with a file that clients revalidate each time, or with 304."""
    set_cache_policy("api_response", file.etag)
    if request.if_none_match.contains_weak(file.etag):
        return Response(status=304)
    return Response(file.content, content_type=file.content_type)


def install_web_pages(app: Flask, settings: Settings) -> None:
    """Register the page and its files."""
    files = read_files(PAGE_DIR)
    digest = hashlib.sha256(b"".join(file.content for file in files.values()))
    version = digest.hexdigest()[:12]
    index = files.pop("index.html")
    # Versioned URLs, so that the files can be cached: each version has its own.
    html = index.content.replace(b"VERSION", version.encode())
    html = html.replace(b"LANGUAGES", list_languages(files).encode())
    page = WebFile(html, index.content_type)
    policy = content_security_policy(settings)

    @app.get("/")
    def show_page() -> Response:
        response = send(page)
        response.headers["Content-Security-Policy"] = policy
        # With no-referrer the page's own uploads would send `Origin: null`.
        response.headers["Referrer-Policy"] = "strict-origin-when-cross-origin"
        return response

    @app.get("/static/<name>")
    def send_client(name: str) -> Response:
        if name not in UNVERSIONED:
            raise ResultNotFound("There is nothing at this address.")
        return send(files[name])

    @app.get("/static/<asked_version>/<path:name>")
    def send_file(asked_version: str, name: str) -> Response:
        if asked_version != version or name not in files:
            raise ResultNotFound("There is nothing at this address.")
        file = files[name]
        set_cache_policy("static_file", file.etag)
        if request.if_none_match.contains_weak(file.etag):
            return Response(status=304)
        return Response(file.content, content_type=file.content_type)
