"""Each pass on a graph small enough to see what it did; what a graph computes stays the same."""

import functools
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

import fastconv
from fastconv.optimize.capture import capture
from fastconv.optimize.conv import canonicalize, conv2d
from fastconv.optimize.passes import CANONICAL
from fastconv.optimize.passes.drop_identities import drop_identities
from fastconv.optimize.passes.fold_constants import fold_constants
from fastconv.optimize.passes.lower_batch_norm import lower_batch_norm
from fastconv.optimize.passes.name_activations import name_activations
from fastconv.optimize.passes.pool import pool

aten, ours = torch.ops.aten, torch.ops.fastconv
NORM = aten._native_batch_norm_legit_no_training.default
X = torch.randn(2, 6, 9, 9)


class Of(nn.Module):
    """A module of a function and the layers it calls."""

    def __init__(self, function: Callable, **layers: nn.Module) -> None:
        super().__init__()
        self.function = function
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.function(self, *inputs)


def targets_after(passes: list[Callable], model: nn.Module, *inputs: Tensor) -> list:
    """The calls left after the passes, of a graph that was seen to compute what the model does."""
    inputs = inputs or (X,)
    for norm in (m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)):
        nn.init.uniform_(norm.running_var, 0.5, 2)
        nn.init.normal_(norm.running_mean)
        if norm.affine:
            nn.init.normal_(norm.weight)
            nn.init.normal_(norm.bias)
    model = model.double().eval()
    wide = tuple(x.double() for x in inputs)
    graph: fx.GraphModule = capture(model, wide, {}).graph
    for apply in passes:
        apply(graph)
        graph.graph.lint()
        with torch.no_grad():
            (actual,) = fx.Interpreter(graph).run(*wide)
            torch.testing.assert_close(actual, model(*wide), rtol=1e-9, atol=1e-9)
    return [node.target for node in graph.graph.nodes if node.op == "call_function"]


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(6, 8, 1),
        nn.Conv2d(6, 8, 3, 2, padding=1, bias=False),
        nn.Conv2d(6, 8, (2, 4), padding="same"),
        nn.Conv2d(6, 12, 3, groups=6),
        nn.Conv2d(6, 8, 3, dilation=2, groups=2, bias=False),
        nn.ConvTranspose2d(6, 8, 2, 2, bias=False),
        nn.ConvTranspose2d(6, 8, 3),
    ],
    ids=repr,
)
@pytest.mark.parametrize("affine", [True, False])
def test_a_norm_after_a_convolution_is_folded(conv, affine):
    model = nn.Sequential(conv, nn.BatchNorm2d(conv.out_channels, affine=affine))
    left = targets_after(CANONICAL, model)
    assert len(left) == 1
    assert NORM not in left


@pytest.mark.parametrize(
    ("layer", "norm", "shape"),
    [
        (nn.Linear(6, 5), nn.BatchNorm1d(5), (4, 6)),
        (nn.Conv1d(6, 8, 3, padding=1, bias=False), nn.BatchNorm1d(8), (2, 6, 7)),
        (nn.Conv1d(6, 6, 3, groups=6), nn.BatchNorm1d(6), (2, 6, 7)),
        (nn.Conv3d(6, 4, 2), nn.BatchNorm3d(4), (2, 6, 3, 3, 3)),
        (nn.ConvTranspose1d(6, 4, 2), nn.BatchNorm1d(4), (2, 6, 3)),
    ],
    ids=repr,
)
def test_a_norm_after_another_layer_is_folded(layer, norm, shape):
    left = targets_after(CANONICAL, nn.Sequential(layer, norm), torch.randn(shape))
    turned = (torch.ops.aten.unsqueeze.default, torch.ops.aten.squeeze.dim)  # of sequences
    assert len([target for target in left if target not in turned]) == 1
    assert NORM not in left


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(9)),  # the norm is over the rows
        nn.Sequential(nn.ConvTranspose2d(6, 4, 2, groups=2), nn.BatchNorm2d(4)),
        nn.Sequential(nn.Conv2d(6, 4, 1), nn.ReLU(), nn.BatchNorm2d(4)),
        nn.Sequential(nn.BatchNorm2d(6), nn.Conv2d(6, 4, 3, padding=1)),
        nn.Sequential(nn.BatchNorm2d(6), nn.ZeroPad2d(1), nn.Conv2d(6, 4, 3)),
        nn.Sequential(nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 1)),
        Of(
            lambda m, x: m.norm(y := m.conv(x)) + y, conv=nn.Conv2d(6, 4, 1), norm=nn.BatchNorm2d(4)
        ),
        Of(
            lambda m, x: m.conv(y := m.norm(x)) + y, conv=nn.Conv2d(6, 6, 1), norm=nn.BatchNorm2d(6)
        ),
    ],
    ids=range(8),
)
def test_a_norm_that_cannot_be_folded_stays(model):
    x = (
        torch.randn(3, 9, 6)
        if isinstance(model, nn.Sequential) and type(model[0]) is nn.Linear
        else X
    )
    assert NORM in targets_after(CANONICAL, model, x)


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(6, 8, 1),
        nn.Conv2d(6, 8, 1, bias=False),
        nn.Conv2d(6, 8, 3, 2),
        nn.Conv2d(6, 12, 3, groups=6),
        nn.Conv2d(6, 4, 3, dilation=2, groups=2, bias=False),
    ],
    ids=repr,
)
def test_a_norm_before_a_convolution_without_padding_is_folded(conv):
    assert targets_after(CANONICAL, nn.Sequential(nn.BatchNorm2d(6), conv)) == [conv2d]


