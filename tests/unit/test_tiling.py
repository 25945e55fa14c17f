from itertools import pairwise

import numpy as np
import pytest

from superres.engines.tiling import split_axis, split_image


@pytest.mark.parametrize(("max_side", "halo"), [(144, 10), (96, 10), (9, 4)])
def test_spans_of_every_length_keep_each_pixel_once_behind_a_whole_halo(
    max_side: int, halo: int
) -> None:
    for length in range(1, 700):
        spans = split_axis(length, max_side, halo)
        assert len({span.stop - span.start for span in spans}) == 1
        assert spans[0].stop - spans[0].start <= max_side
        assert spans[0].keep_start == 0
        assert spans[-1].keep_stop == length
        for left, right in pairwise(spans):
            assert left.keep_start < left.keep_stop == right.keep_start
            assert left.stop - left.keep_stop >= halo
            assert right.keep_start - right.start >= halo


def test_spans_are_as_short_as_their_number_allows() -> None:
    assert [span.stop - span.start for span in split_axis(648, 144, 10)] == [125] * 6


def test_axis_within_a_tile_is_one_span_of_its_own_length() -> None:
    (span,) = split_axis(144, 144, 10)
    assert (span.start, span.stop, span.keep_start, span.keep_stop) == (0, 144, 0, 144)


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1), (129, 65), (301, 407)])
def test_placed_tiles_rebuild_the_enlarged_picture(size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*size, 3)).astype(np.uint8)
    output = np.zeros((size[0] * 3, size[1] * 3, 3), np.uint8)
    for tile in split_image(*size, max_side=64, halo=5):
        tile.place(tile.crop(image).repeat(3, axis=0).repeat(3, axis=1), output, 3)
    np.testing.assert_array_equal(output, image.repeat(3, axis=0).repeat(3, axis=1))


def test_kept_pixels_add_up_to_the_picture() -> None:
    tiles = split_image(301, 407, max_side=64, halo=5)
    assert sum(tile.kept_pixels for tile in tiles) == 301 * 407


@pytest.mark.parametrize(
    ("size", "shapes"),
    [
        ((128, 128), [(74, 128)] * 2),
        ((60, 128), [(60, 74)] * 2),
        ((126, 9), [(73, 9)] * 2),
        ((125, 125), [(125, 125)]),
        ((9, 64), [(9, 64)]),
        ((192, 30), [(106, 30)] * 2),
    ],
)
def test_image_of_one_tile_is_cut_where_that_costs_little(
    size: tuple[int, int], shapes: list[tuple[int, int]]
) -> None:
    tiles = list(split_image(*size, max_side=192 if 192 in size else 128, halo=10))
    assert [tile.crop(np.zeros(size, np.uint8)).shape for tile in tiles] == shapes
    computed = sum(height * width for height, width in shapes)
    assert computed <= 1.16 * size[0] * size[1]


def test_long_images_of_one_tile_are_cut_into_four_at_most() -> None:
    assert [len(list(split_image(20, side, 1000, 10))) for side in (260, 390, 1000)] == [3, 4, 4]
