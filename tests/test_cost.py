"""The cost report against figures worked out by hand."""

import copy
import json

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fastconv
from fastconv import reference
from fastconv.cost.alternatives import INCEPTION, SMALL, Task, alternatives


class Everything(nn.Module):
    """A layer for each of our kernels, and work done without a layer."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.LocalResponseNorm(5)
        self.depthwise = nn.Conv2d(8, 16, 5, 2, 2, groups=8, bias=False)
        self.pointwise = nn.Conv2d(16, 16, 1)
        self.add = reference.ResidualAdd("relu")
        self.unused = nn.Linear(7, 3)
        self.scale = nn.Parameter(torch.ones(16, 1, 1))

    def forward(self, x):
        x = self.depthwise(self.norm(self.conv(x)))
        x = self.add(self.pointwise(x), x) * self.scale
        return F.conv2d(x, self.pointwise.weight)


def by_name(report):
    return {layer.name: layer for layer in report.layers}


def test_multiplications_are_exact():
    layers = by_name(fastconv.cost(Everything(), (2, 3, 9, 7)))
    assert layers["conv"].multiplications == 2 * 9 * 7 * 3 * 3 * 3 * 8
    assert layers["depthwise"].multiplications == 2 * 5 * 4 * 5 * 5 * 16
    assert layers["pointwise"].multiplications == 2 * 5 * 4 * 16 * 16
    assert layers[""].multiplications == 2 * 5 * 4 * 16 * 16  # the convolution without a layer
    assert layers["norm"].multiplications == layers["add"].multiplications == 0


def test_our_layers_cost_what_torchs_cost():
    model = Everything()
    plain = fastconv.cost(model, (2, 3, 9, 7))
    ours = fastconv.cost(fastconv.swap_(model), (2, 3, 9, 7))
    for name in ("parameters", "trainable_parameters", "parameter_bytes", "multiplications"):
        assert getattr(ours, name) == getattr(plain, name)
        assert [getattr(a, name) for a in ours.layers] == [getattr(a, name) for a in plain.layers]
    assert set(ours.operations) > {"fastconv.depthwise_conv2d", "fastconv.pointwise_conv2d"}
    # torch's norm takes memory on its way, ours none but for the result.
    assert by_name(ours)["norm"].activation_bytes == 4 * 2 * 8 * 9 * 7
    assert by_name(plain)["norm"].activation_bytes > 4 * by_name(ours)["norm"].activation_bytes


def test_parameters_and_their_bytes():
    model = Everything().requires_grad_(False)
    model.conv.requires_grad_(True)
    report = fastconv.cost(model, (1, 3, 8, 8))
    assert report.parameters == sum(p.numel() for p in model.parameters())
    assert report.trainable_parameters == 3 * 3 * 3 * 8 + 8
    assert report.parameter_bytes == 32 * report.parameters // 8
    layers = by_name(report)
    assert layers["unused"].parameters == 24
    assert layers["unused"].calls == 0
    assert layers["unused"].output_shape == ()
    assert layers[""].parameters == 16
    assert sum(layer.parameters for layer in report.layers) == report.parameters


def test_a_shared_parameter_counts_once_and_a_shared_layer_for_each_call():
    layer = nn.Linear(4, 4, bias=False)
    tied = nn.Linear(4, 4, bias=False)
    tied.weight = layer.weight
    report = fastconv.cost(nn.Sequential(layer, layer, tied), (1, 4))
    assert report.parameters == 16
    assert report.multiplications == 48
    assert [(row.calls, row.multiplications) for row in report.layers] == [(2, 32), (1, 16)]
    assert tied.weight is layer.weight


def test_memory_of_a_chain():
    model = nn.Sequential(
        nn.Conv2d(2, 4, 1, bias=False), nn.ReLU(), nn.ReLU(inplace=True), nn.Flatten()
    )
    report = fastconv.cost(model, (1, 2, 10, 10))
    input, output = 4 * 200, 4 * 400
    assert [layer.activation_bytes for layer in report.layers] == [output, output, 0, 0]
    assert report.peak_activation_bytes == input + 2 * output
    assert [layer.moved_bytes for layer in report.layers] == [
        input + output + 4 * 8,
        2 * output,
        2 * output,
        0,
    ]
    intensity = 2 * 100 * 8 / (input + output + 32)
    assert report.layers[0].arithmetic_intensity == pytest.approx(intensity)


def test_dtype_decides_the_bytes():
    model = nn.Sequential(nn.Conv2d(3, 5, 3)).bfloat16()
    report = fastconv.cost(model, (1, 3, 6, 6))
    assert report.parameter_bytes == 2 * 140
    assert report.activation_bytes == 2 * 80


@pytest.mark.parametrize("swapped", [False, True])
def test_a_run_on_the_cpu_counts_the_same(swapped):
    model = Everything()
    if swapped:
        fastconv.swap_(model)
    on_meta = fastconv.cost(model, (2, 3, 9, 7)).to_dict()
    assert fastconv.cost(model, (2, 3, 9, 7), device="cpu").to_dict() == on_meta


def test_an_optimized_model_costs_the_same_multiplications():
    model = Everything()
    expected = fastconv.cost(model, (1, 3, 9, 7))
    optimized = fastconv.optimize(model.eval(), (torch.randn(1, 3, 9, 7),))
    for device in ("meta", "cpu"):
        report = fastconv.cost(optimized, (1, 3, 9, 7), device=device)
        assert report.multiplications == expected.multiplications
        assert report.peak_activation_bytes < expected.peak_activation_bytes


def test_the_model_stays_as_it_is():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout())
    model[2].eval()
    before = copy.deepcopy(model.state_dict())
    fastconv.cost(model, (2, 3, 4, 4))
    assert [module.training for module in model.modules()] == [True, True, True, False]
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert all(p.device.type == "cpu" for p in model.parameters())
    torch.testing.assert_close(dict(model.state_dict()), dict(before))


def test_several_inputs():
    report = fastconv.cost(nn.Bilinear(3, 4, 5), [(2, 3), (2, 4)])
    assert report.input_shape == ((2, 3), (2, 4))
    assert report.parameters == 65


def test_bad_input():
    layer = nn.Conv2d(3, 4, 3)
    with pytest.raises(TypeError, match=r"model to be a torch.nn.Module, got function"):
        fastconv.cost(lambda x: x, (1, 3))
    with pytest.raises(TypeError, match="input_shape of integers"):
        fastconv.cost(layer, (1, 3, 8.0, 8))
    with pytest.raises(TypeError, match="input_shape of integers"):
        fastconv.cost(layer, ())
    with pytest.raises(RuntimeError, match="no negative size"):
        fastconv.cost(layer, (1, 3, -8, 8))
    with pytest.raises(RuntimeError, match="Kernel size can't be greater"):
        fastconv.cost(layer, (1, 3, 2, 2))
    assert not layer._forward_hooks


def test_the_report_in_its_three_forms():
    report = fastconv.cost(Everything(), (1, 3, 8, 8))
    read = json.loads(report.to_json())
    assert read["multiplications"] == report.multiplications
    assert len(read["layers"]) == len(report.layers)
    assert "depthwise" in str(report)
    rows = [line for line in report.to_markdown().splitlines() if line.startswith("|")]
    assert len({row.count("|") for row in rows}) == 1
    assert rows[0].split("|")[1].strip() == "layer"
    assert rows[-1].split("|")[1].strip() == "all"


def test_multiplications_of_a_small_convolution_done_in_two_ways():
    conv, separable = alternatives(["conv", "separable"], SMALL)
    assert conv.multiplications == 2160
    assert [step.multiplications for step in separable.steps] == [432, 240]
    assert separable.multiplications == 672
    assert separable.ratio == pytest.approx(1 / 5 + 1 / 9)
    assert round(separable.ratio, 2) == 0.31
    formulas = [step.formula for step in (*conv.steps, *separable.steps)]
    assert formulas == ["3*3*3 * 4*4 * 5", "3*3 * 4*4 * 3", "1*1*3 * 4*4 * 5"]


def test_multiplications_through_a_bottleneck():
    conv, bottleneck = alternatives(["conv", "inception-bottleneck"], INCEPTION)
    assert round(conv.multiplications / 1e6) == 120
    assert [round(step.multiplications / 1e6, 1) for step in bottleneck.steps] == [2.4, 10.0]
    assert round(bottleneck.multiplications / 1e6, 1) == 12.4


def test_a_separable_convolution_to_512_channels_takes_about_a_tenth():
    task = Task(14, 14, 512, kernel=3, filters=512, bottleneck=64, padding="same")
    ratio = alternatives(["conv", "separable"], task)[1].ratio
    assert ratio == pytest.approx(1 / 512 + 1 / 9)
    assert 0.1 < ratio < 0.12


@pytest.mark.parametrize("way", ["conv", "separable", "inception-bottleneck"])
def test_every_formula_gives_its_multiplications(way):
    task = Task(9, 12, 6, kernel=3, filters=10, bottleneck=2, padding="valid")
    (found,) = alternatives([way], task)
    for step in found.steps:
        assert eval(step.formula) == step.multiplications