def test_norms_on_both_sides_of_depthwise_and_pointwise_are_folded():
    layers = [nn.BatchNorm2d(6), nn.Conv2d(6, 6, 3, groups=6), nn.BatchNorm2d(6)]
    layers += [nn.BatchNorm2d(6), nn.Conv2d(6, 4, 1), nn.BatchNorm2d(4), nn.ReLU()]
    assert targets_after(CANONICAL, nn.Sequential(*layers)) == [conv2d, conv2d]


def test_a_norm_that_stays_is_one_op_with_its_activation():
    model = nn.Sequential(nn.BatchNorm2d(6), nn.Hardswish())
    left = targets_after([*CANONICAL, functools.partial(lower_batch_norm, dtype=None)], model)
    assert left[0] == ours.batch_norm.default
    assert len(left) == 2
    in_16_bits = functools.partial(lower_batch_norm, dtype=torch.bfloat16)
    assert NORM in targets_after([*CANONICAL, in_16_bits], model)


def old_style(norm: Callable) -> nn.Module:
    torch.manual_seed(0)
    return norm(nn.Conv2d(6, 6, 3))


@pytest.mark.parametrize(
    "model",
    [
        parametrizations.weight_norm(nn.Conv2d(6, 6, 3)),
        parametrizations.spectral_norm(nn.Conv2d(6, 6, 3, groups=6)),
        parametrizations.orthogonal(nn.Conv2d(6, 6, 1)),
        old_style(weight_norm),
        old_style(spectral_norm),
        prune.l1_unstructured(nn.Conv2d(6, 6, 3), "weight", 0.3),
        Of(
            lambda m, x: F.conv2d(x, m.conv.weight * 2 - m.conv.weight.mean()),
            conv=nn.Conv2d(6, 6, 1),
        ),
    ],
    ids=["weight", "spectral", "orthogonal", "old weight", "old spectral", "pruned", "function"],
)
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_computed_weights_are_constants(model):
    assert targets_after([drop_identities, fold_constants, canonicalize], model) == [conv2d]


def test_what_is_random_or_grows_is_no_constant():
    noisy = Of(lambda m, x: x + torch.rand_like(m.conv.bias).mean() * 0, conv=nn.Conv2d(6, 6, 1))
    assert aten.rand_like.default in targets_after([fold_constants], noisy)
    table = Of(
        lambda m, x: x + m.conv.bias.view(1, 6, 1, 1).repeat(1, 1, 9, 9), conv=nn.Conv2d(6, 6, 1)
    )
    assert aten.repeat.default in targets_after([fold_constants], table)


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (lambda m, x: x * torch.sigmoid(x), "silu"),
        (lambda m, x: torch.sigmoid(x).mul(x), "silu"),
        (lambda m, x: x * F.hardsigmoid(x), "hardswish"),
        (lambda m, x: x * F.relu6(x + 3) / 6, "hardswish"),
        (lambda m, x: x * (F.relu6(x + 3.0) / 6.0), "hardswish"),
        (lambda m, x: F.hardtanh(x + 3, 0, 6) * (1 / 6) * x, "hardswish"),
        (lambda m, x: F.relu6(x + 3) / 6, "hardsigmoid"),
        (lambda m, x: torch.clamp(x + 3, 0, 6) / 6, "hardsigmoid"),
        (lambda m, x: torch.max(x, torch.zeros_like(x)), "relu"),
        (lambda m, x: torch.maximum(torch.zeros_like(x), x), "relu"),
    ],
)
def test_activations_are_named(function, name):
    left = targets_after([drop_identities, name_activations], Of(function))
    assert [target._schema.name for target in left] == [f"aten::{name}"]


