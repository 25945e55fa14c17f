"""Starts gunicorn in this process, with this package's configuration."""

import sys

from gunicorn.app.wsgiapp import WSGIApplication

from superres.paths import IS_CHECKOUT


def start_server() -> None:
    """Serve until stopped by a signal; does not return."""
    application = "app:app" if IS_CHECKOUT else "superres.app:app"
    sys.argv = ["gunicorn", "--config", "python:superres.server.gunicorn_conf", application]
    WSGIApplication("%(prog)s [OPTIONS]").run()
