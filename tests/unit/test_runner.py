import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from super_resolution import SuperResolution
from superres.engines.model_loader import ModelLoader
from superres.engines.upscaler import Upscaler
from superres.errors import Busy, NotReady, ServiceError, TooManyPixels, UndecodableImage
from superres.images.options import Options
from superres.images.picture import ImageHeader
from superres.images.png_file import make_chunk
from superres.sandbox.sandbox import Sandbox
from superres.service.memory_estimate import peak_bytes
from superres.service.runner import Result, Runner
from superres.service.upload import Upload
from superres.settings import Settings
from superres.store.result_name import generate_file_hash
from superres.store.stored_result import StoredResult
from testkit.fakes import FakeModel
from testkit.pictures import encode, make_upload, read
from testkit.waiting import WAIT_SECONDS, wait_until


def pixels_of(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(BytesIO(content)))


RunnerMaker = Callable[..., Runner]


@pytest.fixture
def make_runner(
    settings: Settings, fake_super_resolution: Upscaler, sandbox: Sandbox
) -> Iterator[RunnerMaker]:
    made: list[Runner] = []

    def make(**changes: Any) -> Runner:
        runner = Runner(replace(settings, **changes), ModelLoader(lambda: fake_super_resolution))
        runner.resources.codec.sandbox = sandbox
        runner.start()
        made.append(runner)
        return runner

    yield make
    for runner in made:
        runner.stop()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(40) as executor:
        yield executor


def test_upload_is_computed_and_then_a_hit(make_runner: RunnerMaker) -> None:
    runner = make_runner()
    first = runner.enhance(make_upload(7))
    assert not first.hit
    content = read(first)
    assert pixels_of(content).shape == (60, 60, 3)
    assert pixels_of(content)[0, 0].tolist() == [7, 50, 60]
    second = runner.enhance(make_upload(7))
    assert second.hit
    assert (read(second), second.name, second.info) == (content, first.name, first.info)
    assert runner.statistics()["inferences"] == 1


def test_upload_file_is_closed_whatever_happens(make_runner: RunnerMaker) -> None:
    runner = make_runner(max_input_pixels=500)
    uploads = [make_upload(1), make_upload(1), make_upload(1, side=40)]
    read(runner.enhance(uploads[0]))
    read(runner.enhance(uploads[1]))
    with pytest.raises(TooManyPixels):
        runner.enhance(uploads[2])
    assert all(upload.file.closed for upload in uploads)


def test_upload_whose_file_was_taken_leaves_it_open() -> None:
    upload = make_upload(1)
    file = upload.take_file()
    upload.close()
    assert not file.closed
    with pytest.raises(AssertionError):
        upload.take_file()


def test_identical_uploads_at_once_are_computed_once(
    make_runner: RunnerMaker, fake_model: FakeModel, pool: ThreadPoolExecutor
) -> None:
    runner = make_runner()
    fake_model.may_go_on.clear()
    waiting = [pool.submit(runner.enhance, make_upload(3)) for _ in range(30)]
    wait_until(lambda: runner.statistics()["waiting_requests"] == 30)
    fake_model.may_go_on.set()
    contents = {read(future.result(WAIT_SECONDS)) for future in waiting}
    assert len(contents) == 1
    assert runner.statistics()["inferences"] == 1


def test_hit_does_not_wait_behind_inference(
    make_runner: RunnerMaker, fake_model: FakeModel, pool: ThreadPoolExecutor
) -> None:
    runner = make_runner()
    read(runner.enhance(make_upload(1)))
    fake_model.may_go_on.clear()
    fake_model.started.clear()
    waiting = [pool.submit(runner.enhance, make_upload(shade)) for shade in range(2, 30)]
    assert fake_model.started.wait(WAIT_SECONDS)
    hit = pool.submit(runner.enhance, make_upload(1)).result(WAIT_SECONDS)
    assert hit.hit
    read(hit)
    assert not any(future.done() for future in waiting)
    fake_model.may_go_on.set()
    for future in waiting:
        read(future.result(WAIT_SECONDS))


