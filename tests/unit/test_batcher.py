"""Tiles of all lanes in batches, on a device that may fail."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from superres.engines import batcher as batcher_module
from superres.engines.batcher import Batcher
from superres.errors import EngineLost
from superres.images.pixels import Pixels
from testkit.fakes import FakeDevice, repeat_pixels
from testkit.waiting import wait_until


@pytest.fixture
def device() -> FakeDevice:
    return FakeDevice()


@pytest.fixture
def batcher(device: FakeDevice) -> Iterator[Batcher]:
    made = Batcher(device)
    yield made
    device.may_go_on.set()
    made.close()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(16) as threads:
        yield threads


def draw_tiles(count: int) -> list[Pixels]:
    random = np.random.default_rng(0)
    return [random.integers(0, 256, (8 + index, 20 - index, 3), np.uint8) for index in range(count)]


def test_every_thread_gets_its_own_tile(batcher: Batcher, pool: ThreadPoolExecutor) -> None:
    tiles = draw_tiles(11)
    for tile, result in zip(tiles, pool.map(batcher, tiles), strict=True):
        np.testing.assert_array_equal(result, 255 - repeat_pixels(tile))


def test_tiles_that_come_together_share_a_batch(
    batcher: Batcher,
    device: FakeDevice,
    pool: ThreadPoolExecutor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(batcher_module, "GATHER_SECONDS", 30)
    list(pool.map(batcher, draw_tiles(8)))
    assert device.batches == [4, 4]


def test_tile_that_comes_alone_does_not_wait_for_more(batcher: Batcher, device: FakeDevice) -> None:
    batcher(draw_tiles(1)[0])
    assert device.batches == [1]


def test_full_batch_starts_while_another_is_computed_and_a_part_of_one_waits(
    batcher: Batcher, device: FakeDevice, pool: ThreadPoolExecutor
) -> None:
    device.may_go_on.clear()
    answers = [pool.submit(batcher, tile) for tile in draw_tiles(1)]
    wait_until(lambda: device.batches == [1])
    answers += [pool.submit(batcher, tile) for tile in draw_tiles(3)]
    wait_until(lambda: len(batcher._waiting) == 3)
    assert device.batches == [1]
    answers += [pool.submit(batcher, tile) for tile in draw_tiles(1)]
    wait_until(lambda: device.batches == [1, 4])
    # Its memory is for two batches.
    answers += [pool.submit(batcher, tile) for tile in draw_tiles(4)]
    wait_until(lambda: len(batcher._waiting) == 4)
    assert device.batches == [1, 4]
    device.may_go_on.set()
    for answer in answers:
        answer.result(30)
    assert device.batches == [1, 4, 4]


def test_failure_fails_all_tiles_in_flight_and_all_that_come(
    batcher: Batcher, device: FakeDevice, pool: ThreadPoolExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    device.good_batches = 1
    batcher(draw_tiles(1)[0])
    device.may_go_on.clear()
    answers = [pool.submit(batcher, tile) for tile in draw_tiles(11)]
    wait_until(lambda: len(batcher._unanswered) == 11)
    device.may_go_on.set()
    for answer in answers:
        with pytest.raises(EngineLost) as raised:
            answer.result(30)
        assert "secret" not in raised.value.message
    with pytest.raises(EngineLost):
        batcher(draw_tiles(1)[0])
    (record,) = caplog.records
    assert "CUDA error" in record.getMessage()


def test_device_that_hangs_is_lost(
    batcher: Batcher, device: FakeDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batcher_module, "BATCH_SECONDS", 0.1)
    device.may_go_on.clear()
    with pytest.raises(EngineLost):
        batcher(draw_tiles(1)[0])
    # What comes of it later has no taker.
    device.may_go_on.set()
    with pytest.raises(EngineLost):
        batcher(draw_tiles(1)[0])


def test_closing_computes_what_waits(device: FakeDevice, pool: ThreadPoolExecutor) -> None:
    batcher = Batcher(device)
    device.may_go_on.clear()
    answers = [pool.submit(batcher, tile) for tile in draw_tiles(7)]
    wait_until(lambda: len(batcher._unanswered) == 7)
    closing = threading.Thread(target=batcher.close)
    closing.start()
    device.may_go_on.set()
    closing.join(30)
    assert not closing.is_alive()
    assert all(answer.result(30).size for answer in answers)
