import math

import pytest
import torch
from torch import nn

import fastconv
from fastconv import models

KEYS = {
    "features.0.weight": (6, 1, 5, 5),
    "features.0.bias": (6,),
    "features.3.weight": (16, 6, 5, 5),
    "features.3.bias": (16,),
    "classifier.0.weight": (120, 400),
    "classifier.0.bias": (120,),
    "classifier.2.weight": (84, 120),
    "classifier.2.bias": (84,),
    "classifier.4.weight": (10, 84),
    "classifier.4.bias": (10,),
}


def test_keys_shapes_and_parameters():
    model = models.lenet5()
    assert {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()} == KEYS
    assert sum(p.numel() for p in model.parameters()) == 61_706  # about 60 thousand


def test_height_and_width_fall_while_channels_rise():
    output = torch.zeros(1, *models.LeNet5.input_size)
    shapes = []
    for layer in models.lenet5().features:
        output = layer(output)
        if isinstance(layer, nn.Conv2d | nn.MaxPool2d):
            shapes.append(tuple(output.shape[1:]))
    assert shapes == [(6, 28, 28), (6, 14, 14), (16, 10, 10), (16, 5, 5)]


@pytest.mark.parametrize("size", [(31, 32), (32, 31), (1, 1)])
def test_smaller_images_are_refused(size):
    with pytest.raises(RuntimeError, match=f"at least 32x32 pixels, got {size[0]}x{size[1]}"):
        models.lenet5()(torch.zeros(1, 1, *size))


@pytest.mark.parametrize("size", [(33, 32), (32, 36), (64, 64)])
def test_larger_images_are_refused(size):
    with pytest.raises(RuntimeError, match=f"of 32x32 pixels, got {size[0]}x{size[1]}"):
        models.lenet5()(torch.zeros(1, 1, *size))


def test_least_size_is_torchs_too():
    model = models.lenet5()
    assert model(torch.zeros(2, 1, 32, 32)).shape == (2, 10)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        model.classifier(model.features(torch.zeros(1, 1, 31, 31)).flatten(1))


def test_no_batch_is_refused():
    with pytest.raises(RuntimeError, match=r"LeNet5: expected \(N, C, H, W\)"):
        models.lenet5()(torch.zeros(1, 32, 32))


def test_at_least_one_class():
    with pytest.raises(ValueError, match="num_classes must be at least 1, got 0"):
        models.lenet5(0)


def test_same_numbers_and_gradients_with_our_layers():
    torch.manual_seed(0)
    model, fast = models.lenet5(), models.lenet5(layers=fastconv.nn)
    assert {type(m) for m in fast.features if isinstance(m, nn.Conv2d)} == {fastconv.nn.Conv2d}
    fast.load_state_dict(model.state_dict())
    images = torch.randn(3, 1, 32, 32)
    outputs = [network(images) for network in (model, fast)]
    torch.testing.assert_close(*outputs)
    for output in outputs:
        output.square().sum().backward()
    for ours, theirs in zip(fast.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


def test_one_step_of_sgd_lowers_the_loss():
    torch.manual_seed(0)
    model = models.lenet5(4)
    images, labels = torch.randn(8, 1, 32, 32), torch.arange(8) % 4
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    before = nn.functional.cross_entropy(model(images), labels)
    assert abs(before - math.log(4)) < 0.1  # a fresh network guesses
    before.backward()
    optimizer.step()
    assert nn.functional.cross_entropy(model(images), labels) < before
