"""Starts gunicorn with the configuration of this package, in this process."""

import sys

from gunicorn.app.wsgiapp import WSGIApplication

from superres.paths import IS_CHECKOUT


def start_server() -> None:
    """Serve until a signal ends it; does not return."""
    application = "app:app" if IS_CHECKOUT else "superres.app:app"
    sys.argv = ["gunicorn", "--config", "python:superres.server.gunicorn_conf", application]
    WSGIApplication("%(prog)s [OPTIONS]").run()
