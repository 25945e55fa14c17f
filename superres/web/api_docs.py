"""The contract at /openapi.json, and a page at /docs/ that shows it with Swagger UI."""

import json
from functools import cache
from importlib.resources import files
from pathlib import Path

import yaml
from flask import Flask, Response, redirect
from werkzeug.wrappers import Response as AnyResponse

from superres import __version__
from superres.errors import ResultNotFound
from superres.web.web_pages import WebFile, send

CONTRACT_PATH = Path(__file__).with_name("openapi.yaml")
# Swagger UI uses inline styles, and icons in data: URLs.
CONTENT_SECURITY_POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ]
)
PAGE = b"""<!doctype html>
<html lang="en">
  <head>
    <meta charset="utf-8">
    <meta name="viewport" content="width=device-width, initial-scale=1">
    <title>Super-resolution: the API</title>
    <link rel="icon" href="favicon-32x32.png">
    <link rel="stylesheet" href="swagger-ui.css">
  </head>
  <body>
    <div id="ui"></div>
    <script src="swagger-ui-bundle.js"></script>
    <script src="start.js"></script>
  </body>
</html>
"""
START = b"""SwaggerUIBundle({ url: "../openapi.json", dom_id: "#ui", deepLinking: true });
"""
CONTENT_TYPES = {
    "swagger-ui.css": "text/css; charset=utf-8",
    "swagger-ui-bundle.js": "text/javascript; charset=utf-8",
    "favicon-32x32.png": "image/png",
}


@cache
def read_contract() -> WebFile:
    """Return the contract as JSON, on first use: the conversion takes 60 ms of CPU time."""
    contract = yaml.safe_load(CONTRACT_PATH.read_bytes())
    contract["info"]["version"] = __version__
    return WebFile(json.dumps(contract, sort_keys=True).encode(), "application/json")


def install_api_docs(app: Flask) -> None:
    """Register the contract and its page."""
    dist = files("flask_swagger_ui") / "dist"
    pages = {
        name: WebFile((dist / name).read_bytes(), content_type)
        for name, content_type in CONTENT_TYPES.items()
    }
    pages[""] = WebFile(PAGE, "text/html; charset=utf-8")
    pages["start.js"] = WebFile(START, "text/javascript; charset=utf-8")

    @app.get("/openapi.json")
    def show_contract() -> Response:
        return send(read_contract())

    @app.get("/docs")
    def find_docs() -> AnyResponse:
        return redirect("docs/", 308)

    @app.get("/docs/", defaults={"name": ""})
    @app.get("/docs/<name>")
    def show_docs(name: str) -> Response:
        if name not in pages:
            raise ResultNotFound("There is nothing at this address.")
        response = send(pages[name])
        response.headers["Content-Security-Policy"] = CONTENT_SECURITY_POLICY
        return response
