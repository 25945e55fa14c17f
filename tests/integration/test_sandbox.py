"""Images are decoded and encoded in sandboxed processes that may die."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage import data

from superres.engines.model_loader import ModelLoader
from superres.engines.upscaler import Upscaler
from superres.errors import Busy, ClientLeft, TooManyPixels, UndecodableImage, UnsupportedUpload
from superres.images.code_points import PQ
from superres.images.image_codec import decode_image
from superres.images.metadata import Metadata
from superres.images.options import Options
from superres.images.picture import Picture
from superres.images.png_file import make_chunk
from superres.images.shared_arrays import make_shared_memory
from superres.paths import EMBEDDED_MODEL_PATH
from superres.sandbox.confinement import Limits
from superres.sandbox.picture_transfer import (
    map_sealed,
    read_picture,
    write_picture,
)
from superres.sandbox.sandbox import Sandbox
from superres.sandbox.sandbox_helper import CHILDREN_READY
from superres.service.runner import Runner
from superres.service.sandboxed_codec import SandboxedCodec, open_descriptor, share_picture
from superres.service.upload import SPOOL_BYTES
from superres.settings import Settings
from testkit.coloured_files import avif, gama, heic_of, png
from testkit.heif_files import heic, lying_heic, much_exif
from testkit.hostile import ROOM, jpeg_segments, lying_avif, png_header
from testkit.kinds import KINDS
from testkit.pictures import encode

MAX_PIXELS = 16_000_000


@pytest.fixture(scope="module")
def codec() -> Iterator[SandboxedCodec]:
    made = SandboxedCodec("safe")
    yield made
    made.sandbox.close()


@pytest.fixture
def upload(photo_jpeg: bytes) -> BytesIO:
    return BytesIO(photo_jpeg)


def share_and_encode(
    codec: SandboxedCodec,
    picture: Picture,
    options: Options,
    has_left: Callable[[], bool] = lambda: False,
) -> memoryview:
    shared = share_picture(picture, options)
    return codec.encode(shared, options, has_left)


def read_and_decode(codec: SandboxedCodec, content: bytes) -> Picture:
    file = BytesIO(content)
    return codec.decode(file, codec.read_header(file, MAX_PIXELS))


def test_decoded_and_encoded_as_in_this_process(codec: SandboxedCodec, upload: BytesIO) -> None:
    from superres.images.encoders import encode_picture

    picture = read_and_decode(codec, upload.getvalue())
    expected = decode_image(upload, "safe")
    assert np.array_equal(picture.pixels, expected.pixels)
    assert picture.metadata == expected.metadata
    for options in (Options(), Options("webp", 90), Options("jpeg", 92), Options("avif", 80)):
        assert bytes(share_and_encode(codec, picture, options)) == bytes(
            encode_picture(expected, options)
        )


@pytest.mark.parametrize("policy", ["safe", "all"])
def test_confined_process_reads_and_writes_all_metadata(policy: str) -> None:
    """Nothing of it needs a file, such as a module that is imported late."""
    from superres.images.encoders import encode_picture

    codec = SandboxedCodec(policy)
    for kind in ("PNG with metadata", "JPEG with metadata"):
        content = KINDS[kind].content()
        picture = read_and_decode(codec, content)
        assert picture.metadata == decode_image(BytesIO(content), policy).metadata
        assert picture.metadata.xmp is not None
        for options in (Options(), Options("jpeg", 90), Options("webp", 90), Options("avif", 80)):
            assert share_and_encode(codec, picture, options) == encode_picture(picture, options)
    codec.sandbox.close()


def test_confined_process_reaches_nothing(codec: SandboxedCodec, upload: BytesIO) -> None:
    script = """
import fcntl, os, signal, socket, sys, threading
from superres.sandbox.confinement import Confinement, Limits, SystemCallFilter
confinement = Confinement(SystemCallFilter())
confinement.finish(Limits(2**28, 5, 1000))
print(*confinement.locks)
def attempt(what):
    try:
        what()
        return "done"
    except (OSError, MemoryError) as error:
        return type(error).__name__
