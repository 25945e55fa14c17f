"""Short versions of `make cluster`."""

import tempfile
from pathlib import Path

import pytest

from tests.cluster import try_machines
from tests.outages import try_outages


@pytest.mark.parametrize("with_dask", [True, False], ids=["tiles by dask", "replicas alone"])
def test_every_result_is_one_machines_though_some_are_killed(with_dask: bool) -> None:
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)  # PostgreSQL runs as a different user
        answers = try_machines(Path(name), 16, with_dask)
    assert answers[202] > 0


def test_outages_lose_nothing_and_who_waits_is_answered() -> None:
    names = ("database frozen", "404 NoSuchBucket", "corrupted reads", "both killed")
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        reports = try_outages(Path(name), 8, names)
    # They were noticed, and no client was told that a job had failed.
    assert reports["database frozen"].problems["jobs_unavailable"] > 0
    assert reports["both killed"].problems["unavailable"] > 0
    assert all(report.answers[202] == 4 for report in reports.values())
