"""Images from folders and memory: what is read, how it is shown to a network, what is refused."""

import re

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from fastconv.cli import app
from fastconv.data import photos
from fastconv.recipes import ImageError, Split, TensorImages, load_split, preprocess, recipe, train
from fastconv.recipes.augment import KINDS, PCA_SPREAD, WARP, PcaColour, Wanted, augmentation
from fastconv.recipes.images import padded, read_image
from fastconv.recipes.loader import Reader, in_order, shuffled
from fastconv.recipes.sources import Shape

DIGITS = Shape(1, padded(32))


def run(*arguments):
    return CliRunner().invoke(app, list(map(str, arguments)))


def says(result, sentence: str) -> bool:
    """Whether stderr holds it, wherever the box around it broke the line."""
    said, wanted = (re.sub(r"[\s\u2502]", "", text) for text in (result.stderr, sentence))
    return wanted in said and "Traceback" not in said


@pytest.fixture
def folder(tmp_path):
    """Two classes, ten images each: dark and bright."""
    for name, shade in (("dark", 40), ("bright", 200)):
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(10):
            image = Image.new("L", (40 + number, 50), shade + number)
            image.save(tmp_path / "images" / name / f"{number}.png")
    return tmp_path / "images"


def test_a_folder_is_trained_on_and_predicted(folder, tmp_path):
    out = tmp_path / "out"
    options = ["--epochs", 4, "--batch", 4, "--augment", "rotate", "--workers", 1]
    result = run("train", "lenet5", "--data", folder, "--out", out, *options)
    assert result.exit_code == 0, result.output
    assert "100.00%" in result.stdout
    split = load_split(str(folder), DIGITS)
    assert split.train.classes == ("bright", "dark")
    assert [len(part.labels) for part in split] == [16, 4]
    image = folder / "dark" / "3.png"
    result = run("predict", image, "--checkpoint", out / "checkpoint.safetensors", "--top", 1)
    assert result.stdout.split()[-3:-1] == [str(image), "dark"]


def test_folders_train_and_test_are_taken_as_they_are(folder, tmp_path):
    root = tmp_path / "split"
    root.mkdir()
    folder.rename(root / "train")
    (root / "test" / "dark").mkdir(parents=True)
    (root / "train" / "dark" / "0.png").rename(root / "test" / "dark" / "0.png")
    with pytest.raises(ValueError, match=r"differ in classes: bright|holds 1 folders"):
        load_split(str(root), DIGITS)
    (root / "test" / "bright").mkdir()
    (root / "train" / "bright" / "0.png").rename(root / "test" / "bright" / "0.png")
    assert [len(part.labels) for part in load_split(str(root), DIGITS)] == [18, 2]