@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: x * torch.sigmoid(x + 1),
        lambda m, x: x * F.relu6(x + 2) / 6,
        lambda m, x: x * F.relu6(x + 3) / 5,
        lambda m, x: torch.max(x, torch.ones_like(x)),
        lambda m, x: torch.maximum(x.mean((2, 3), keepdim=True), torch.zeros_like(x)),
        lambda m, x: torch.max(torch.zeros_like(x, dtype=torch.float64), x.float()),
        lambda m, x: torch.clamp(x, max=0),
    ],
)
def test_what_is_near_an_activation_is_none(function):
    left = targets_after([drop_identities, name_activations], Of(function))
    names = {target._schema.name for target in left}
    assert not names & {"aten::silu", "aten::hardswish", "aten::relu", "aten::hardsigmoid"}


def gates(squeeze: Callable, expand: Callable, gate: Callable = F.hardsigmoid) -> nn.Module:
    """A block of which the gates come from linear layers."""

    def forward(m: nn.Module, x: Tensor) -> Tensor:
        hidden = m.depthwise(x)
        rows = gate(m.excite(F.relu(m.reduce(squeeze(hidden)))))
        return m.project(hidden * expand(rows, hidden))

    layers = {"reduce": nn.Linear(6, 3), "excite": nn.Linear(3, 6)}
    depthwise, project = nn.Conv2d(6, 6, 3, groups=6), nn.Conv2d(6, 4, 1)
    return Of(forward, depthwise=depthwise, project=project, **layers)


@pytest.mark.parametrize(
    "model",
    [
        gates(lambda x: x.mean((2, 3)), lambda y, x: y[:, :, None, None]),
        gates(lambda x: F.adaptive_avg_pool2d(x, 1).flatten(1), lambda y, x: y.view(-1, 6, 1, 1)),
        gates(
            lambda x: F.adaptive_avg_pool2d(x, 1).view(x.shape[0], 6),
            lambda y, x: y.view(x.shape[0], 6, 1, 1).expand_as(x),
            torch.sigmoid,
        ),
        gates(
            lambda x: F.adaptive_avg_pool2d(x, 1).squeeze(-1).squeeze(-1),
            lambda y, x: y.unsqueeze(2).unsqueeze(3),
            lambda z: F.relu6(z + 3) / 6,
        ),
    ],
    ids=["mean", "flatten", "expand_as", "squeeze"],
)
def test_a_squeeze_and_excitation_of_linear_layers_is_one_of_convolutions(model):
    left = targets_after(CANONICAL, model)
    assert left.count(conv2d) == 4
    assert aten.linear.default not in left
    fast = fastconv.optimize(model.float(), X)
    assert [row["kernel"] for row in fast.receipt] == ["separable_conv2d"]


def test_rows_that_stay_rows_stay_linear():
    ends = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4))
    assert aten.linear.default in targets_after(CANONICAL, ends)
    twice = Of(
        lambda m, x: x * (y := m.linear(x.mean((2, 3))))[:, :, None, None] + y.sum(),
        linear=nn.Linear(6, 6),
    )
    assert aten.linear.default in targets_after(CANONICAL, twice)


def test_identities_are_dropped():
    model = Of(
        lambda m, x: (
            F.adaptive_avg_pool2d(F.dropout(x.clone(), 0.5, False), 9) * x[:, :1].expand_as(x)
        ).double()
    )
    assert targets_after([drop_identities], model) == [aten.slice.Tensor, aten.mul.Tensor]


@pytest.mark.parametrize("keepdim", [True, False])
def test_the_mean_of_all_pixels_is_an_op_of_ours(keepdim):
    left = targets_after([pool], Of(lambda m, x: x.mean((-1, 2), keepdim=keepdim) * 2))
    assert left[0] == ours.global_avg_pool2d.default
    rows = targets_after([pool], Of(lambda m, x: x.mean((1, 2))))
    assert rows == [aten.mean.dim]
