"""Requests a second and their latency: results from Nginx's cache, and hits of POST in the service.

    python -m bench.load [--requests 20000]

h2load on loopback, the real Nginx (two worker processes, TLS) and gunicorn as the tests start them,
so that client, Nginx and service share the machine's CPUs.
"""

import argparse
import subprocess
import tempfile
from pathlib import Path

import httpx
import numpy as np
from PIL import Image
from skimage import data

from tests.conftest import encode
from tests.e2e.nginx import run_nginx
from tests.service import run_service

CONNECTIONS = 16


def run_h2load(title: str, requests: int, log: Path, *arguments: str) -> None:
    """Send requests over 16 connections and print how they fared."""
    log.unlink(missing_ok=True)
    command = ["h2load", f"--requests={requests}", f"--clients={CONNECTIONS}", f"--log-file={log}"]
    subprocess.run([*command, *arguments], capture_output=True, check=True)
    # A line a request: when it began (microseconds), status, how long it took (microseconds).
    began, status, took = np.loadtxt(log, dtype=np.int64).T
    seconds = ((began + took).max() - began.min()) / 1e6
    median, last = np.percentile(took, [50, 99]) / 1e3
    print(
        f"{title}: {len(took) / seconds:.0f} requests a second, p50 {median:.1f} ms, "
        f"p99 {last:.1f} ms, {np.count_nonzero(status != 200)} not 200",
        flush=True,
    )


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=20_000)
    requests = parser.parse_args().requests
    photo = encode(Image.fromarray(data.astronaut()[:128, :128]), "JPEG", quality=90)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        picture, log = folder / "photo.jpg", folder / "requests"
        picture.write_bytes(photo)
        with (
            run_service(folder / "service", trusted_proxies=1) as service,
            run_nginx(
                folder / "nginx", httpx.URL(service.url).port or 0, rate="1000000r/s"
            ) as nginx,
            nginx.client() as client,
        ):
            answer = client.post("/api/enhance", files={"image": photo})
            path = httpx.URL(answer.links["canonical"]["url"]).path
            print(f"result of {len(answer.content)} bytes, {CONNECTIONS} connections")
            public = (f"--connect-to=127.0.0.1:{nginx.port}", f"{nginx.url}{path}")
            body = (f"--data={picture}", "--header=Content-Type: image/jpeg")
            direct = f"{service.url}/api/enhance"
            run_h2load("GET /cache, Nginx, TLS, HTTP/2", requests, log, *public)
            run_h2load("GET /cache, Nginx, TLS, HTTP/1.1", requests, log, "--h1", *public)
            run_h2load("GET /cache, service", requests, log, "--h1", f"{service.url}{path}")
            run_h2load("POST hit, service", requests, log, "--h1", *body, direct)


if __name__ == "__main__":
    main()
