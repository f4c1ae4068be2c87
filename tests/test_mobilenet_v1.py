import pytest
import torch
from torch import nn

import fastconv
from fastconv import models


def parameters(**options):
    with torch.device("meta"):
        model = models.mobilenet_v1(**options)
    return sum(p.numel() for p in model.parameters())


def test_parameters():
    assert parameters() == 4_231_976


@pytest.mark.parametrize(("width", "millions"), [(1.0, 4.2), (0.75, 2.6), (0.5, 1.3), (0.25, 0.5)])
def test_width_multiplier_as_in_table_6(width, millions):
    assert round(parameters(width_multiplier=width) / 1e6, 1) == millions


@pytest.mark.parametrize(("rho", "pixels"), [(1, 224), (6 / 7, 192), (5 / 7, 160), (4 / 7, 128)])
def test_resolution_multiplier_as_in_table_7(rho, pixels):
    with torch.device("meta"):
        model = models.mobilenet_v1(resolution_multiplier=rho)
    assert model.input_size == (3, pixels, pixels)
    assert parameters(resolution_multiplier=rho) == parameters()


def test_sizes_of_table_1():
    """7x7x1024 in front of the average pool; 28 layers with the classifier."""
    with torch.device("meta"):
        model = models.mobilenet_v1()
        assert model.features(torch.zeros(1, 3, 224, 224)).shape == (1, 1024, 7, 7)
    convs = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    assert len(convs) == 27
    assert [conv.groups for conv in convs[1::2]] == [conv.in_channels for conv in convs[1::2]]
    assert all(conv.kernel_size == (1, 1) for conv in convs[2::2])


def test_padding_is_symmetric():
    """With weights of one, the stem of an image of ones is least at the top and left."""
    model = models.mobilenet_v1(2).eval()
    nn.init.ones_(model.features[0][0].weight)
    output = model.features[0][0](torch.ones(1, 3, 4, 4))[0, 0]
    assert output.tolist() == [[12, 18], [18, 27]]
    depthwise = [block.depthwise[0] for block in model.features[1:]]
    assert all(conv.padding == (1, 1) for conv in depthwise)


def test_least_size(monkeypatch):
    model = models.mobilenet_v1(2, width_multiplier=0.25).eval()
    size = model.least_size
    assert model(torch.zeros(1, 3, size, size)).shape == (1, 2)
    small = torch.zeros(1, 3, size - 1, size)
    with pytest.raises(RuntimeError, match=f"at least {size}x{size} pixels"):
        model(small)
    monkeypatch.setattr(model, "check_image", lambda input: None)
    with pytest.raises(RuntimeError):
        model(small)


def test_the_same_with_our_layers_and_both_train():
    """In float64: torch's own two layouts are 5 % apart in float32 after three steps."""
    model = models.mobilenet_v1(4, width_multiplier=0.25).double()
    ours = models.mobilenet_v1(4, width_multiplier=0.25, layers=fastconv.nn).double()
    ours.load_state_dict(model.state_dict())
    images, labels = torch.randn(8, 3, 64, 64).double(), torch.arange(8) % 4
    losses = {}
    for name, network in [("torch", model), ("fastconv", ours)]:
        optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
        losses[name] = []
        for _ in range(3):
            loss = nn.functional.cross_entropy(network(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses[name].append(loss.item())
    assert losses["fastconv"] == pytest.approx(losses["torch"], rel=1e-9)
    assert losses["torch"][2] < losses["torch"][0]


def test_optimized():
    model = models.mobilenet_v1(4, width_multiplier=0.25).eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        expected = model(images)
        torch.testing.assert_close(fastconv.optimize(model, (images,))(images), expected)


@pytest.mark.parametrize("option", ["width_multiplier", "resolution_multiplier"])
@pytest.mark.parametrize("value", [0, -1.0, float("nan")])
def test_bad_multiplier(option, value):
    with pytest.raises(ValueError, match=r"must be a number above 0, got"):
        models.mobilenet_v1(**{option: value})
