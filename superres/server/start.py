"""Starts gunicorn with the configuration of this package, in this process."""

import sys

from gunicorn.app.wsgiapp import WSGIApplication
from gunicorn.util import getcwd

from superres.paths import IS_CHECKOUT


def start_server() -> None:
    """Serve until a signal ends it; does not return."""
    # gunicorn puts the working folder first in the path unless it is there, and a cache_headers.py
    # of the user's own would take the place of ours.
    sys.path.append(getcwd())
    application = "app:app" if IS_CHECKOUT else "superres.app:app"
    sys.argv = ["gunicorn", "--config", "python:superres.server.gunicorn_conf", application]
    WSGIApplication("%(prog)s [OPTIONS]").run()
