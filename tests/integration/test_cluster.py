"""A short version of `make cluster`'s first half."""

import tempfile
from pathlib import Path

import pytest

from tests.cluster import try_machines


@pytest.mark.parametrize("with_dask", [True, False], ids=["tiles by dask", "replicas alone"])
def test_every_result_is_one_machines_though_some_are_killed(with_dask: bool) -> None:
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)  # PostgreSQL runs as a different user
        answers = try_machines(Path(name), 16, with_dask)
    assert answers[202] > 0