print(attempt(lambda: os.open("/etc/passwd", os.O_RDONLY)))
print(attempt(lambda: os.open("/tmp/written", os.O_CREAT | os.O_WRONLY)))
print(attempt(lambda: socket.socket()))
print(attempt(os.fork))
print(attempt(lambda: os.execv("/bin/true", ["true"])))
print(attempt(lambda: os.kill(os.getppid(), 0)))
print(attempt(lambda: signal.pthread_kill(threading.get_ident(), 0)))
print(attempt(lambda: fcntl.fcntl(0, fcntl.F_SETOWN, os.getppid())))
print(attempt(lambda: bytearray(2**29)))
sys.stdout.flush()
os._exit(0)
"""
    shown = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout.split("\n")
    assert shown[0].split() == ["landlock", "rlimit", "seccomp"]
    assert shown[1:9] == ["PermissionError"] * 8
    assert shown[9] == "MemoryError"


def test_each_lock_holds_alone() -> None:
    """Without seccomp, Landlock still denies files; without Landlock, seccomp does."""
    script = """
import os
from superres.sandbox import confinement
{lock}
try:
    os.open("/etc/passwd", os.O_RDONLY)
except OSError as error:
    os.write(1, type(error).__name__.encode())
os._exit(0)
"""
    for lock in (
        "confinement.libc.prctl(confinement.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)\n"
        "assert confinement.apply_landlock()",
        "confinement.libc.prctl(confinement.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)\n"
        "assert confinement.SystemCallFilter().apply()",
    ):
        shown = subprocess.run(
            [sys.executable, "-c", script.format(lock=lock)], capture_output=True, check=True
        )
        assert shown.stdout == b"PermissionError"


@pytest.mark.parametrize(
    "content",
    [
        b"GIF89a\0\0\0\0\0\0\0,\0\0\0\0\xff\xff\xff\xff\0\x02\x02\x44\x01\0;",
        b"GIF89a\x28\x23\x28\x23\0\0\0,\0\0\0\0\x28\x23\x28\x23\0\x02\x02\x44\x01\0;",
        b"RIFF\x1e\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0\xfe\x3f\0\xfe\x3f\0",
    ],
    ids=["65535 GIF", "9000 GIF", "16383 WebP"],
)
def test_picture_too_large_to_open_is_refused_before_room_is_made(
    codec: SandboxedCodec, content: bytes
) -> None:
    with pytest.raises((TooManyPixels, UndecodableImage)):
        codec.read_header(BytesIO(content), MAX_PIXELS)
    assert codec.deaths == 0


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (jpeg_segments(b"\xff\xe5\x00\x02", ROOM), "more memory|longer"),
        (jpeg_segments(b"\xff\xe1\x00\x0bExif\0\0ABC", 8_000_000), "more memory|longer"),
    ],
    ids=["empty segments", "Exif in pieces"],
)
def test_header_that_takes_memory_or_time_ends_with_its_process(content: bytes, words: str) -> None:
    codec = SandboxedCodec("safe")
    with pytest.raises(UndecodableImage, match=words):
        codec.read_header(BytesIO(content), MAX_PIXELS)
    assert codec.deaths == 1
    codec.sandbox.close()


def test_picture_that_takes_more_than_its_header_says_is_refused(codec: SandboxedCodec) -> None:
    for content in (lying_avif(6000, 16), lying_heic(3000, 16)):
        file = BytesIO(content)
        header = codec.read_header(file, MAX_PIXELS)
        assert header.pixels == 256
        with pytest.raises(UndecodableImage):
            codec.decode(file, header)


@pytest.mark.parametrize("tile_size", [0, 64], ids=["whole", "tiles"])
def test_heic_is_decoded_without_files_or_helpers(codec: SandboxedCodec, tile_size: int) -> None:
    photo = Image.fromarray(data.astronaut())
    file = BytesIO(heic(photo, quality=95, tile_size=tile_size))
    picture = codec.decode(file, codec.read_header(file, MAX_PIXELS))
    assert np.abs(picture.pixels[:, :, ::-1].astype(int) - np.asarray(photo)).mean() < 3


@pytest.mark.parametrize(
    "content", [avif(9, PQ), heic_of(12, 13), png(gama(1.0))], ids=["AVIF", "HEIC", "PNG"]
)
def test_colours_without_a_profile_leave_the_sandbox(codec: SandboxedCodec, content: bytes) -> None:
    file = BytesIO(content)
    metadata = codec.decode(file, codec.read_header(file, MAX_PIXELS)).metadata
    assert metadata == decode_image(BytesIO(content)).metadata
    assert metadata.icc_profile is not None


def test_exif_that_takes_gigabytes_ends_with_its_process() -> None:
    codec = SandboxedCodec("safe")
    with pytest.raises(UndecodableImage):
        codec.read_header(BytesIO(much_exif(900, 10**7)), MAX_PIXELS)
    assert codec.deaths == 1
    codec.sandbox.close()


def test_what_is_no_picture_is_told(codec: SandboxedCodec) -> None:
    with pytest.raises(UnsupportedUpload, match="not an image in a supported format"):
        codec.read_header(BytesIO(b"hello"), MAX_PIXELS)


def test_warnings_are_one_line_of_the_log(
    codec: SandboxedCodec, caplog: pytest.LogCaptureFixture
) -> None:
    tags = range(40_000, 60_000)
    entries = b"".join(
        tag.to_bytes(2, "little") + b"\1\0" + (10**8).to_bytes(4, "little") + b"\10\0\0\0"
        for tag in tags
    )
    exif = b"II*\0\10\0\0\0" + len(tags).to_bytes(2, "little") + entries + bytes(4)
    pixel = make_chunk(b"IDAT", b"x\x9cc`dbf\x01\0\0\x11\0\x07")
    content = png_header(1, 1) + make_chunk(b"eXIf", exif) + pixel + make_chunk(b"IEND", b"")
    codec.read_header(BytesIO(content), MAX_PIXELS)
    (record,) = caplog.records
    assert "20000 warnings" in record.getMessage()
    assert "\n" not in record.getMessage()
    assert len(record.getMessage()) < 1000


def test_helper_that_died_is_started_again(codec: SandboxedCodec, upload: BytesIO) -> None:
    expected = codec.read_header(upload, MAX_PIXELS)
    former = codec.sandbox.helper_pid
    assert former is not None
    os.kill(former, signal.SIGKILL)
    assert codec.read_header(upload, MAX_PIXELS) == expected
    assert codec.sandbox.helper_pid != former


def children_of(process: int) -> list[int]:
    path = Path(f"/proc/{process}/task/{process}/children")
    return [int(child) for child in path.read_text().split()]


def wait_for_idle_children(helper: int) -> list[int]:
    """Wait until only the children that wait for a task are left; return them, oldest first."""
    deadline = time.monotonic() + 30
    former: list[int] = []
    while len(children := children_of(helper)) != CHILDREN_READY or children != former:
        assert time.monotonic() < deadline
        former = children
        time.sleep(0.2)
    return children


def test_child_is_killed_when_nobody_waits_any_more(codec: SandboxedCodec) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (3000, 3000, 3), np.uint8))
    picture = Picture(np.asarray(image))
    left = threading.Event()
    threading.Timer(0.3, left.set).start()
    with pytest.raises(ClientLeft):
        share_and_encode(codec, picture, Options("webp"), left.is_set)
    assert codec.sandbox.helper_pid is not None
    wait_for_idle_children(codec.sandbox.helper_pid)


def test_helper_ends_with_its_service(upload: BytesIO) -> None:
    script = """
