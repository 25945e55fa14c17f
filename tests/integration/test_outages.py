"""A short version of `make cluster`'s second half: outages of what machines share."""

import tempfile
from pathlib import Path

from tests.outages import try_outages


def test_outages_lose_nothing_and_who_waits_is_answered() -> None:
    names = ("database frozen", "corrupted reads", "both killed")
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        reports = try_outages(Path(name), 6, names)
    # They were noticed, and no client was told that a job had failed.
    assert reports["database frozen"].problems["jobs_unavailable"] > 0
    assert reports["both killed"].problems["unavailable"] > 0
    assert all(report.answers[202] == 3 for report in reports.values())
