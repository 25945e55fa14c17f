"""Runs a real S3 server, SeaweedFS, on loopback with its own folder and ports."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from testkit import loopback
from testkit.service import find_free_port
from testkit.waiting import START_SECONDS

WEED = Path(sys.executable).with_name("weed")
BUCKET = "pictures"


@dataclass
class S3Server:
    """A running server."""

    url: str
    process: subprocess.Popen[bytes]
    store_url: str = f"s3://{BUCKET}/sr"

    @property
    def environment(self) -> dict[str, str]:
        """The variables that give a client access."""
        return {
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ALLOW_HTTP": "true",
        }


@contextmanager
def run_s3(folder: Path) -> Iterator[S3Server]:
    """Run a server with one bucket until the block ends."""
    folder.mkdir(parents=True)
    actions = ["Admin", "Read", "Write", "List"]
    credentials = [{"accessKey": "key", "secretKey": "secret"}]
    identity = {"name": "sr", "credentials": credentials, "actions": actions}
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
    names = ("master.port", "volume.port", "filer.port", "s3.port")
    ports = {name: find_free_port() for name in (*names, *(f"{each}.grpc" for each in names))}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                *(str(WEED), "server", f"-dir={folder}", "-ip=127.0.0.1", "-s3"),
                *(f"-s3.config={folder / 's3.json'}", "-s3.autoCreateBucket"),
                *("-master.volumeSizeLimitMB=64", "-volume.max=20", "-master.telemetry=false"),
                *(f"-{name}={port}" for name, port in ports.items()),
                # Not used, but otherwise at fixed ports, on which a second server would fail.
                *("-s3.port.iceberg=0", "-s3.port.lance=0"),
            ],
            stdout=log,
            stderr=log,
        )
        server = S3Server(f"http://127.0.0.1:{ports['s3.port']}", process)
        try:
            wait_until_ready(server, folder / "log")
            yield server
        finally:
            process.kill()  # on SIGTERM it waits
            process.wait()


def wait_until_ready(server: S3Server, log: Path) -> None:
    """Wait until objects can be stored."""
    import obstore
    from obstore.store import S3Store

    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            loopback.get(server.url, timeout=1)
            store = S3Store(
                BUCKET,
                access_key_id="key",
                secret_access_key="secret",
                region="us-east-1",
                endpoint=server.url,
                client_options={"allow_http": True},
                retry_config={"max_retries": 0},
            )
            obstore.put(store, "ready", b"yes")
        except Exception:
            if server.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(log.read_text()[-3000:]) from None
            time.sleep(0.1)
        else:
            return
