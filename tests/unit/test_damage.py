"""How inputs and targets of the restoring model are made."""

import cv2
import numpy as np
from PIL import Image
from skimage import data

from superres.images.pixels import Pixels
from training.damage import damage_badly, damage_mildly, send_on
from training.network import Floats
from training.pairs import INPUT_SIDE, correct_tone, draw_damaged, make_shard, mix
from training.prepare import CROP_SIDE

TRUTH = np.ascontiguousarray(data.astronaut()[:CROP_SIDE, 150 : 150 + CROP_SIDE, ::-1])


def enlarge(small: Pixels) -> Floats:
    return cv2.resize(small, (CROP_SIDE, CROP_SIDE), interpolation=cv2.INTER_CUBIC).astype(
        np.float32
    )


def distance(small: Pixels) -> float:
    return float(np.abs(enlarge(small) - TRUTH).mean())


def test_inputs_are_a_third_as_large_and_bad_ones_never_the_same() -> None:
    random = np.random.default_rng(0)
    inputs = [damage_badly(TRUTH, random, level) for level in np.linspace(0.35, 1.3, 30)]
    inputs += [damage_mildly(TRUTH, random) for _ in range(30)]
    inputs += [send_on(TRUTH, random) for _ in range(30)]
    assert {(each.shape, each.dtype) for each in inputs} == {((64, 64, 3), np.dtype(np.uint8))}
    assert len({each.tobytes() for each in inputs[:30]}) == 30


def test_worse_levels_are_worse() -> None:
    random = np.random.default_rng(0)
    mild = np.mean([distance(damage_mildly(TRUTH, random)) for _ in range(20)])
    middling, bad = (
        np.mean([distance(damage_badly(TRUTH, random, level)) for _ in range(40)])
        for level in (0.35, 1.3)
    )
    assert mild < middling < bad


def test_target_has_the_tone_of_the_truth_and_the_detail_of_the_teacher() -> None:
    darker = TRUTH.astype(np.float32) * 0.9 - 5
    corrected = correct_tone(darker, TRUTH)
    assert abs(corrected.mean() - TRUTH.mean()) < 0.7 < abs(darker.mean() - TRUTH.mean())
    blurred = cv2.GaussianBlur(TRUTH, (0, 0), 3).astype(np.float32)
    assert np.abs(correct_tone(blurred, TRUTH) - blurred).mean() < 5
    np.testing.assert_array_equal(mix(darker, TRUTH, 1), TRUTH)


def test_drawings_have_the_truth_as_their_target() -> None:
    def restore(small: list[Pixels]) -> list[Floats]:
        return [np.full((4 * INPUT_SIDE, 4 * INPUT_SIDE, 3), 128, np.float32) for _ in small]

    crops = [Image.fromarray(TRUTH[:, :, ::-1])]
    random = np.random.default_rng(0)
    damaged = [draw_damaged(crops, random) for _ in range(60)]
    shard = make_shard(damaged, restore)
    assert shard["inputs"].shape == (60, INPUT_SIDE, INPUT_SIDE, 3)
    assert shard["targets"].shape == (60, CROP_SIDE, CROP_SIDE, 3)
    drawn = [
        np.array_equal(target, each.truth)
        for target, each in zip(shard["targets"], damaged, strict=True)
    ]
    assert drawn == [each.truth_share == 1 for each in damaged]
    assert 0 < sum(drawn) < 25
