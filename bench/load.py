"""Requests per second and latency: results from Nginx's cache, and POST cache hits in the service.

The last lines are cache hits for an upload of 1 MB: one connection on an idle service, and 32
while an image of 8 megapixels is computed.

    python -m bench.load [--requests 20000]

h2load on loopback, the real Nginx (two worker processes, TLS) and gunicorn, started as in the
tests, so that client, Nginx and service share the machine's CPUs.
"""

import argparse
import subprocess
import tempfile
import threading
import time
from pathlib import Path

import httpx
import numpy as np
from PIL import Image
from skimage import data

from bench.memory import enhance, make_photo
from testkit.pictures import encode
from testkit.service import Service, run_service
from tests.e2e.nginx import run_nginx

CONNECTIONS = 16
CROWD = 32
LARGE_UPLOAD_SIDE = 620  # noise as PNG: 1.15 MB


def run_h2load(
    title: str, requests: int, log: Path, *arguments: str, connections: int = CONNECTIONS
) -> None:
    """Send requests over some connections and print the outcome."""
    log.unlink(missing_ok=True)
    command = ["h2load", f"--requests={requests}", f"--clients={connections}"]
    command = [*command, f"--log-file={log}", *arguments]
    subprocess.run(command, capture_output=True, check=True)
    # One line per request: start (microseconds), status, duration (microseconds).
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
            measure_large_hits(service, folder)


def measure_large_hits(service: Service, folder: Path) -> None:
    """Measure cache hits for a large upload on an idle service and during inference."""
    noise = np.random.default_rng(0).integers(0, 256, (LARGE_UPLOAD_SIDE,) * 2 + (3,))
    large = folder / "large.png"
    large.write_bytes(encode(Image.fromarray(noise.astype(np.uint8)), "PNG"))
    url = f"{service.url}/api/enhance"
    headers = {"Content-Type": "image/png"}
    httpx.post(url, content=large.read_bytes(), headers=headers, timeout=600)
    # JSON, so that the upload is measured rather than the result's download.
    body = [f"--data={large}", "--header=Content-Type: image/png"]
    body.append("--header=Accept: application/json")
    log = folder / "requests"
    title = f"POST hit of {large.stat().st_size / 1e6:.2f} MB, JSON"
    run_h2load(f"{title}, 1 connection", 500, log, "--h1", *body, url, connections=1)
    with httpx.Client(base_url=service.url) as client:
        busy = threading.Thread(target=enhance, args=[client, make_photo(8, 0)])
        busy.start()
        while not httpx.get(f"{service.url}/api/stats").json()["queue_pixels"]:
            time.sleep(0.05)
        title = f"{title}, {CROWD} connections during 8 megapixels"
        run_h2load(title, 2000, log, "--h1", *body, url, connections=CROWD)
        small = (f"--data={folder / 'photo.jpg'}", "--header=Content-Type: image/jpeg")
        title = f"POST hit, photo, {CROWD} connections during 8 megapixels"
        run_h2load(title, 2000, log, "--h1", *small, url, connections=CROWD)
        assert busy.is_alive(), "the large image ended first"
        busy.join()


if __name__ == "__main__":
    main()
