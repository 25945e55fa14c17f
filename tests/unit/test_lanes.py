import heapq
import os
import threading
from collections import deque
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import pytest

from superres.engines.lanes import LANE_NICENESS, FairOrder, Lanes, Progress, Task, Work
from superres.errors import JobCancelled
from superres.images.pixels import Pixels

TILE = 100  # pixels of a tile in the simulation; it takes one unit of time


def simulate(arrivals: Mapping[str, tuple[float, int]], lanes: int = 2) -> dict[str, float]:
    """Run images, name -> (arrival, number of tiles), with a fake clock; return their times.

    The time is from arrival until the last tile is done.
    """
    order = FairOrder()
    works: dict[str, Work] = {}
    finished: dict[str, float] = {}
    coming = deque(sorted(arrivals.items(), key=lambda item: item[1][0]))
    free = [(0.0, lane) for lane in range(lanes)]  # when each lane is free again
    running: list[tuple[float, str]] = []
    now = 0.0
    while coming or any(work.tasks for work in works.values()):
        free_from, lane = heapq.heappop(free)
        now = max(now, free_from)
        if not len(order) and coming:
            now = max(now, coming[0][1][0])
        while coming and coming[0][1][0] <= now:
            name, (_, tiles) = coming.popleft()
            tasks = deque([Task(lambda _lane: None, TILE)] * tiles)
            works[name] = Work(tasks, Progress(), tiles * TILE)
            order.add(works[name])
        while running and running[0][0] <= now:
            _, name = heapq.heappop(running)
            works[name].remaining_pixels -= TILE
        work = order.pick()
        assert work is not None
        work.tasks.popleft()
        if not work.tasks:
            order.remove(work)
        name = next(key for key, value in works.items() if value is work)
        heapq.heappush(free, (now + 1, lane))
        heapq.heappush(running, (now + 1, name))
        finished[name] = now + 1
    return {name: finished[name] - come for name, (come, _) in arrivals.items()}


def test_small_picture_behind_a_large_one_takes_about_its_own_time() -> None:
    times = simulate({"large": (0, 400), "small": (10.5, 1)})
    assert times["small"] <= 2
    assert times["large"] <= 201


def test_hundred_thumbnails_are_not_held_up_by_a_poster() -> None:
    alone = simulate({f"small{i}": (10, 1) for i in range(100)})
    beside = simulate({"large": (0, 4000)} | {f"small{i}": (10, 1) for i in range(100)})
    assert max(alone.values()) == 50
    # One tile in four is for the poster.
    assert max(value for name, value in beside.items() if name != "large") <= 50 * 4 / 3 + 1


def test_large_picture_never_starves() -> None:
    # Small images that alone would keep both lanes busy forever.
    crowd = {f"small{i}": (i / 2, 1) for i in range(2000)}
    times = simulate({"large": (0, 200)} | crowd)
    assert times["large"] <= 200 / 2 * 4 + 2


def test_equal_pictures_are_served_in_the_order_of_arrival() -> None:
    times = simulate({"first": (0, 20), "second": (0, 20)}, lanes=1)
    assert times["first"] < times["second"] == 40


def double(image: Pixels) -> Pixels:
    return image


@pytest.fixture
def lanes() -> Lanes:
    return Lanes(2)


def test_all_tasks_are_run_and_counted(lanes: Lanes) -> None:
    progress = Progress()
    seen: list[int] = []
    lanes.run([Task(lambda _lane: seen.append(1), 10, tiles=2)] * 50, progress)
    lanes.close()
    assert len(seen) == 50
    assert (progress.tiles_done, progress.tiles_total) == (100, 100)


def test_lanes_give_way_to_threads_that_answer_requests(lanes: Lanes) -> None:
    found: list[int] = []

    def look(_lane: int) -> None:
        found.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))

    lanes.run([Task(look, TILE)] * 4, Progress())
    # The tests may have been started with any niceness; 19 is the maximum.
    assert set(found) == {min(os.nice(0) + LANE_NICENESS, 19)}


def test_lanes_compute_where_a_sandbox_forbids_priorities(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "setpriority", refuse)
    lanes = Lanes(1)
    progress = Progress()
    lanes.run([Task(lambda _lane: None, TILE)], progress)
    assert progress.tiles_done == 1
    lanes.close()


def test_failing_task_ends_the_picture_and_no_other(lanes: Lanes) -> None:
    def fail(_lane: int) -> None:
        raise ValueError("tile")

    with pytest.raises(ValueError, match="tile"):
        lanes.run([Task(fail, 10)] * 20, Progress())
    progress = Progress()
    lanes.run([Task(lambda _lane: None, 10)] * 5, progress)
    lanes.close()
    assert progress.tiles_done == 5


def test_cancelled_picture_stops_within_a_tile_of_each_lane(lanes: Lanes) -> None:
    progress = Progress()
    go_on = threading.Event()
    started = threading.Semaphore(0)
    ran = []

    def wait(_lane: int) -> None:
        started.release()
        assert go_on.wait(20)
        ran.append(1)

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(lanes.run, [Task(wait, 10)] * 50, progress)
        assert started.acquire(timeout=20)
        assert started.acquire(timeout=20)
        progress.cancelled = True
        go_on.set()
        with pytest.raises(JobCancelled):
            running.result(20)
    lanes.close()
    assert len(ran) == 2


def test_picture_that_no_lane_has_taken_is_cancelled_at_once(lanes: Lanes) -> None:
    go_on = threading.Event()
    started = threading.Semaphore(0)

    def wait(_lane: int) -> None:
        started.release()
        assert go_on.wait(20)

    with ThreadPoolExecutor(2) as pool:
        large = pool.submit(lanes.run, [Task(wait, 1)] * 2, Progress())
        assert started.acquire(timeout=20)
        assert started.acquire(timeout=20)
        with pytest.raises(JobCancelled):
            lanes.run([Task(wait, 100)], Progress(cancelled=True))
        assert not large.done()
        go_on.set()
        large.result(20)
    lanes.close()
