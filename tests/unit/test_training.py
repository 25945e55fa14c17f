"""The parts of training that do not need PyTorch; `training.train` is run by hand."""

import csv
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage import data

from superres.paths import EMBEDDED_MODEL_PATH, RESTORE_MODEL_PATH
from training import evaluate, prepare
from training.degradations import MEASURED, degrade_at_random, reduce
from training.drawings import draw_picture
from training.prepare import CROP_SIDE, VALIDATION_SIDE, cut_crops, pack, read_splits, unpack


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of two photographs and an index that keeps one of them for validation."""
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.fromarray(data.astronaut()).save(folder / "a.png")
    Image.fromarray(data.astronaut()[::-1]).save(folder / "b.png")
    with (folder / "index.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("file", "split"), ("a.png", "train"), ("b.png", "val")])
    return folder


def test_every_degradation_gives_a_third_of_the_size() -> None:
    photo = Image.fromarray(data.astronaut()).crop((0, 0, 300, 150))
    random = np.random.default_rng(0)
    results = [degrade(photo) for degrade in MEASURED.values()]
    results += [degrade_at_random(photo, random) for _ in range(20)]
    assert {(picture.size, picture.mode) for picture in results} == {((100, 50), "RGB")}
    assert len({picture.tobytes() for picture in results}) > 5


def test_reducing_keeps_the_mean_colour() -> None:
    photo = Image.fromarray(data.astronaut()).crop((0, 0, 300, 300))
    difference = np.asarray(photo).mean((0, 1)) - np.asarray(reduce(photo)).mean((0, 1))
    assert np.abs(difference).max() < 0.5


def test_drawn_pictures_differ_and_have_edges() -> None:
    random = np.random.default_rng(0)
    pictures = [draw_picture(96, random) for _ in range(12)]
    assert {picture.size for picture in pictures} == {(96, 96)}
    assert len({picture.tobytes() for picture in pictures}) == 12
    assert np.median([prepare.measure_detail(picture) for picture in pictures]) > 5


def test_crops_cover_the_photograph_at_both_scales() -> None:
    crops = list(cut_crops(Image.new("RGB", (CROP_SIDE * 2, CROP_SIDE * 2))))
    assert [crop.size for crop in crops] == [(CROP_SIDE, CROP_SIDE)] * 5


def test_packed_files_come_back() -> None:
    pictures = [Image.new("RGB", (4, 3), colour) for colour in ("red", "lime", "blue")]
    packed = pack([prepare.encode(picture, "PNG") for picture in pictures])
    assert [picture.tobytes() for picture in unpack(packed["bytes"], packed["ends"])] == [
        picture.tobytes() for picture in pictures
    ]


def test_without_an_index_every_twentieth_photograph_is_kept_apart(tmp_path: Path) -> None:
    for number in range(40):
        (tmp_path / f"{number:02}.jpg").touch()
    splits = read_splits(tmp_path, None)
    assert [path.name for path, split in splits.items() if split == "val"] == ["19.jpg", "39.jpg"]


def test_prepare_packs_photographs_and_drawings(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "crops.npz"
    arguments = ["prepare", str(photos), str(target), "--index", str(photos / "index.csv")]
    monkeypatch.setattr(sys, "argv", arguments)
    prepare.main()
    with np.load(target) as packed:
        train = list(unpack(packed["train_bytes"], packed["train_ends"]))
        validation = list(unpack(packed["val_bytes"], packed["val_ends"]))
    assert {crop.size for crop in train} == {(CROP_SIDE, CROP_SIDE)}
    assert [picture.size for picture in validation] == [(VALIDATION_SIDE, VALIDATION_SIDE)]


def test_evaluate_ranks_the_model_above_bicubic(
    photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(evaluate, "SIDE", 192)
    arguments = ["evaluate", str(EMBEDDED_MODEL_PATH), "--photos", str(photos)]
    monkeypatch.setattr(sys, "argv", [*arguments, "--index", str(photos / "index.csv")])
    evaluate.main()
    title, *tables = capsys.readouterr().out.splitlines()
    assert title.startswith("1 images")
    _, bicubic, model, _, _, _ = tables
    before, after = (np.array(row.split()[1:], float).reshape(-1, 3) for row in (bicubic, model))
    assert (before[:, :2] < after[:, :2]).all()  # PSNR and SSIM
    assert (before[:, 2] > after[:, 2]).all()  # GMSD


def test_evaluate_ranks_the_restoring_model_first_on_damaged_images(
    photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(evaluate, "SIDE", 192)
    models = [str(EMBEDDED_MODEL_PATH), str(RESTORE_MODEL_PATH)]
    photographs = ["--photos", str(photos), "--index", str(photos / "index.csv")]
    monkeypatch.setattr(sys, "argv", ["evaluate", *models, *photographs])
    evaluate.main()
    *_, faithful, restoring = capsys.readouterr().out.splitlines()
    assert float(faithful.split()[-3]) < float(restoring.split()[-3])
