"""Short versions of `make faults`."""

from pathlib import Path

import pytest

from testkit.service import run_light_service
from tests.faults import FAULTS, Fault, try_fault

SCALE = 0.05


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_service_answers_and_leaks_nothing(fault: Fault, tmp_path: Path) -> None:
    client, _, _ = try_fault(fault, tmp_path / "service", SCALE, run_light_service)
    assert client.answers["200"] >= 2
