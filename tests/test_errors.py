"""Bad input raises the type that torch raises, in words of ours: every op, every argument."""

import inspect

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import fastconv
from fastconv import ops
from tests.test_contracts import outcome

X = torch.randn(1, 8, 6, 6)
DEPTHWISE, DENSE = torch.randn(8, 1, 3, 3), torch.randn(4, 8, 3, 3)
POINTWISE = torch.randn(4, 8, 1, 1)
SQUEEZE = ops.SqueezeExcitation(torch.randn(2, 8, 1, 1), None, torch.randn(8, 2, 1, 1), None)
OF_CHANNELS = torch.zeros(8), torch.ones(8)
EXPAND, PROJECT = torch.randn(16, 8, 1, 1), torch.randn(8, 16, 1, 1)
GOOD = {  # the arguments of a call that works, the others at their defaults
    "batch_norm": (X, *OF_CHANNELS),
    "conv1d": (X[:, :, 0], DENSE[:, :, 0]),
    "conv2d": (X, DENSE),
    "dense_conv2d": (X, DENSE),
    "depthwise_conv1d": (X[:, :, 0], DEPTHWISE[:, :, 0]),
    "depthwise_conv2d": (X, DEPTHWISE),
    "global_avg_pool2d": (X,),
    "inverted_residual": (X, EXPAND, None, torch.randn(16, 1, 3, 3), None, PROJECT, None),
    "local_response_norm": (X, 5),
    "max_pool2d": (X, 2),
    "pack_dense_weight": (DENSE,),
    "pack_depthwise_weight": (DEPTHWISE,),
    "pack_pointwise_pairs": (POINTWISE.bfloat16(),),
    "pack_pointwise_panels": (POINTWISE,),
    "pack_pointwise_weight": (POINTWISE,),
    "pack_stem_weight": (DENSE,),
    "pack_winograd_weight": (DENSE,),
    "pointwise_conv2d": (X, POINTWISE),
    "residual_add": (X, X),
    "separable_conv2d": (X, DEPTHWISE, None, POINTWISE, None),
    "squeeze_excitation": (X, SQUEEZE),
    "stem_conv2d": (X, DENSE),
}
BAD = [
    *(None, "x", "same", [1.5], 1.5, True, 0, -1, (), (1, 2, 3), object(), int),
    *(torch.randn(3), torch.randn(8, 6, 6), torch.randn(1, 8, 6, 6, 6)),
    *(torch.ones(1, 8, 6, 6, dtype=torch.int64), X.double(), X.to(torch.complex64)),
    *(torch.randn(0, 8, 6, 6), torch.randn(1, 0, 6, 6), X.to("meta"), torch.eye(4).to_sparse()),
]
# The types that torch raises for input; a slip in our own code would raise another.
TORCHS = (TypeError, RuntimeError, ValueError)  # NotImplementedError is a RuntimeError


def call_with(name, place, value):
    bound = inspect.signature(getattr(ops, name)).bind(*GOOD[name])
    bound.apply_defaults()
    bound.arguments[place] = value
    return getattr(ops, name)(*bound.args, **bound.kwargs)


def test_every_op_is_here():
    assert GOOD.keys() == set(ops.__all__) - {"SqueezeExcitation"}


PLACES = [(name, p) for name in GOOD for p in inspect.signature(getattr(ops, name)).parameters]


@pytest.mark.parametrize(("name", "place"), PLACES)
def test_a_bad_argument_gives_an_answer_or_an_error_of_torchs_types(name, place):
    for value in BAD:
        try:
            result = call_with(name, place, value)
        except TORCHS as error:
            assert str(error), value  # noqa: PT017  whichever of the types: it must say something
        else:
            assert isinstance(result, Tensor), value


NORM = (X, *OF_CHANNELS, None, None)


