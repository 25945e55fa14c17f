from typing import Any

import pytest

from superres.engines.speed_meter import Speed
from superres.errors import Busy, TooCostly
from superres.excess import Excess
from superres.service.scheduler import Scheduler
from superres.settings import Settings

MICROSECOND = 1e-6


def make_scheduler(
    seconds_per_pixel: float = MICROSECOND, load: float = 1, **limits: Any
) -> Scheduler:
    """Return a scheduler on a machine whose other load makes it so many times slower."""
    speed = Speed(seconds_per_pixel * load, seconds_per_pixel)
    return Scheduler(Settings(**limits), lambda: speed)


def test_picture_within_the_limits_is_admitted_until_it_is_finished() -> None:
    scheduler = make_scheduler(max_queue_pixels=1000)
    place = scheduler.admit(600)
    assert scheduler.queued_pixels == 600
    place.release()
    assert scheduler.queued_pixels == 0


def test_full_queue_is_busy_and_says_when_there_will_be_room() -> None:
    scheduler = make_scheduler(seconds_per_pixel=0.01, max_queue_pixels=1000)
    scheduler.admit(800)
    with pytest.raises(Busy) as caught:
        scheduler.admit(700)
    # 500 pixels have to be computed before 700 fit.
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
    scheduler.admit(300)  # goes first, except for the oldest's share
    scheduler.admit(400)
    with pytest.raises(Busy):
        scheduler.admit(500)  # (300 + 400 + 500) / 100 seconds / (3/4)
    assert scheduler.queued_pixels == 1700


def test_asynchronous_pictures_count_as_work_and_not_as_waiting() -> None:
    scheduler = make_scheduler(max_queue_pixels=1000)
    asynchronous = scheduler.enter(5000)
    waited_for = scheduler.admit(900)
    assert scheduler.queued_pixels == 5900
    asynchronous.release()
    scheduler.admit(100)  # with the other, all that may wait
    waited_for.release()
    assert scheduler.queued_pixels == 100


def test_place_is_given_back_once_and_not_that_of_an_equal_picture() -> None:
    scheduler = make_scheduler()
    first, second, third = (scheduler.admit(400), scheduler.enter(400), scheduler.admit(400))
    assert first.arrival < second.arrival < third.arrival
    second.release()
    second.release()
    assert scheduler.queued_pixels == 800
    assert (first.is_waited_for, second.is_waited_for) == (True, False)


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
    with pytest.raises(TooCostly, match=r"20 seconds.*Prefer: respond-async") as caught:
        scheduler.admit(2000)
    assert caught.value.excess == Excess("sync_seconds", 10, 20)
    assert scheduler.queued_pixels == 0


def test_load_by_others_delays_a_picture_and_does_not_make_it_too_costly() -> None:
    scheduler = make_scheduler(seconds_per_pixel=0.01, load=3, max_sync_seconds=10)
    with pytest.raises(TooCostly):
        scheduler.admit(1001)
    # The queue is empty: the load may have ended since it was measured.
    first = scheduler.admit(400)
    with pytest.raises(Busy) as caught:
        scheduler.admit(600)  # (400 + 600) pixels at 0.03 seconds
    assert caught.value.retry_after_seconds == 20
    first.release()
    scheduler.admit(600)
    assert scheduler.busy("").retry_after_seconds == 18


def test_more_waiting_requests_than_allowed_are_busy() -> None:
    scheduler = make_scheduler(max_waiting_requests=1)
    with scheduler.waiting_request():
        with pytest.raises(Busy) as caught, scheduler.waiting_request():
            pass
        assert caught.value.retry_after_seconds == 1
    with scheduler.waiting_request():
        assert scheduler.waiting_requests == 1


def test_uploads_read_at_once_are_limited() -> None:
    scheduler = make_scheduler(max_uploads_at_once=1)
    with scheduler.reading_upload(), pytest.raises(Busy), scheduler.reading_upload():
        pass
    with scheduler.reading_upload():
        pass
