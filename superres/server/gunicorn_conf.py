"""gunicorn configuration: one worker with many threads, which loads the model once."""

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
from superres.machine import most_tasks, return_large_buffers
from superres.settings import DRAINS_AT_ONCE, SOURCE_REQUESTS_AT_ONCE, Settings

# Threads in addition to those that wait for results or read uploads, so that there is always one
# for cache hits and health checks.
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
# Open connections, most of them idle; each is a file descriptor, and other code needs some too.
worker_connections = min(4096, resource.getrlimit(resource.RLIMIT_NOFILE)[0] * 3 // 4)
# Half of what the system allows at most: the rest is for images, whose processes could not start if
# these threads, which stay, were all that it allows.
threads = min(
    settings.max_waiting_requests
    + settings.max_long_polls
    + settings.max_uploads_at_once
    + DRAINS_AT_ONCE
    + RESERVE_THREADS
    + (SOURCE_REQUESTS_AT_ONCE if settings.url_key else 0),
    max(most_tasks() // 2, 1),
)
# A request may wait max_sync_seconds for its result; a proxy in front waits longer than this.
graceful_timeout = settings.max_sync_seconds + 30
# Longer than a proxy keeps idle connections, so that it never sends into a closing one.
keepalive = 75
# Only SR_TRUSTED_PROXIES decides whose X-Forwarded-* headers are trusted, in access.py.
forwarded_allow_ips = ""
control_socket_disable = True


def worker_exit(_server: Arbiter, worker: Worker) -> None:
    """Release asynchronous jobs: all requests have been answered, and the process is exiting."""
    if worker.booted:
        worker.wsgi.extensions["runner"].stop()


def child_exit(_server: Arbiter, worker: Worker) -> None:
    """Requeue the jobs of a worker that was killed."""
    database = open_database(settings, SCHEMA)
    with contextlib.closing(database), contextlib.suppress(DatabaseDown):
        Jobs(database, make_owner()).requeue_abandoned(owner_prefix(worker.pid))


def quit_worker(worker: Worker) -> None:
    """Exit the worker immediately; `worker_exit` releases its asynchronous jobs."""
    worker.alive = False
    sys.exit(0)


def post_worker_init(worker: Worker) -> None:
    """Load the model in the worker: OpenCV must not be used before the fork.

    In a thread, so that health and readiness checks are answered meanwhile; uploads wait for it.
    """
    # On Ctrl-C both the master and the terminal tell the worker to quit: once is enough.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # gunicorn's own handler shuts the thread pool down: if the signal arrives while the pool takes
    # a request, it deadlocks on its own lock (observed).
    signal.signal(signal.SIGQUIT, lambda _signal, _frame: quit_worker(worker))
    return_large_buffers()
    # Shorter than the master's own timeout, to leave time for releasing jobs.
    worker.cfg.set("graceful_timeout", graceful_timeout - HAND_OVER_SECONDS)
    runner = worker.wsgi.extensions["runner"]
    if not worker.alive:  # stopped before its application was loaded
        runner.begin_draining()

    def load() -> None:
        try:
            runner.start()
        except Exception as fault:
            if not worker.alive:
                return  # stopped meanwhile: an interpreter that is exiting cannot start threads
            if isinstance(fault, StartupError):
                worker.log.error("%s", fault)
            else:
                worker.log.exception("the model cannot be loaded")
        else:
            return
        # On this exit status gunicorn stops instead of retrying forever.
        os._exit(Arbiter.WORKER_BOOT_ERROR)

    threading.Thread(target=load, name="load").start()