import sys
from io import BytesIO
from superres.service.runner import Runner
from superres.service.sandboxed_codec import SandboxedCodec
codec = SandboxedCodec("safe")
codec.read_header(BytesIO(open(sys.argv[1], "rb").read()), 10**8)
print(codec.sandbox.helper_pid, flush=True)
sys.stdin.read()
"""
    path = EMBEDDED_MODEL_PATH.with_name("golden_input.png")
    service = subprocess.Popen(
        [sys.executable, "-c", script, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert service.stdout is not None
    assert service.stdin is not None
    helper = int(service.stdout.readline())
    children = wait_for_idle_children(helper)
    service.kill()
    service.wait()
    service.stdout.close()
    service.stdin.close()
    for process in (helper, *children):
        deadline = time.monotonic() + 30
        while Path(f"/proc/{process}").exists() and is_running(process):
            assert time.monotonic() < deadline
            time.sleep(0.01)


def is_running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_idle_child_that_was_killed_is_replaced(upload: BytesIO) -> None:
    codec = SandboxedCodec("safe")
    expected = codec.read_header(upload, MAX_PIXELS)
    helper = codec.sandbox.helper_pid
    assert helper is not None
    for idle in wait_for_idle_children(helper):
        os.kill(idle, signal.SIGKILL)
        while is_running(idle):
            time.sleep(0.01)
    assert codec.read_header(upload, MAX_PIXELS) == expected
    assert (codec.sandbox.helper_pid, codec.deaths) == (helper, 0)
    codec.sandbox.close()


def test_child_that_is_killed_at_work_can_be_tried_again(codec: SandboxedCodec) -> None:
    codec.start()
    noise = np.random.default_rng(0).integers(0, 256, (2500, 2500, 3), np.uint8)
    helper = codec.sandbox.helper_pid
    assert helper is not None
    idle = wait_for_idle_children(helper)

    def kill_when_at_work() -> None:
        while children_of(helper) == idle:
            time.sleep(0.01)
        os.kill(idle[0], signal.SIGKILL)

    killer = threading.Thread(target=kill_when_at_work)
    killer.start()
    with pytest.raises(Busy, match="memory"):
        share_and_encode(codec, Picture(noise), Options("webp"))
    killer.join()


def test_helper_that_hangs_is_replaced(upload: BytesIO, monkeypatch: pytest.MonkeyPatch) -> None:
    codec = SandboxedCodec("safe")
    expected = codec.read_header(upload, MAX_PIXELS)
    monkeypatch.setattr("superres.sandbox.sandbox.PATIENCE_SECONDS", 1)
    monkeypatch.setattr("superres.sandbox.sandbox.PATIENCE_FACTOR", 0)
    hanging = codec.sandbox.helper_pid
    assert hanging is not None
    os.kill(hanging, signal.SIGSTOP)
    with pytest.raises(Busy):
        codec.read_header(upload, MAX_PIXELS)
    monkeypatch.undo()
    assert codec.read_header(upload, MAX_PIXELS) == expected
    assert not Path(f"/proc/{hanging}").exists()
    codec.sandbox.close()


def test_no_stream_of_the_service_is_handed_down(codec: SandboxedCodec, upload: BytesIO) -> None:
    """Otherwise a compromised decoder could write to a log or pipe behind standard output."""
    codec.read_header(upload, MAX_PIXELS)
    helper = codec.sandbox.helper_pid
    assert helper
    # Of the children, the idle ones stay; the one that has replied may end meanwhile.
    for process in (helper, *wait_for_idle_children(helper)):
        for stream in (0, 1):
            assert Path(f"/proc/{process}/fd/{stream}").readlink() == Path(os.devnull)


def test_child_cannot_give_another_one_orders(codec: SandboxedCodec, upload: BytesIO) -> None:
    """Otherwise a compromised decoder could do so, and spoil the next client's image."""
    codec.read_header(upload, MAX_PIXELS)
    helper = codec.sandbox.helper_pid
    assert helper
    for process in wait_for_idle_children(helper):
        opened = [str(each.readlink()) for each in Path(f"/proc/{process}/fd").iterdir()]
        assert len([each for each in opened if each.startswith("socket:")]) == 1


