import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from fastconv import models
from fastconv.models import efficientnet_b
from fastconv.models.compound_scaling import Scaling, round_channels, scale


def test_equation_3():
    assert scale(0) == Scaling(depth=1, width=1, resolution=1)
    assert scale(1) == Scaling(depth=1.2, width=1.1, resolution=1.15)
    assert scale(2, alpha=2, beta=3, gamma=1.5) == Scaling(depth=4, width=9, resolution=2.25)
    growth = scale(1)
    assert growth.depth * growth.width**2 * growth.resolution**2 == pytest.approx(1.92, abs=0.001)


def flops(model):
    model = model.eval()
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, *model.input_size, device="meta"))
    return counter.get_total_flops()


@pytest.mark.parametrize(("lite", "expected"), [(False, [2.6, 4.7, 8.4]), (True, [2.2, 4.1, 7.6])])
def test_flops_grow_by_about_2_to_the_phi(lite, expected):
    """More than 1.92 ** phi at first, as repeats are rounded up."""
    with torch.device("meta"):
        counts = [flops(models.efficientnet(scale(phi), lite=lite)) for phi in range(4)]
    assert [round(count / counts[0], 1) for count in counts[1:]] == expected


# Multiplications and additions counted as one, as in table 2.
BILLIONS = [0.39, 0.70, 1.0, 1.8, 4.2, 9.9, 19, 37]


@pytest.mark.parametrize("variant", range(8))
def test_flops_as_published(variant):
    with torch.device("meta"):
        model = models.build(f"efficientnet_b{variant}")
    assert flops(model) / 2e9 == pytest.approx(BILLIONS[variant], rel=0.05)


@pytest.mark.parametrize("variant", range(8))
def test_published_multipliers_are_near_the_scaling(variant):
    published, scaling = efficientnet_b.PUBLISHED[variant], scale(efficientnet_b.PHI[variant])
    assert published.width == pytest.approx(scaling.width, rel=0.05)
    assert published.resolution == pytest.approx(scaling.resolution, rel=0.05)
    if variant < 5:
        assert published.depth == pytest.approx(scaling.depth, rel=0.05)
    else:
        assert 0.86 < published.depth / scaling.depth < 0.89


def test_one_multiplier_grows_one_thing():
    def facts(**multipliers):
        with torch.device("meta"):
            model = models.efficientnet(Scaling(**multipliers))
        convs = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
        return sum(s.repeats for s in model.stages), convs[0].out_channels, model.input_size[1]

    assert facts() == (16, 32, 224)
    assert facts(depth=2) == (32, 32, 224)
    assert facts(width=2) == (16, 64, 224)
    assert facts(resolution=0.5) == (16, 32, 112)


@pytest.mark.parametrize("lite", [False, True])
def test_a_small_network_of_any_scaling_trains(lite):
    model = models.efficientnet(Scaling(0.3, 0.2, 0.14), num_classes=2, lite=lite)
    assert model.input_size == (3, 31, 31)
    model(torch.randn(2, *model.input_size)).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_channels_are_multiples_of_8_and_hardly_fewer():
    for tenth in range(1, 20_000):
        channels = tenth / 10
        rounded = round_channels(channels)
        assert rounded % 8 == 0
        assert rounded >= 0.9 * channels
        assert rounded == 8 or rounded < 1.1 * channels or rounded - channels <= 8
    assert [round_channels(c) for c in (1, 11.9, 12, 17.6, 19.2, 35.2)] == [8, 16, 16, 16, 24, 32]


@pytest.mark.parametrize("name", ["alpha", "beta", "gamma"])
@pytest.mark.parametrize("value", [0.99, float("nan"), float("inf")])
def test_bad_base(name, value):
    with pytest.raises(ValueError, match=f"{name} must be a number of at least 1, got {value}"):
        scale(1, **{name: value})


def test_bad_phi():
    with pytest.raises(ValueError, match="phi must be a finite number, got inf"):
        scale(float("inf"))


@pytest.mark.parametrize("name", Scaling._fields)
@pytest.mark.parametrize("value", [0, -1.0, float("nan"), float("inf")])
def test_bad_multiplier(name, value):
    with pytest.raises(ValueError, match=f"{name} must be a number above 0, got {value}"):
        models.efficientnet(Scaling(**{name: value}))


def test_smaller_than_published():
    """phi below 0 shrinks; every stage keeps a block."""
    with torch.device("meta"):
        model = models.efficientnet(scale(-5))
    assert all(stage.repeats >= 1 for stage in model.stages)
    assert model.input_size[1] == round(224 / 1.15**5)
