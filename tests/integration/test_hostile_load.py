"""A short version of `make hostile`."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from io import BytesIO
from pathlib import Path

import pytest

from superres.errors import ClientLeft
from superres.sandbox.sandbox_helper import GREATEST_NICENESS, PATIENT_NICENESS
from superres.service.sandboxed_codec import SandboxedCodec
from testkit import loopback
from testkit.hostile import FILES, many_scans
from testkit.waiting import wait_until
from tests.hostile_load import (
    Attack,
    Honest,
    attack,
    check_order,
    children_of,
    run_in_cgroup,
    wait_until_idle,
)

# Files that took gigabytes, seconds or the log's disk, each of a different kind.
NAMES = (
    "frame of 65535x65535.gif",
    "exif of broken tags.png",
    "one pixel, 16 MB.png",
    "lie of 8000x8000.avif",
    "canvas of 16383x16383.webp",
)
LARGE = "valid, 12 megapixels.jpg"


def test_hostile_files_kill_nothing_and_honest_clients_are_served(tmp_path: Path) -> None:
    with run_in_cgroup(tmp_path) as watch:
        honest = Honest(watch.service.url, seed=1)
        with closing(honest), honest.at_work():
            answers = attack(watch, NAMES, ["jpeg", "avif"], at_once=3)
            too_large = attack(watch, [LARGE], ["avif"], at_once=3)[LARGE]
            with closing(Attack(watch.service.url)) as attacker:
                accepted = attacker.send(LARGE, FILES[LARGE](), "jpeg", is_job=True)
                attacker.end_jobs(seconds=1)
        assert not honest.failures
        assert set(honest.seconds) == {"new", "job", "hit", "health"}
        wait_until_idle(watch)
        assert loopback.get(f"{watch.service.url}/api/ready").status_code == 200
    for name, found in answers.items():
        assert found.total() >= 6, name
        if not name.startswith(("one pixel", "exif of")):
            assert not found["200"], name
    # Encoding it as AVIF takes more memory than there is, as JPEG it does not.
    assert too_large == {"422 too_large_for_memory": 3}
    assert accepted == "202"


@pytest.mark.parametrize("as_jobs", [True, False], ids=["jobs", "waited for"])
def test_smaller_pictures_go_before_large_ones_in_every_format(
    tmp_path: Path, as_jobs: bool
) -> None:
    # Room for one large image but, while it is encoded, not also for 220x180 as lossless WebP.
    with run_in_cgroup(tmp_path, max_decoded_bytes=73_000_000) as watch:
        seconds = check_order(watch, 0.5, ((220, 180), (30, 20)), as_jobs)
        assert len(seconds) == 11
        wait_until_idle(watch)


def test_picture_that_takes_long_goes_behind_the_lanes() -> None:
    """Otherwise files that only cost time would take CPU time away from all images."""
    codec, enough = SandboxedCodec("safe"), threading.Event()
    upload = BytesIO(many_scans(2000, 2000, 2_000_000))

    def decode() -> None:
        with suppress(ClientLeft):
            codec.decode(upload, codec.read_header(upload, 10**7), enough.is_set)

    def slowest() -> int:
        helper = codec.sandbox.helper_pid
        children = children_of(helper) if helper else []
        return max((os.getpriority(os.PRIO_PROCESS, child) for child in children), default=-20)

    with ThreadPoolExecutor(1) as pool:
        decoded = pool.submit(decode)
        try:
            behind = min(os.nice(0) + PATIENT_NICENESS, GREATEST_NICENESS)
            wait_until(lambda: slowest() == behind, "it has not gone behind")
        finally:
            enough.set()
        decoded.result()
    codec.sandbox.close()
