import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from errors import Busy, TooCostly
from scheduler import Scheduler
from settings import Settings

MICROSECOND = 1e-6


def make_scheduler(seconds_per_pixel: float = MICROSECOND, **limits: Any) -> Scheduler:
    return Scheduler(Settings(**limits), lambda: seconds_per_pixel)


def test_picture_within_the_limits_is_admitted_until_it_is_finished() -> None:
    scheduler = make_scheduler(max_queue_pixels=1000)
    scheduler.admit(600)
    assert scheduler.queued_pixels == 600
    scheduler.finish(600)
    assert scheduler.queued_pixels == 0


def test_full_queue_is_busy_and_says_when_there_will_be_room() -> None:
    scheduler = make_scheduler(seconds_per_pixel=0.01, max_queue_pixels=1000)
    scheduler.admit(800)
    with pytest.raises(Busy) as caught:
        scheduler.admit(700)
    # 500 pixels have to be computed before 700 fit in.
    assert caught.value.retry_after_seconds == 5
    assert scheduler.queued_pixels == 800


def test_empty_queue_takes_a_picture_larger_than_its_limit() -> None:
    scheduler = make_scheduler(max_queue_pixels=1000)
    scheduler.admit(5000)
    assert scheduler.queued_pixels == 5000


def test_queue_that_would_outlast_a_request_is_busy() -> None:
    scheduler = make_scheduler(seconds_per_pixel=0.01, max_sync_seconds=10)
    scheduler.admit(900)
    with pytest.raises(Busy) as caught:
        scheduler.admit(950)
    assert caught.value.retry_after_seconds == 9  # 18.5 seconds of work, 10 allowed


def test_small_picture_is_admitted_behind_a_large_one_that_fills_the_time() -> None:
    scheduler = make_scheduler(seconds_per_pixel=0.01, max_sync_seconds=10)
    scheduler.admit(1000)
    scheduler.admit(300)  # goes first, but for the share of the oldest
    scheduler.admit(400)
    with pytest.raises(Busy):
        scheduler.admit(500)  # (300 + 400 + 500) / 100 seconds / (3/4)
    assert scheduler.queued_pixels == 1700


def test_asynchronous_pictures_count_as_work_and_not_as_waiting() -> None:
    scheduler = make_scheduler(max_queue_pixels=1000)
    scheduler.enter(5000)
    scheduler.admit(900)
    assert scheduler.queued_pixels == 5900
    scheduler.finish(5000, asynchronous=True)
    scheduler.finish(900)
    assert scheduler.queued_pixels == 0


def test_asynchronous_queue_is_bounded_in_pixels() -> None:
    scheduler = make_scheduler(max_queue_pixels=1000)
    scheduler.check_room(5000, open_pixels=0)
    scheduler.check_room(400, open_pixels=600)
    with pytest.raises(Busy):
        scheduler.check_room(401, open_pixels=600)


def test_asynchronous_queue_is_bounded_in_number() -> None:
    scheduler = make_scheduler(max_queue_pixels=6_400_000)
    scheduler.check_room(1, open_pixels=999, open_jobs=999)
    with pytest.raises(Busy) as caught:
        scheduler.check_room(1, open_pixels=1000, open_jobs=1000)
    assert caught.value.retry_after_seconds


def test_picture_that_alone_outlasts_a_request_is_too_costly() -> None:
    scheduler = make_scheduler(seconds_per_pixel=0.01, max_sync_seconds=10)
    with pytest.raises(TooCostly, match=r"20 seconds.*Prefer: respond-async"):
        scheduler.admit(2000)
    assert scheduler.queued_pixels == 0


def test_more_waiting_requests_than_allowed_are_busy() -> None:
    scheduler = make_scheduler(max_waiting_requests=1)
    with scheduler.waiting_request():
        with pytest.raises(Busy) as caught, scheduler.waiting_request():
            pass
        assert caught.value.retry_after_seconds == 1
    with scheduler.waiting_request():
        assert scheduler.waiting_requests == 1


def test_pictures_are_decoded_only_while_memory_is_left() -> None:
    scheduler = make_scheduler(max_decoded_bytes=100)
    in_memory: list[int] = []
    most: list[int] = []
    lock = threading.Lock()

    def hold(size: int) -> None:
        with scheduler.decoded_picture(size):
            with lock:
                in_memory.append(size)
                most.append(sum(in_memory))
            threading.Event().wait(0.01)
            with lock:
                in_memory.remove(size)

    with ThreadPoolExecutor(12) as pool:
        list(pool.map(hold, [40, 30, 50, 70, 20, 10] * 4))
    # Three quarters of the memory are for pictures larger than a sixteenth of it.
    assert 50 < max(most) <= 75
    assert scheduler.decoded_bytes == 0


def test_picture_larger_than_all_memory_is_decoded_alone() -> None:
    scheduler = make_scheduler(max_decoded_bytes=100)
    small_may_end = threading.Event()
    small_started = threading.Event()
    large_started = threading.Event()

    def hold_small() -> None:
        with scheduler.decoded_picture(10):
            small_started.set()
            assert small_may_end.wait(10)

    def hold_large() -> None:
        with scheduler.decoded_picture(1000):
            large_started.set()

    with ThreadPoolExecutor(2) as pool:
        pool.submit(hold_small)
        assert small_started.wait(10)
        pool.submit(hold_large)
        assert not large_started.wait(0.1)
        small_may_end.set()
        assert large_started.wait(10)


def test_small_picture_does_not_wait_for_a_large_one() -> None:
    scheduler = make_scheduler(max_decoded_bytes=1600)
    with scheduler.decoded_picture(5000), scheduler.decoded_picture(100):
        assert scheduler.decoded_bytes == 5100
    assert scheduler.decoded_bytes == 0


def test_uploads_read_at_once_are_limited() -> None:
    scheduler = make_scheduler(max_uploads_at_once=1)
    with scheduler.reading_upload(), pytest.raises(Busy), scheduler.reading_upload():
        pass
    with scheduler.reading_upload():
        pass


def test_memory_is_given_back_when_decoding_fails() -> None:
    scheduler = make_scheduler(max_decoded_bytes=100)
    with pytest.raises(ValueError, match="broken"), scheduler.decoded_picture(60):
        raise ValueError("broken")
    assert scheduler.decoded_bytes == 0