def broken_files(folder):
    jpeg = photos()[0].path.read_bytes()
    contents = {
        "empty.jpg": (b"", "the file is empty"),
        "half.jpg": (jpeg[: len(jpeg) // 2], "cannot be read as an image"),
        "text.png": (b"no image", "is no image, or of a kind that Pillow does not read"),
        "colour.jpg": (jpeg, "is in colour, and the network takes one channel"),
    }
    for name, (content, _) in contents.items():
        (folder / name).write_bytes(content)
    Image.new("I;16", (32, 32)).save(folder / "deep.png")
    reasons = {name: reason for name, (_, reason) in contents.items()}
    return reasons | {"deep.png": "8 bits a channel", "missing.png": "there is no such file"}


def test_each_bad_file_is_named_with_its_reason(tmp_path):
    for name, reason in broken_files(tmp_path).items():
        with pytest.raises(ImageError, match=f"{re.escape(str(tmp_path / name))}: .*{reason}"):
            read_image(tmp_path / name, 1, 32)


def test_predict_names_the_bad_file(tmp_path):
    (tmp_path / "empty.jpg").write_bytes(b"")
    result = run("predict", photos()[0].path, tmp_path / "empty.jpg")
    assert result.exit_code == 2
    assert says(result, f"{tmp_path / 'empty.jpg'}: the file is empty")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bad_file_in_a_class_folder_is_named(folder, tmp_path, workers):
    (folder / "dark" / "5.png").write_bytes(b"")
    options = ["--out", tmp_path / "out", "--workers", workers]
    result = run("train", "lenet5", "--data", folder, *options)
    assert result.exit_code == 2
    assert says(result, f"{folder / 'dark' / '5.png'}: the file is empty")


def test_a_worker_raises_what_the_process_itself_would(folder):
    images = load_split(str(folder), DIGITS).train
    (folder / "dark" / "5.png").write_bytes(b"")
    with pytest.raises(ImageError, match=r"5\.png: the file is empty$"):
        list(in_order(Reader(images), 8, workers=1))


def test_a_class_without_images_is_named(folder):
    (folder / "grey").mkdir()
    with pytest.raises(ValueError, match=f"class folder {folder / 'grey'} holds no image"):
        load_split(str(folder), DIGITS)


@pytest.mark.parametrize("label", [-1, 2])
def test_labels_out_of_range_are_named(label):
    labels = torch.tensor([0, 1, label])
    with pytest.raises(ValueError, match=f"label of image 2 is {label}, with 2 classes"):
        TensorImages(("a", "b"), labels, torch.zeros(3, 1, 36, 36, dtype=torch.uint8))


def test_other_channels_than_the_networks_are_told(tmp_path):
    coloured = TensorImages(
        ("a", "b"), torch.arange(10) % 2, torch.zeros(10, 3, 36, 36, dtype=torch.uint8)
    )
    with pytest.raises(ValueError, match="lenet5 takes images of 1 x 36 x 36, got 3 x 36 x 36"):
        train(recipe("lenet5", "digits"), tmp_path, data=Split(coloured, coloured))


def test_colours_are_those_of_all_pixels():
    pixels = torch.randint(0, 256, (300, 3, 5, 5), dtype=torch.uint8)
    seen = preprocess.colours(TensorImages(("a",), torch.zeros(300, dtype=torch.int64), pixels))
    flat = pixels.double().transpose(0, 1).flatten(1) / 255
    torch.testing.assert_close(seen.mean, flat.mean(1))
    torch.testing.assert_close(seen.covariance, torch.cov(flat, correction=0))
    shown = seen.preprocessing(5).crop(pixels)
    assert shown.mean().abs() < 1e-5
    assert abs(float(shown.std()) - 1) < 1e-3


def test_no_batch_of_one_is_left_over():
    parts = shuffled(33, 16, seed=1)
    assert [len(part) for part in parts] == [16, 17]
    assert sorted(place for part in parts for place in part) == list(range(33))
    assert parts != shuffled(33, 16, seed=2)


@pytest.fixture(scope="module")
def photo():
    return preprocess.as_floats(read_image(photos()[16].path, 3, 73))[None]


COVARIANCE = torch.tensor([[0.05, 0.04, 0.03], [0.04, 0.06, 0.04], [0.03, 0.04, 0.05]]).double()
WANTED = Wanted(64, 73, 3, COVARIANCE)


@pytest.mark.parametrize("name", KINDS)
def test_every_outcome_is_another_image_in_range(photo, name):
    outcomes = augmentation([name], WANTED)(photo.expand(8, -1, -1, -1))
    side = 64 if name == "crop" else 73
    assert outcomes.shape == (8, 3, side, side)
    assert outcomes.dtype == torch.float32
    assert outcomes.min() >= 0
    assert outcomes.max() <= 1
    distinct = {tuple(image.flatten()[::97].tolist()) for image in outcomes}
    assert len(distinct) == 2 if name == "mirror" else len(distinct) == 8
    # It is still this photograph: nearer to it than to another one.
    if name != "crop":
        other = preprocess.as_floats(read_image(photos()[3].path, 3, 73))[None]
        distances = [(outcomes - image).square().mean((1, 2, 3)).mean() for image in (photo, other)]
        assert distances[0] < distances[1]


def test_pca_moves_all_pixels_of_an_image_alike_by_the_papers_amounts():
    images = torch.full((4000, 3, 2, 2), 0.5)
    shifts = (PcaColour(COVARIANCE)(images) - 0.5).double()
    assert (shifts - shifts[:, :, :1, :1]).abs().max() < 1e-6
    values, vectors = torch.linalg.eigh(COVARIANCE)
    wanted = vectors @ torch.diag((PCA_SPREAD * values) ** 2) @ vectors.T
    torch.testing.assert_close(
        torch.cov(shifts[:, :, 0, 0].T), wanted, rtol=0.1, atol=0.02 * float(wanted.max())
    )


def test_local_warping_moves_pixels_by_what_it_says():
    """Seen on a ramp whose value is the place: what stands at a place came from the value there."""
    side = 64
    places = (torch.arange(side) + 0.5) / side
    ramp = places.expand(1, 1, side, side).repeat(32, 1, 1, 1)
    moved = augmentation(["warp"], Wanted(side, side, 1))(ramp) - ramp
    moved = moved[..., 12:-12, 12:-12]
    assert 0.7 * WARP < moved.square().mean().sqrt() < 1.3 * WARP
    assert (moved.diff(dim=3).abs() < 1 / side).all()  # no pixel overtakes its neighbour
