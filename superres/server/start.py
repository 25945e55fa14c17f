"""Starts gunicorn in this process, with this package's configuration."""

import sys

from gunicorn.app.wsgiapp import WSGIApplication
from gunicorn.util import getcwd

from superres.paths import IS_CHECKOUT


def start_server() -> None:
    """Serve until stopped by a signal; does not return."""
    # Unless sys.path has the working directory, gunicorn inserts it first, and a user's own
    # cache_headers.py in it would shadow ours.
    sys.path.append(getcwd())
    application = "app:app" if IS_CHECKOUT else "superres.app:app"
    sys.argv = ["gunicorn", "--config", "python:superres.server.gunicorn_conf", application]
    WSGIApplication("%(prog)s [OPTIONS]").run()