def test_small_helper(codec: SandboxedCodec, upload: BytesIO) -> None:
    codec.read_header(upload, MAX_PIXELS)
    status = Path(f"/proc/{codec.sandbox.helper_pid}/status").read_text()
    values = dict(line.split(":\t") for line in status.splitlines() if ":\t" in line)
    # How much of the libraries is mapped is up to the kernel: 40 MB here, 70 MB there.
    assert int(values["RssAnon"].split()[0]) * 1024 < 45_000_000
    assert values["Threads"].strip() == "1"


def test_many_threads_at_once(codec: SandboxedCodec, upload: BytesIO) -> None:
    expected = codec.read_header(upload, MAX_PIXELS)
    answers = []

    def read() -> None:
        answers.append(codec.read_header(BytesIO(upload.getvalue()), MAX_PIXELS))

    threads = [threading.Thread(target=read) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [expected] * 20


def test_shared_picture_comes_out_as_it_went_in() -> None:
    random = np.random.default_rng(1)
    picture = Picture(
        random.integers(0, 256, (5, 7, 3), np.uint8),
        random.integers(0, 256, (5, 7), np.uint8),
        random.integers(0, 65536, (5, 7, 3), np.uint16),
        Metadata(b"profile", b"exif", (72.5, 300), b"xmp", b"iptc", b"texts"),
    )
    descriptor = make_shared_memory()
    description = write_picture(picture, descriptor)
    memory = map_sealed(descriptor)
    assert memory is not None
    found = read_picture([memory], description)
    for name in ("pixels", "alpha", "deep"):
        assert np.array_equal(getattr(found, name), getattr(picture, name))
    assert found.metadata == picture.metadata
    with pytest.raises(OSError):
        os.write(descriptor, b"changed")
    with pytest.raises(OSError):
        os.ftruncate(descriptor, 1)
    os.close(descriptor)


@pytest.mark.parametrize("size", [10, SPOOL_BYTES + 1])
def test_descriptor_of_an_upload_has_a_position_of_its_own(size: int, tmp_path: Path) -> None:
    path = tmp_path / "upload"
    path.write_bytes(os.urandom(size))
    with path.open("rb") as file, open_descriptor(file) as descriptor:
        file.seek(3)
        assert os.read(descriptor, size) == path.read_bytes()
        assert file.tell() == 3


def test_limits_travel_as_they_are() -> None:
    limits = Limits(1, 2, 3)
    assert Limits(**limits.as_dict()) == limits


def test_sandbox_without_a_helper_says_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("superres.sandbox.sandbox.HELPER", "superres.sandbox.nowhere")
    with pytest.raises(Busy), open_descriptor(BytesIO(b"x")) as descriptor:
        Sandbox().run({"name": "check_header"}, [descriptor], Limits(1, 1, 1), lambda: False)


def test_gif_has_its_header_checked_however_many_pixels_are_accepted(
    codec: SandboxedCodec,
) -> None:
    gif = encode(Image.new("P", (5, 4)), "GIF")
    assert codec.read_header(BytesIO(gif), 10**9).pixels == 20


def test_locks_are_known_when_the_model_is_loaded(
    settings: Settings, fake_super_resolution: Upscaler
) -> None:
    known: list[tuple[str, ...]] = []

    def load() -> Upscaler:
        known.append(tuple(runner.resources.codec.sandbox.locks))
        return fake_super_resolution

    runner = Runner(settings, ModelLoader(load))
    try:
        runner.start()
        assert known == [tuple(runner.resources.codec.sandbox.locks)]
        assert known != [()]
    finally:
        runner.stop()
