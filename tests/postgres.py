"""Run a PostgreSQL server of Debian's package on loopback, with a folder and a port of its own."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.service import find_free_port

BIN = max(Path("/usr/lib/postgresql").glob("*/bin"), default=Path("/usr/lib/postgresql/bin"))
# PostgreSQL refuses to run as root; Debian's package makes this user.
AS_POSTGRES = ("setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups")


def run_tool(*command: str) -> None:
    """Run one of PostgreSQL's own commands, not as root."""
    prefix = AS_POSTGRES if os.getuid() == 0 else ()
    subprocess.run([*prefix, *command], check=True, capture_output=True, timeout=60, cwd="/")


@contextmanager
def run_postgres(folder: Path) -> Iterator[str]:
    """Run a server until the block ends; yield its URL. `folder` must be reachable for all."""
    port = find_free_port()
    folder.mkdir()
    if os.getuid() == 0:
        shutil.chown(folder, "postgres", "postgres")
    data, log = str(folder / "data"), str(folder / "log")
    run_tool(f"{BIN}/initdb", "--auth=trust", "--username=sr", "--no-sync", data)
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder}"
    run_tool(f"{BIN}/pg_ctl", "-D", data, "-l", log, "-w", "-o", options, "start")
    try:
        yield f"postgresql://sr@127.0.0.1:{port}/postgres"
    finally:
        run_tool(f"{BIN}/pg_ctl", "-D", data, "-m", "immediate", "-w", "stop")
