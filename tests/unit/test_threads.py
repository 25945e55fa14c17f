import threading

import pytest

from superres.threads import Threads


def test_what_no_thread_can_be_started_for_waits_for_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with Threads(4) as threads:
        first_may_end = threading.Event()
        first = threads.submit(first_may_end.wait, 60)
        monkeypatch.setattr(threading.Thread, "start", refuse)
        others = [threads.submit(pow, 2, number) for number in range(3)]
        first_may_end.set()
        assert first.result(60)
        assert [other.result(60) for other in others] == [1, 2, 4]
