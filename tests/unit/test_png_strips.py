import zlib
from io import BytesIO

import cv2
import numpy as np
import pytest
from PIL import Image, ImageDraw
from skimage import data

from superres.images import png_strips
from superres.images.encoders import encode_picture, encode_png
from superres.images.options import Options
from superres.images.picture import Picture
from superres.images.png_file import walk_chunks
from superres.images.png_result import decode_png_result
from superres.images.png_strips import STRIP_BYTES, filter_paeth, join_checksums, read_samples
from superres.images.resampling import to_levels
from testkit.pictures import encode

EIGHT, SIXTEEN = np.uint8, np.uint16


def enlarge(pixels: np.ndarray) -> np.ndarray:
    """As a network would, without its noise."""
    size = (3 * pixels.shape[1], 3 * pixels.shape[0])
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_CUBIC), EIGHT)


def draw_mixture(height: int, width: int) -> np.ndarray:
    """Rows for each way to compress: noise, noise with flat parts, a drawn gradient."""
    random = np.random.default_rng(height)
    image = np.zeros((height, width, 3), EIGHT)
    third = -(-height // 3)
    image[:third] = random.integers(0, 256, image[:third].shape, EIGHT)
    image[third : 2 * third] = 7
    noisy = image[third : 2 * third, : 3 * width // 5]
    noisy[:] = random.integers(0, 256, noisy.shape, EIGHT)
    ramp = np.add.outer(np.arange(height), np.arange(width)) * 255 // (height + width)
    image[2 * third :] = ramp[2 * third :, :, np.newaxis]
    return image


def make_picture(height: int, width: int, is_grey: bool, has_alpha: bool, is_deep: bool) -> Picture:
    pixels = draw_mixture(height, width)
    alpha = np.ascontiguousarray(pixels[::-1, :, 1]) if has_alpha else None
    if is_grey:
        pixels = np.ascontiguousarray(pixels[:, :, 0])
    if not is_deep:
        return Picture(pixels, alpha)
    deep = np.atleast_3d(pixels).astype(SIXTEEN) * 255 + 11
    return Picture(to_levels(deep).reshape(pixels.shape), alpha, deep)


@pytest.mark.parametrize("is_deep", [False, True], ids=["8 bits", "16 bits"])
@pytest.mark.parametrize("has_alpha", [False, True], ids=["opaque", "transparent"])
@pytest.mark.parametrize("is_grey", [False, True], ids=["colour", "grey"])
def test_png_has_exactly_the_samples_that_went_in(
    is_grey: bool, has_alpha: bool, is_deep: bool
) -> None:
    strips = 0
    for height, width in ((1, 1), (1, 2), (2, 1), (700, 900), (3, 70_000)):
        picture = make_picture(height, width, is_grey, has_alpha, is_deep)
        content = bytes(encode_png(picture))
        found = decode_png_result(content)
        for name in ("pixels", "alpha", "deep"):
            expected = getattr(picture, name)
            assert (getattr(found, name) is None) == (expected is None)
            assert expected is None or np.array_equal(getattr(found, name), expected)
        with Image.open(BytesIO(content)) as image:
            image.load()  # and another decoder accepts it
        strips = max(strips, content.count(b"IDAT") - 1)
    assert strips > 2


def test_strips_are_one_zlib_stream_of_rows_with_known_filters() -> None:
    pixels = draw_mixture(700, 900)
    height, width = pixels.shape[:2]
    content = bytes(encode_png(Picture(pixels)))
    packed = [content[start:end] for name, start, end in walk_chunks(content) if name == b"IDAT"]
    rows = zlib.decompress(b"".join(packed))  # which checks the Adler-32
    assert len(rows) == height * (1 + 3 * width)
    assert set(rows[:: 1 + 3 * width]) == {0, 4}
    assert len(packed) == -(-height // (STRIP_BYTES // (1 + 3 * width))) + 1


def test_bytes_are_the_same_for_any_number_of_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    picture = make_picture(900, 1200, False, True, False)
    contents = set()
    for threads in (1, 2, 7):
        monkeypatch.setattr(png_strips, "count_threads", lambda threads=threads: threads)
        contents.add(bytes(encode_png(picture)))
    assert len(contents) == 1


def predict(left: int, above: int, corner: int) -> int:
    """PaethPredictor, as PNG's specification has it."""
    guess = left + above - corner
    to_left, to_above, to_corner = abs(guess - left), abs(guess - above), abs(guess - corner)
    if to_left <= to_above and to_left <= to_corner:
        return left
    return above if to_above <= to_corner else corner


def test_paeth_filter_is_that_of_the_specification() -> None:
    random = np.random.default_rng(0)
    # Of few values, so that there are ties.
    samples = np.concatenate(
        [random.integers(0, top, (30, 60), EIGHT, endpoint=True) for top in (255, 3)]
    )
    filtered = filter_paeth(samples, 3)
    assert (filtered[:, 0] == 4).all()
    expected = [
        [
            (
                int(samples[y, x])
                - predict(*map(int, (samples[y, x - 3], samples[y - 1, x], samples[y - 1, x - 3])))
            )
            % 256
            for x in range(3, 60)
        ]
        for y in range(1, 60)
    ]
    assert np.array_equal(filtered[:, 1:], expected)


def test_samples_are_in_the_order_of_png() -> None:
    pixels = np.array([[[1, 2, 3], [4, 5, 6]], [[7, 8, 9], [10, 11, 12]]], EIGHT)
    picture = Picture(pixels, np.array([[20, 30], [40, 50]], EIGHT))
    bytes_a_pixel, samples = read_samples(picture, 1, 2)
    assert bytes_a_pixel == 4
    assert samples.tolist() == [
        [0, 0, 0, 0, 3, 2, 1, 20, 6, 5, 4, 30],
        [0, 0, 0, 0, 9, 8, 7, 40, 12, 11, 10, 50],
    ]
    deep = np.array([[[0x0102], [0x0304]]], SIXTEEN)
    picture = Picture(np.array([[1, 3]], EIGHT), np.array([[0, 255]], EIGHT), deep)
    _, samples = read_samples(picture, 0, 1)
    assert samples.tolist() == [[0] * 12, [0, 0, 0, 0, 1, 2, 0, 0, 3, 4, 255, 255]]


@pytest.mark.parametrize("lengths", [(1, 1), (70_000, 3), (3, 70_000), (1, 1_000_000)])
def test_checksums_join_to_that_of_all_data(lengths: tuple[int, int]) -> None:
    first, second = (np.random.default_rng(each).bytes(each) for each in lengths)
    joined = join_checksums(zlib.adler32(first), zlib.adler32(second), len(second))
    assert joined == zlib.adler32(first + second)


def draw_graphics() -> np.ndarray:
    image = Image.new("RGB", (500, 400), (245, 246, 248))
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 0, 500, 36), fill=(40, 60, 110))
    for row in range(18):
        draw.text((16, 60 + 18 * row), "The quick brown fox jumps over the lazy dog. " * 2, fill=0)
    draw.ellipse((300, 200, 480, 380), fill=(200, 30, 60), outline="black")
    return enlarge(np.asarray(image))


@pytest.mark.parametrize(
    ("pixels", "is_drawn"),
    [
        (enlarge(data.astronaut()), False),
        (enlarge(data.coffee()), False),
        (enlarge(data.camera()), False),
        (draw_graphics(), True),
    ],
    ids=["astronaut", "coffee", "grey", "drawing"],
)
def test_png_is_at_most_three_percent_larger_than_libpngs(
    pixels: np.ndarray, is_drawn: bool
) -> None:
    """With the settings that suit each kind of image."""
    level, row_filter, strategy = (
        (4, cv2.IMWRITE_PNG_ALL_FILTERS, cv2.IMWRITE_PNG_STRATEGY_FILTERED)
        if is_drawn
        else (1, cv2.IMWRITE_PNG_FILTER_PAETH, cv2.IMWRITE_PNG_STRATEGY_RLE)
    )
    settings = [cv2.IMWRITE_PNG_COMPRESSION, level, cv2.IMWRITE_PNG_FILTER, row_filter]
    _, by_libpng = cv2.imencode(".png", pixels, [*settings, cv2.IMWRITE_PNG_STRATEGY, strategy])
    assert len(encode_png(Picture(pixels))) < 1.03 * len(by_libpng)


class ForgetfulPicture(Picture):
    """Spoils what it is told to forget."""

    def forget_rows(self, start: int, stop: int) -> None:
        assert 0 <= start <= stop <= self.size[1]
        for array in (self.pixels, self.alpha, self.deep):
            if array is not None:
                array[:stop] = 99


@pytest.mark.parametrize("options", [Options(), Options("jpeg", 90), Options("webp", 90)], ids=str)
@pytest.mark.parametrize("is_deep", [False, True], ids=["8 bits", "16 bits"])
def test_rows_are_forgotten_only_when_they_have_been_read(options: Options, is_deep: bool) -> None:
    picture = make_picture(700, 900, False, True, is_deep)
    expected = bytes(encode_picture(picture, options))
    forgetful = ForgetfulPicture(picture.pixels, picture.alpha, picture.deep)
    assert bytes(encode_picture(forgetful, options)) == expected
    assert (forgetful.pixels[:600] == 99).all()


@pytest.mark.parametrize("is_deep", [False, True], ids=["8 bits", "16 bits"])
@pytest.mark.parametrize("has_alpha", [False, True], ids=["opaque", "transparent"])
@pytest.mark.parametrize("is_grey", [False, True], ids=["colour", "grey"])
def test_gradient_is_about_as_small_as_libpngs(
    is_grey: bool, has_alpha: bool, is_deep: bool
) -> None:
    """Its filtered samples repeat, but no three bytes in a row are equal."""
    ramp = np.add.outer(np.arange(600) * 11, np.arange(700) * 23).astype(SIXTEEN)
    channels = [ramp, ramp // 2, ramp // 3]
    deep = np.ascontiguousarray(np.dstack(channels[:1] if is_grey else channels))
    levels = to_levels(deep)
    pixels = levels[:, :, 0] if is_grey else levels
    alpha = (ramp[::-1] // 257).astype(EIGHT) if has_alpha else None
    samples = [*cv2.split(deep if is_deep else levels)]
    if alpha is not None:
        # OpenCV writes no grey with transparency.
        samples = 3 * samples if is_grey else samples
        samples.append(alpha.astype(SIXTEEN) * 257 if is_deep else alpha)
    settings = [cv2.IMWRITE_PNG_COMPRESSION, 4, cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_ALL_FILTERS]
    _, by_libpng = cv2.imencode(".png", cv2.merge(samples), settings)
    content = encode_png(Picture(pixels, alpha, deep if is_deep else None))
    assert len(content) < 1.25 * len(by_libpng)


def test_drawn_png_is_about_as_small_as_pillows() -> None:
    pixels = draw_graphics()
    by_pillow = encode(Image.fromarray(pixels[:, :, ::-1]), "PNG")
    assert len(encode_png(Picture(pixels))) < 1.1 * len(by_pillow)
