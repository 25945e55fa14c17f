"""Everything at once on loopback: machines that share everything, while some of them are killed.

    make cluster        (python -m tests.cluster [--pictures 100] [--without-dask])

PostgreSQL, an S3 server, a Dask scheduler with two workers, two replicas behind the shipped Nginx:
images are uploaded, a worker and a replica are killed with -9, and every result is compared with
that of a single machine. A short version is part of the tests.
"""

import argparse
import random
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import psycopg
from PIL import Image
from skimage import data

from testkit.dask_cluster import DaskCluster, run_dask
from testkit.pictures import encode
from testkit.postgres import run_postgres
from testkit.s3 import run_s3
from testkit.s3_proxy import S3Proxy, run_s3_proxy
from testkit.service import GUNICORN, Service, run_light_service, run_service
from tests.e2e.nginx import Nginx, run_nginx

WAIT_SECONDS = 240
CLIENTS = 10  # as many uploads as Nginx lets one address have at once
FIRST_USER = "first"


@dataclass
class Machines:
    """The running servers."""

    nginx: Nginx
    replicas: list[Service]
    dask: DaskCluster | None
    store: S3Proxy | None
    database_url: str


@contextmanager
def run_machines(
    folder: Path,
    with_dask: bool = True,
    prefixes: Sequence[Sequence[str]] = ((), ()),
    for_outages: bool = False,
) -> Iterator[Machines]:
    """Run everything until the block ends, with a replica for each command prefix.

    For outages, there is a proxy in front of the store, the first replica has its own database
    user, `FIRST_USER`, and all have a small model.
    """
    with ExitStack() as stack:
        s3 = stack.enter_context(run_s3(folder / "s3"))
        variables = dict(s3.environment)
        proxy = stack.enter_context(run_s3_proxy(s3.url)) if for_outages else None
        if proxy is not None:
            variables["AWS_ENDPOINT_URL"] = proxy.url
        database_url = stack.enter_context(run_postgres(folder / "postgres"))
        urls = [database_url for _ in prefixes]
        if for_outages:
            with psycopg.connect(database_url) as connection:
                connection.execute(f"CREATE ROLE {FIRST_USER} SUPERUSER LOGIN")
            urls[0] = database_url.replace("sr@", f"{FIRST_USER}@")
        settings: dict[str, Any] = {
            "store_url": s3.store_url,
            "trusted_proxies": 1,
            "max_sync_seconds": WAIT_SECONDS,
        }
        dask = None
        if with_dask:
            dask = stack.enter_context(run_dask(folder / "dask"))
            variables |= dask.environment
            settings["dask_scheduler"] = dask.address
        assignments = [f"{name}={value}" for name, value in variables.items()]
        run_replica = run_light_service if for_outages else run_service
        replicas = [
            stack.enter_context(
                run_replica(
                    folder / f"replica{number}",
                    [*prefix, "env", *assignments, *GUNICORN],
                    database_url=url,
                    **settings,
                )
            )
            for number, (prefix, url) in enumerate(zip(prefixes, urls, strict=True))
        ]
        ports = [int(replica.url.rpartition(":")[2]) for replica in replicas]
        nginx = stack.enter_context(run_nginx(folder / "nginx", *ports, rate="1000r/s"))
        yield Machines(nginx, replicas, dask, proxy, database_url)


def draw(number: int) -> bytes:
    """Return an image that is unique to a number."""
    place = random.Random(number)
    left, top = place.randrange(300), place.randrange(300)
    side = 60 + 20 * (number % 5)
    photo = Image.fromarray(data.astronaut()).crop((left, top, left + side, top + side))
    return encode(photo, "PNG")


class Client:
    """Uploads images and fetches their results, whatever happens to the machines."""

    def __init__(self, client: httpx.Client) -> None:
        self._client = client
        self.answers: Counter[int] = Counter()
        self.problems: Counter[str] = Counter()

    def _ask(self, method: str, url: str, **options: Any) -> httpx.Response:
        """Send a request; retry while the service is busy or not running."""
        deadline = time.monotonic() + WAIT_SECONDS
        while True:
            answer = self._client.request(method, url, timeout=WAIT_SECONDS, **options)
            self.answers[answer.status_code] += 1
            if answer.status_code >= 400:
                self.problems[answer.json()["code"]] += 1
            if answer.status_code not in {502, 503} or time.monotonic() > deadline:
                return answer
            time.sleep(0.5)

    def enhance(self, content: bytes, is_asynchronous: bool) -> bytes:
        """Return an image's result."""
        headers = {"Content-Type": "image/png"}
        if is_asynchronous:
            headers["Prefer"] = "respond-async"
        answer = self._ask("POST", "/api/enhance", content=content, headers=headers)
        if answer.status_code == 202:
            status = answer.json()
            while status["state"] in {"queued", "running"}:
                url = httpx.URL(status["status_url"]).raw_path.decode()
                status = self._ask("GET", url, headers={"Prefer": "wait=5"}).json()
                assert "state" in status, status
            assert status["state"] == "done", status
            answer = self._ask("GET", httpx.URL(status["result"]).raw_path.decode())
        assert answer.status_code == 200, (answer.status_code, answer.text)
        return answer.content


def try_machines(folder: Path, number: int, with_dask: bool = True) -> Counter[int]:
    """Upload images while a worker and a replica are killed; return the count of each status.

    Raises
    ------
    AssertionError
        A client saw a 502, a job was lost, or a result differs from a single machine's.
    """
    pictures = [draw(each) for each in range(number)]
    with (
        run_machines(folder, with_dask) as machines,
        machines.nginx.client() as connection,
        ThreadPoolExecutor(CLIENTS) as pool,
    ):
        client = Client(connection)
        sent = [
            pool.submit(client.enhance, picture, index % 2 == 0)
            for index, picture in enumerate(pictures)
        ]
        wait_for_share(sent, 0.3)
        if machines.dask is not None:
            machines.dask.workers[0].kill()
        wait_for_share(sent, 0.5)
        machines.replicas[0].kill()
        results = [each.result() for each in sent]
        # Results of the killed replica are still there.
        again = [client.enhance(picture, False) for picture in pictures]
    assert client.answers[502] == client.answers[504] == 0, client.answers
    assert again == results
    with run_service(folder / "alone") as service, httpx.Client(base_url=service.url) as connection:
        alone = Client(connection)
        expected = [alone.enhance(picture, False) for picture in pictures]
    assert results == expected
    for picture, result in zip(pictures, results, strict=True):
        before, after = Image.open(BytesIO(picture)), Image.open(BytesIO(result))
        assert after.size == (3 * before.width, 3 * before.height)
    return client.answers


def wait_for_share(sent: list[Any], share: float) -> None:
    """Wait until a share of the uploads have their results."""
    deadline = time.monotonic() + WAIT_SECONDS
    while sum(each.done() for each in sent) < share * len(sent):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=100)
    parser.add_argument("--without-dask", action="store_true")
    arguments = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        answers = try_machines(Path(name), arguments.pictures, not arguments.without_dask)
    print(f"{arguments.pictures} images, all as from one machine, despite killed processes")
    print(f"answers: {dict(answers)}; {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