def test_result_stored_between_lookup_and_start_is_not_computed_again(
    make_runner: RunnerMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner, other = make_runner(), make_runner()
    open_result = runner.cache.open

    def miss_once(name: str) -> StoredResult | None:
        monkeypatch.setattr(runner.cache, "open", open_result)
        read(other.enhance(make_upload(5)))
        return None

    monkeypatch.setattr(runner.cache, "open", miss_once)
    read(runner.enhance(make_upload(5)))
    assert runner.statistics()["inferences"] == 0


def test_full_queue_and_full_waiting_room_are_busy(
    make_runner: RunnerMaker, fake_model: FakeModel, pool: ThreadPoolExecutor
) -> None:
    runner = make_runner(max_queue_pixels=1000, max_waiting_requests=3)
    fake_model.may_go_on.clear()
    waiting = [pool.submit(runner.enhance, make_upload(shade)) for shade in (1, 2)]
    wait_until(lambda: runner.statistics()["queue_pixels"] == 800)
    with pytest.raises(Busy, match="queue is full"):
        runner.enhance(make_upload(3))
    waiting.append(pool.submit(runner.enhance, make_upload(1)))
    wait_until(lambda: runner.statistics()["waiting_requests"] == 3)
    with pytest.raises(Busy, match="Too many requests"):
        runner.enhance(make_upload(1))
    fake_model.may_go_on.set()
    for future in waiting:
        read(future.result(WAIT_SECONDS))
    assert runner.statistics()["queue_pixels"] == 0
    assert runner.statistics()["waiting_requests"] == 0


def test_request_that_waited_long_enough_is_told_and_finds_the_result_later(
    make_runner: RunnerMaker, fake_model: FakeModel
) -> None:
    runner = make_runner(max_sync_seconds=1)
    fake_model.may_go_on.clear()
    with pytest.raises(Busy) as caught:
        runner.enhance(make_upload(1))
    assert caught.value.retry_after_seconds is not None
    fake_model.may_go_on.set()
    wait_until(lambda: runner.statistics()["queue_length"] == 0)
    again = runner.enhance(make_upload(1))
    read(again)
    assert again.hit


def test_undecodable_picture_fails_for_everybody_and_leaves_nothing(
    make_runner: RunnerMaker,
) -> None:
    runner = make_runner()
    content = encode(Image.new("RGB", (50, 50)), "PNG")[:-30]
    upload = Upload(BytesIO(content), generate_file_hash(content), "photo")
    with pytest.raises(UndecodableImage):
        runner.enhance(upload)
    statistics = runner.statistics()
    assert (statistics["queue_length"], statistics["queue_pixels"]) == (0, 0)
    assert upload.file.closed


def test_fault_of_the_network_is_an_error_without_its_text_and_the_next_try_works(
    make_runner: RunnerMaker, fake_model: FakeModel
) -> None:
    runner = make_runner()
    fake_model.error = cv2.error("secret detail")
    with pytest.raises(ServiceError) as caught:
        runner.enhance(make_upload(1))
    assert caught.value.status == 500
    assert "secret" not in caught.value.message
    fake_model.error = None
    read(runner.enhance(make_upload(1)))


def test_result_that_cannot_be_stored_is_delivered_all_the_same(
    make_runner: RunnerMaker, tmp_path: Path
) -> None:
    occupied = tmp_path / "a file"
    occupied.touch()
    runner = make_runner(cache_dir=occupied)
    result = runner.enhance(make_upload(9))
    assert pixels_of(read(result))[0, 0].tolist() == [9, 50, 60]
    assert runner.statistics()["cache_write_errors"] == 1


def test_result_that_is_removed_at_once_is_delivered_to_all(
    make_runner: RunnerMaker,
    fake_model: FakeModel,
    pool: ThreadPoolExecutor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runner = make_runner()
    finish = runner.jobs.finish

    def remove_then_finish(name: str, *more: Any) -> str | None:
        assert runner.cache.contains(name)
        assert runner.cache.remove(name)
        return finish(name, *more)

    monkeypatch.setattr(runner.jobs, "finish", remove_then_finish)
    fake_model.may_go_on.clear()
    waiting = [pool.submit(runner.enhance, make_upload(9)) for _ in range(2)]
    wait_until(lambda: runner.statistics()["waiting_requests"] == 2)
    fake_model.may_go_on.set()
    for future in waiting:
        assert pixels_of(read(future.result(WAIT_SECONDS)))[0, 0].tolist() == [9, 50, 60]


def test_pictures_wait_undecoded_while_memory_is_short(
    make_runner: RunnerMaker, fake_model: FakeModel, pool: ThreadPoolExecutor
) -> None:
    size_bytes = peak_bytes(ImageHeader(20, 20), Options(), 0) * 101 // 100
    runner = make_runner(max_decoded_bytes=size_bytes * 3 // 2)
    fake_model.may_go_on.clear()
    waiting: list[Future[Result]] = [
        pool.submit(runner.enhance, make_upload(shade)) for shade in range(6)
    ]
    wait_until(lambda: runner.statistics()["queue_length"] == 6)
    memory = runner.resources.memory
    wait_until(lambda: memory.used_bytes > 0 and memory.is_contended)
    assert memory.used_bytes < size_bytes
    fake_model.may_go_on.set()
    for future in waiting:
        read(future.result(WAIT_SECONDS))


def test_failed_job_frees_its_picture_at_once(make_runner: RunnerMaker) -> None:
    runner = make_runner()
    content = encode(Image.new("RGB", (50, 50)), "PNG")[:-30]
    upload = Upload(BytesIO(content), generate_file_hash(content), "photo")
    alive = weakref.ref(upload)
    gc.collect()
    gc.disable()  # memory freed only by the garbage collector is not accounted for
    try:
        with pytest.raises(UndecodableImage):
            runner.enhance(upload)
        del upload
        wait_until(lambda: alive() is None)
    finally:
        gc.enable()


def test_result_whose_place_is_taken_is_delivered_all_the_same(
    make_runner: RunnerMaker, settings: Settings
) -> None:
    runner = make_runner()
    upload = make_upload(4)
    (settings.cache_dir / runner.result_name(upload.key)).mkdir(parents=True)
    assert pixels_of(read(runner.enhance(upload)))[0, 0].tolist() == [4, 50, 60]
    assert runner.statistics()["cache_write_errors"] == 1


def test_small_picture_passes_a_large_one_that_fills_the_memory(
    make_runner: RunnerMaker, fake_model: FakeModel, pool: ThreadPoolExecutor
) -> None:
    large_bytes = peak_bytes(ImageHeader(1200, 1200), Options(), 10_000)
    runner = make_runner(max_decoded_bytes=large_bytes * 5 // 4)
    fake_model.may_go_on.clear()
    large = pool.submit(runner.enhance, make_upload(1, side=1200))
    memory = runner.resources.memory
    wait_until(lambda: memory.used_bytes > 0)
    alone = memory.used_bytes
    small = pool.submit(runner.enhance, make_upload(2))
    wait_until(lambda: memory.used_bytes > alone)
    fake_model.may_go_on.set()
    for future in (small, large):
        read(future.result(WAIT_SECONDS))


def test_result_names_change_with_the_model(
    make_runner: RunnerMaker, real_super_resolution: SuperResolution, settings: Settings
) -> None:
    other = Runner(settings, ModelLoader(lambda: real_super_resolution))
    key = generate_file_hash(b"x")
    names = {make_runner().result_name(key), other.result_name(key)}
    assert len(names) == 2
    assert all(name.startswith(key) for name in names)


def test_service_is_not_ready_while_loading_nor_while_stopping(
    settings: Settings, fake_super_resolution: Upscaler
) -> None:
    runner = Runner(settings, ModelLoader(lambda: fake_super_resolution))
    with pytest.raises(NotReady, match="loading"):
        runner.check_ready()
    runner.start()
    runner.check_ready()
    runner.begin_draining()
    with pytest.raises(NotReady, match="stopping"):
        runner.check_ready()


def test_model_that_computes_wrongly_serves_nothing_new(
    make_runner: RunnerMaker,
    settings: Settings,
    fake_super_resolution: Upscaler,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read(make_runner().enhance(make_upload(1)))
    monkeypatch.setattr(fake_super_resolution, "matches_golden_tile", lambda: False)
    runner = Runner(settings, ModelLoader(lambda: fake_super_resolution))
    runner.start()
    with pytest.raises(NotReady, match="gives wrong results"):
        runner.check_ready()
    with pytest.raises(NotReady):
        runner.enhance(make_upload(2))
    read(runner.enhance(make_upload(1)))


def test_model_is_loaded_once_whoever_asks_first(
    settings: Settings, fake_super_resolution: Upscaler, pool: ThreadPoolExecutor
) -> None:
    loads = []

    def load() -> Upscaler:
        loads.append(1)
        threading.Event().wait(0.05)
        return fake_super_resolution

    runner = Runner(settings, ModelLoader(load))
    list(pool.map(lambda _: runner.model_loader.get(), range(16)))
    assert len(loads) == 1


def png_turned_behind_its_pixels(width: int, height: int) -> bytes:
    exif = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    content = encode(Image.new("RGB", (width, height)), "PNG")
    return content[:-12] + make_chunk(b"eXIf", exif) + content[-12:]


def test_picture_that_is_much_more_than_its_header_check_saw_is_refused(
    make_runner: RunnerMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = make_runner()
    content = png_turned_behind_its_pixels(400, 10)

    def upload() -> Upload:
        return Upload(BytesIO(content), generate_file_hash(content), "photo")

    # 90x2 according to the header, actually 90x3600.
    assert pixels_of(read(runner.enhance(upload()))).shape[:2] == (1200, 30)
    monkeypatch.setattr(runner.resources.codec, "read_header", lambda *_: ImageHeader(400, 10))
    with pytest.raises(UndecodableImage):
        runner.enhance(upload(), Options(scale=None, width=90))
    assert runner.statistics()["inferences"] == 1


def test_transparency_behind_the_pixels_counts_for_nothing(make_runner: RunnerMaker) -> None:
    runner = make_runner()
    content = encode(Image.new("RGB", (9, 9), (1, 2, 3)), "PNG")
    content = content[:-12] + make_chunk(b"tRNS", bytes([0, 1, 0, 2, 0, 3])) + content[-12:]
    upload = Upload(BytesIO(content), generate_file_hash(content), "photo")
    assert Image.open(BytesIO(read(runner.enhance(upload)))).mode == "RGB"
