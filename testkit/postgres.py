"""Runs a PostgreSQL server from Debian's package on loopback, with its own folder and port."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from testkit.service import find_free_port
from testkit.waiting import WAIT_SECONDS, wait_until

BIN = max(Path("/usr/lib/postgresql").glob("*/bin"), default=Path("/usr/lib/postgresql/bin"))
# PostgreSQL refuses to run as root; Debian's package creates this user.
AS_POSTGRES = ("setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups")
PGBOUNCER_CONFIG = """
[databases]
postgres = host=127.0.0.1 port={server} dbname=postgres user=sr
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = {mode}
default_pool_size = {connections}
"""


def run_tool(*command: str) -> None:
    """Run one of PostgreSQL's own commands, not as root."""
    prefix = AS_POSTGRES if os.getuid() == 0 else ()
    subprocess.run([*prefix, *command], check=True, capture_output=True, timeout=60, cwd="/")


class PostgresServer:
    """A server that can be stopped and restarted, with other settings."""

    def __init__(self, folder: Path, port: int) -> None:
        folder.mkdir()
        if os.getuid() == 0:
            shutil.chown(folder, "postgres", "postgres")
        self._folder = folder
        self.port = port
        self._data = str(folder / "data")
        self.url = f"postgresql://sr@127.0.0.1:{port}/postgres"
        run_tool(f"{BIN}/initdb", "--auth=trust", "--username=sr", "--no-sync", self._data)

    def start(self, settings: str = "") -> None:
        """Start the server, and return when it responds."""
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 {settings}"
        options += f" -c unix_socket_directories={self._folder}"
        log = str(self._folder / "log")
        run_tool(f"{BIN}/pg_ctl", "-D", self._data, "-l", log, "-w", "-o", options, "start")

    def stop(self) -> None:
        """Stop the server as in a crash."""
        run_tool(f"{BIN}/pg_ctl", "-D", self._data, "-m", "immediate", "-w", "stop")

    def restart(self, settings: str = "") -> None:
        """Stop and start."""
        self.stop()
        self.start(settings)


@contextmanager
def run_server(folder: Path, port: int | None = None) -> Iterator[PostgresServer]:
    """Run a server until the block ends. All users must have access to `folder`."""
    server = PostgresServer(folder, port or find_free_port())
    server.start()
    try:
        yield server
    finally:
        server.stop()


@contextmanager
def run_postgres(folder: Path) -> Iterator[str]:
    """Run a server until the block ends; yield its URL. All users must have access to `folder`."""
    with run_server(folder) as server:
        yield server.url


@contextmanager
def run_pgbouncer(
    folder: Path, url: str, mode: str, connections: int = 2, port: int | None = None
) -> Iterator[str]:
    """Run PgBouncer in front of a server until the block ends; yield the URL through it."""
    port = port or find_free_port()
    folder.mkdir()
    config, server = folder / "pgbouncer.ini", url.rpartition(":")[2].partition("/")[0]
    config.write_text(
        PGBOUNCER_CONFIG.format(server=server, port=port, mode=mode, connections=connections)
    )
    prefix = AS_POSTGRES if os.getuid() == 0 else ()
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [*prefix, "pgbouncer", str(config)], stdout=log, stderr=subprocess.STDOUT
        )
    try:
        wait_until(lambda: "process up" in (folder / "log").read_text())
        yield f"postgresql://sr@127.0.0.1:{port}/postgres"
    finally:
        # Immediately: since PgBouncer 1.23, SIGTERM waits until the last client has left, and older
        # versions have no other signal for an immediate shutdown.
        process.kill()
        process.wait(WAIT_SECONDS)
