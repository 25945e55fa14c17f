"""What the last release promised is still there."""

import pytest

from superres.paths import PROJECT_DIR
from superres.store.result_name import ResultName
from tests import promises

PROMISED = (PROJECT_DIR / "tests" / "promises.txt").read_text().splitlines()


def test_api_settings_and_commands_are_still_there() -> None:
    assert set(PROMISED) - set(promises.list_promises()) == set()


@pytest.mark.parametrize(
    "line",
    [
        'POST /api/enhance query format "avif"',
        'POST /api/enhance body.mode "restore"',
        "openapi.yaml Problem.code string",
        "openapi.yaml Problem.exceeded.limit integer",
        "openapi.yaml Capabilities.formats[].quality.max integer",
        "error busy",
        "metric sr_requests",
        "SR_CACHE_MAX_MB",
        "superres serve",
        "superres enhance --output",
        "client.js enhance",
    ],
)
def test_each_kind_of_promise_is_on_record(line: str) -> None:
    assert line in PROMISED


def test_names_of_stored_results_are_still_read() -> None:
    for form in ("png", "webp", "jpeg", "avif"):
        name = f"{'0123456789abcdef' * 4}.0123456789ab.{form}"
        assert str(ResultName.parse(name)) == name
