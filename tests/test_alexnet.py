import math

import pytest
import torch
from torch import nn

import fastconv
from fastconv import models

PARAMETERS = {
    "alexnet": 61_100_840,
    "alexnet_lrn": 60_965_224,
    "zfnet": 62_357_608,
    "zfnet512": 87_250_536,
}


def meta(name, **options):
    """Shapes without numbers: nothing is drawn or stored."""
    with torch.device("meta"):
        return models.build(name, **options).eval()


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters(name):
    assert sum(p.numel() for p in meta(name).parameters()) == PARAMETERS[name]


SIZES = {  # pixels after the image, the convolutions and the pools; the papers' figures
    "alexnet": [224, 55, 27, 27, 13, 13, 13, 13, 6],
    "alexnet_lrn": [224, 55, 27, 27, 13, 13, 13, 13, 6],
    "zfnet": [224, 110, 55, 26, 13, 13, 13, 13, 6],
    "zfnet512": [224, 109, 54, 25, 12, 12, 12, 12, 6],
}


@pytest.mark.parametrize("name", SIZES)
def test_sizes_of_the_maps(name):
    model = meta(name)
    output = torch.empty(1, *model.input_size, device="meta")
    sizes = [output.shape[-1]]
    for layer in model.features:
        output = layer(output)
        if isinstance(layer, nn.Conv2d | nn.MaxPool2d):
            sizes.append(output.shape[-1])
    assert sizes == SIZES[name]


@pytest.mark.parametrize("name", PARAMETERS)
def test_least_size_is_exact(name):
    model = meta(name)
    size = model.least_size
    image = torch.empty(1, 3, size, size, device="meta")
    assert model(image).shape == (1, 1000)
    for smaller in (image[:, :, 1:], image[..., 1:]):
        with pytest.raises(RuntimeError, match=f"AlexNet: expected images of at least {size}x"):
            model(smaller)
        with pytest.raises(RuntimeError, match=r"too small|[Kk]ernel size"):
            model.features(smaller)


def test_alexnet_lrn_is_the_papers():
    model = meta("alexnet_lrn")
    kinds = [type(layer).__name__ for layer in model.features]
    start = ["Conv2d", "ReLU", "LocalResponseNorm", "MaxPool2d"]
    assert kinds == start * 2 + ["Conv2d", "ReLU"] * 3 + ["MaxPool2d"]
    convs = [layer for layer in model.features if isinstance(layer, nn.Conv2d)]
    assert [conv.groups for conv in convs] == [1, 2, 1, 2, 2]
    for layer in model.features:
        if isinstance(layer, nn.LocalResponseNorm):
            # torch divides alpha by the size, the paper does not.
            assert (layer.size, layer.alpha / layer.size, layer.beta, layer.k) == (
                5,
                pytest.approx(1e-4),
                0.75,
                2,
            )
        if isinstance(layer, nn.MaxPool2d):
            assert (layer.kernel_size, layer.stride) == (3, 2)  # overlapping


@pytest.mark.parametrize("name", PARAMETERS)
def test_same_numbers_and_gradients_with_our_layers(name):
    torch.manual_seed(0)
    model = models.build(name, num_classes=5).eval()
    fast = meta(name, num_classes=5, layers=fastconv.nn)
    fast.load_state_dict({k: t.clone() for k, t in model.state_dict().items()}, assign=True)
    kinds = {type(layer) for layer in fast.features}
    assert fastconv.nn.Conv2d in kinds
    assert not kinds & {nn.Conv2d, nn.LocalResponseNorm}
    images = torch.randn(2, 3, model.least_size + 2, model.least_size)
    outputs = [network(images) for network in (model, fast)]
    torch.testing.assert_close(*outputs)
    first = [
        torch.autograd.grad(output.sum(), network.features[0].weight)[0]
        for network, output in zip((model, fast), outputs, strict=True)
    ]
    assert first[0].abs().max() > 0
    torch.testing.assert_close(*first)


def test_one_step_of_sgd_lowers_the_loss():
    torch.manual_seed(0)
    model = models.alexnet_lrn(4, dropout=0.0)
    images, labels = torch.randn(4, 3, 63, 63), torch.arange(4)
    before = nn.functional.cross_entropy(model(images), labels)
    assert abs(before - math.log(4)) < 0.1  # a fresh network guesses
    before.backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    assert nn.functional.cross_entropy(model(images), labels) < before


def test_dropout():
    drops = [m.p for m in meta("alexnet", dropout=0.25).classifier if isinstance(m, nn.Dropout)]
    assert drops == [0.25, 0.25]
    with pytest.raises(ValueError, match="dropout probability"):
        models.alexnet(dropout=2.0)


def test_at_least_one_class():
    with pytest.raises(ValueError, match="num_classes must be at least 1, got 0"):
        meta("alexnet", num_classes=0)