@pytest.mark.parametrize(
    ("ours", "torchs", "arguments"),
    [
        (ops.batch_norm, F.batch_norm, (*NORM, 1)),
        (ops.batch_norm, F.batch_norm, (*NORM, None)),
        (ops.batch_norm, F.batch_norm, (*NORM, False, None)),
        (ops.batch_norm, F.batch_norm, (*NORM, False, 0.1, "x")),
        (ops.batch_norm, F.batch_norm, (X, OF_CHANNELS[0][:7], OF_CHANNELS[1], None, None, True)),
        (ops.batch_norm, F.batch_norm, (X, OF_CHANNELS[0], OF_CHANNELS[1].to("meta"))),
        (ops.conv2d, F.conv2d, (X, DEPTHWISE, None, 1, 1, 1, torch.tensor([8, 8]))),
        (ops.conv2d, F.conv2d, (X, DEPTHWISE, None, 1, 1, 1, [8])),
        (ops.conv1d, F.conv1d, (X[:, :, 0], DEPTHWISE[:, :, 0], None, 1, 1, 1, torch.ones(2))),
        (ops.conv2d, F.conv2d, (X, DEPTHWISE, None, 1, 1, 1, np.int64(8))),
        (ops.max_pool2d, lambda *a: F.max_pool2d(*a[:4], 1, a[4]), (X, 2, 2, 0, 1)),
        (ops.max_pool2d, lambda *a: F.max_pool2d(*a[:4], 1, a[4]), (X, 2, 2, 0, None)),
    ],
)
def test_the_type_is_torchs(ours, torchs, arguments):
    assert outcome(lambda: ours(*arguments)) == outcome(lambda: torchs(*arguments))


def test_batch_norm_refuses_a_negative_eps():
    """Torch does from 2.13 on."""
    with pytest.raises(ValueError, match="eps from 0, got -1"):
        ops.batch_norm(*NORM, eps=-1)


def test_batch_norm_that_is_refused_has_moved_no_statistic():
    mean, var = torch.zeros(8), torch.ones(7)
    with pytest.raises(RuntimeError, match=r"running_var of shape \(8\) on cpu, got \(7,\)"):
        ops.batch_norm(X, mean, var, training=True)
    assert torch.equal(mean, torch.zeros(8))


def test_a_tensor_is_no_residual_of_a_block_that_adds_its_own_input():
    with pytest.raises(TypeError, match="'residual' must be bool, not Tensor"):
        call_with("inverted_residual", "residual", X)


@pytest.mark.parametrize("out", [3, "x", [X]])
@pytest.mark.parametrize("name", ["depthwise_conv1d", "depthwise_conv2d", "dense_conv2d"])
def test_what_is_no_tensor_takes_no_result(name, out):
    with pytest.raises(TypeError, match="'out' must be Tensor"):
        call_with(name, "out", out)


@pytest.mark.parametrize("weight", [torch.randn(3), torch.randn(2, 2, 2)])
@pytest.mark.parametrize("name", ["dense_conv2d", "depthwise_conv2d", "stem_conv2d"])
def test_same_padding_of_a_weight_without_a_window(name, weight):
    with pytest.raises(RuntimeError, match="expected weight with 4 dimensions"):
        getattr(ops, name)(X, weight, padding="same")
    with pytest.raises(TypeError, match="'weight' must be Tensor, not NoneType"):
        getattr(ops, name)(X, None, padding="same")


def test_weights_are_packed_of_their_own_shape_and_dtype():
    for pack in (ops.pack_pointwise_weight, ops.pack_pointwise_panels, ops.pack_pointwise_pairs):
        with pytest.raises(RuntimeError, match=r"in_channels, 1, 1\), got \(4, 8, 3, 3\)"):
            pack(DENSE)
    with pytest.raises(RuntimeError, match=r"of bfloat16, got torch\.float32"):
        ops.pack_pointwise_pairs(POINTWISE)
    for pack in (ops.pack_dense_weight, ops.pack_winograd_weight):
        with pytest.raises(RuntimeError, match=r"got \(0, 8, 3, 3\)"):
            pack(DENSE[:0])


@pytest.mark.parametrize("activation", ["gelu", 3, ["relu"]])
def test_a_layer_refuses_its_activation_when_it_is_made(activation):
    nn = fastconv.nn
    for make in (nn.Conv1d, nn.Conv2d, nn.DenseConv2d, nn.DepthwiseConv1d, nn.DepthwiseConv2d):
        with pytest.raises(RuntimeError, match="expected activation"):
            make(8, 8 if "Depthwise" not in make.__name__ else 3, 1, activation=activation)
    for make in (nn.PointwiseConv2d, nn.InvertedResidual, nn.SeparableConv2d):
        with pytest.raises(RuntimeError, match="expected activation"):
            make(8, 8, *([8] if make is nn.InvertedResidual else []), activation=activation)
    for make in (lambda a: nn.BatchNorm2d(8, activation=a), nn.ResidualAdd):
        with pytest.raises(RuntimeError, match="expected activation"):
            make(activation)
