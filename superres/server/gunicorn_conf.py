"""gunicorn: one worker of many threads, which loads the model once and owns all lanes."""

import contextlib
import os
import resource
import signal
import sys
import threading

from gunicorn.arbiter import Arbiter
from gunicorn.workers.base import Worker

from superres.errors import ConfigError, DatabaseDown, StartupError
from superres.jobs.databases import open_database
from superres.jobs.jobs import Jobs
from superres.jobs.jobs_schema import SCHEMA, make_owner, owner_prefix
from superres.logs import make_log_config
from superres.machine import return_large_buffers
from superres.settings import DRAINS_AT_ONCE, Settings

# Threads beyond those that wait for results or read uploads, so that hits and health checks always
# find one.
RESERVE_THREADS = 16
HAND_OVER_SECONDS = 5

try:
    settings = Settings.from_env(os.environ)
except ConfigError as fault:
    sys.exit(str(fault))

logconfig_dict = make_log_config(settings.log_format)

bind = settings.bind
workers = 1
worker_class = "superres.server.gunicorn_worker.Worker"
logger_class = "superres.server.gunicorn_worker.Log"
# Open connections, most of which are idle; each is a file, and the rest needs some too.
worker_connections = min(4096, resource.getrlimit(resource.RLIMIT_NOFILE)[0] * 3 // 4)
threads = (
    settings.max_waiting_requests
    + settings.max_long_polls
    + settings.max_uploads_at_once
    + DRAINS_AT_ONCE
    + RESERVE_THREADS
)
# A result that is waited for may take max_sync_seconds; a proxy in front waits longer than this.
graceful_timeout = settings.max_sync_seconds + 30
# Longer than a proxy keeps idle connections, so that it never sends into a closing one.
keepalive = 75
# Only SR_TRUSTED_PROXIES decides whose X-Forwarded-* is believed, in access.py.
forwarded_allow_ips = ""
control_socket_disable = True


def worker_exit(_server: Arbiter, worker: Worker) -> None:
    """Hand asynchronous jobs over: requests have been answered, and the process ends now."""
    if worker.booted:
        worker.wsgi.extensions["runner"].stop()


def child_exit(_server: Arbiter, worker: Worker) -> None:
    """Queue again what a worker that was killed had in work."""
    database = open_database(settings, SCHEMA)
    with contextlib.closing(database), contextlib.suppress(DatabaseDown):
        Jobs(database, make_owner()).requeue_abandoned(owner_prefix(worker.pid))


def quit_worker(worker: Worker) -> None:
    """End the worker at once; what asynchronous jobs it has is handed over on the way."""
    worker.alive = False
    sys.exit(0)


def post_worker_init(worker: Worker) -> None:
    """Load the model in the worker: OpenCV must not be used before the fork.

    In a thread, so that health and readiness are answered meanwhile; uploads wait for it.
    """
    # At Ctrl-C the master tells the worker to quit, and the terminal does too: once is enough.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # gunicorn's own handler shuts the thread pool down: where the signal comes while the pool takes
    # a request, it waits for its own lock for ever (seen).
    signal.signal(signal.SIGQUIT, lambda _signal, _frame: quit_worker(worker))
    return_large_buffers()
    # Before the master's own patience ends, so that there is time to hand jobs over.
    worker.cfg.set("graceful_timeout", graceful_timeout - HAND_OVER_SECONDS)
    runner = worker.wsgi.extensions["runner"]
    if not worker.alive:  # stopped before its application was there
        runner.begin_draining()

    def load() -> None:
        try:
            runner.start()
        except Exception as fault:
            if not worker.alive:
                return  # stopped meanwhile: the interpreter, which ends, starts no thread any more
            if isinstance(fault, StartupError):
                worker.log.error("%s", fault)
            else:
                worker.log.exception("the model cannot be loaded")
        else:
            return
        # With this status gunicorn stops instead of trying for ever.
        os._exit(Arbiter.WORKER_BOOT_ERROR)

    threading.Thread(target=load, name="load").start()
