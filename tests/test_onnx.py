"""Exported to ONNX and run by ONNX Runtime: our ops one by one, and whole networks."""

import importlib
import sys
from collections import Counter

import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

import fastconv
import fastconv.onnx
from fastconv import ops
from fastconv.ops._op import OPS
from tests.small_network import images, plain_and_swapped


def check(model: nn.Module, x: Tensor, **options) -> Counter[str]:
    """Exports with an open batch, compares for other batches, and counts the nodes by type."""
    program = fastconv.onnx.export(model, (x,), **options)
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString())
    name = session.get_inputs()[0].name
    for batch in (3, 5):
        other = torch.randn(batch, *x.shape[1:])
        with torch.no_grad():
            expected = model(other)
        expected = expected if isinstance(expected, tuple) else (expected,)
        outputs = session.run(None, {name: other.numpy()})
        for output, wanted in zip(outputs, expected, strict=True):
            assert_close(torch.from_numpy(output), wanted, rtol=1e-4, atol=1e-5)
    return Counter(node.op_type for node in program.model.graph)


def tensor(*shape: int) -> Tensor:
    return torch.randn(shape) / 3


SQUEEZE = (tensor(2, 6, 1, 1), tensor(2), tensor(6, 2, 1, 1), tensor(6))
HARD = ops.SqueezeExcitation(*SQUEEZE, "relu", "hardsigmoid")
SOFT = ops.SqueezeExcitation(*SQUEEZE, "silu", "sigmoid")
ONE = torch.ones(6) + tensor(6).square()

# Of (N, 6, 9, 7), each with what the simplest translation does not do.
CALLS = {
    "depthwise": lambda x: ops.depthwise_conv2d(
        x, W3, B12, (2, 1), (0, 1, 2, 1), (1, 2), "hardswish"
    ),
    "pointwise": lambda x: ops.pointwise_conv2d(x, W1, None, x, 1, "relu6"),
    "pointwise, stride": lambda x: ops.pointwise_conv2d(x, W1, ONE, None, (2, 3), "silu"),
    "norm, odd": lambda x: ops.local_response_norm(x, 5, 0.5, 0.7, 2.0),
    "norm, even": lambda x: ops.local_response_norm(x, 4, 0.5),
    "norm of sequences": lambda x: ops.local_response_norm(x.flatten(2), 3, 0.5),
    "add": lambda x: ops.residual_add(x, -x, None),
    "add, shortcut": lambda x: ops.residual_add(ops.depthwise_conv2d(x, W3, None, 2, 1), x),
    "batch norm": lambda x: ops.batch_norm(x, B6, ONE, activation="relu"),
    "batch norm, affine": lambda x: ops.batch_norm(x, B6, ONE, ONE, B6, eps=1e-3),
    "stem": lambda x: ops.stem_conv2d(x[:, :3], STEM, ONE, 2, (1, 0, 2, 1), "relu"),
    "dense": lambda x: ops.dense_conv2d(x, DENSE, ONE, x, 1, 1, 1, "relu"),
    "dense, packed": lambda x: ops.dense_conv2d(
        x, ops.pack_dense_weight(DENSE), ONE, None, 2, (1, 0, 2, 1), (1, 2), "silu"
    ),
    "dense, Winograd": lambda x: ops.dense_conv2d(
        x, ops.pack_winograd_weight(DENSE), ONE, x, 1, 1, 1, "relu"
    ),
    "dense, Winograd, in panels": lambda x: ops.dense_conv2d(
        x, ops.pack_winograd_weight(DENSE, at_points=False), ONE, None, 1, 1
    ),
    "max pool": lambda x: ops.max_pool2d(x, 3, 2, 1, ceil_mode=True),
    "mean": ops.global_avg_pool2d,
    "separable": lambda x: ops.separable_conv2d(
        x, W3[:6], B6, W1, B6, x, 1, 1, 1, "relu", "relu6", HARD
    ),
    "inverted": lambda x: ops.inverted_residual(
        x, W1, B6, W3[6:], None, W1, B6, 1, 1, "silu", True, SOFT
    ),
    "sequence": lambda x: ops.depthwise_conv1d(x.flatten(2), W3[:6, :, 0], padding="causal"),
}
DENSE = tensor(6, 6, 3, 3)
W3, W1, STEM = tensor(12, 1, 3, 3), tensor(6, 6, 1, 1), tensor(6, 3, 3, 3)
B12, B6 = tensor(12), tensor(6)


class EveryOp(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(call(x) for call in CALLS.values())


def raw_ops() -> list[tuple[str, torch._ops.OpOverload]]:
    return [(name, op.raw) for name, op in OPS.items()]


def test_every_op():
    table = fastconv.onnx.translation_table()
    assert {op for name, op in raw_ops() if "backward" not in name and "mask" not in name} == {
        *table
    }
    found = check(EveryOp().eval(), torch.randn(2, 6, 9, 7), dynamic_shapes=({0: "batch"},))
    program = torch.export.export(EveryOp(), (torch.randn(2, 6, 9, 7),))
    called = {node.target for node in program.graph.nodes if node.op == "call_function"}
    assert set(table) - called <= {
        torch.ops.fastconv.separable_conv2d.default,
        torch.ops.fastconv.inverted_residual.default,
    }
    assert found["LRN"] == found["BatchNormalization"] == 2
    assert found["HardSwish"] == found["MaxPool"] == 1


MEANS = {"swapped": {"ReduceMean": 1}, "optimized": {"GlobalAveragePool": 1, "Reshape": 1}}


@pytest.mark.parametrize("kind", MEANS)
def test_networks(kind):
    plain, model = plain_and_swapped()
    x = images()
    shapes = ({0: "batch"},)
    if kind == "optimized":
        model, shapes = fastconv.optimize(plain, (x,)), (shapes,)
    found = check(model, x, dynamic_shapes=shapes)
    expected = {"Conv": 5, "LRN": 1, "Clip": 1, "Sigmoid": 1, "Mul": 1, "Add": 1, "Relu": 2}
    assert found == {**expected, **MEANS[kind], "Gemm": 1}


def test_what_has_no_translation_says_so():
    _, swapped = plain_and_swapped()
    with pytest.raises(torch.onnx.OnnxExporterError, match=r"call model\.eval\(\)"):
        fastconv.onnx.export(swapped.train(), (images(),))
    model = nn.Sequential(nn.Conv2d(3, 4, 1)).eval()
    half = fastconv.optimize(model, (images(),), dtype=torch.bfloat16)
    with pytest.raises(torch.onnx.OnnxExporterError, match="export the model before optimize"):
        fastconv.onnx.export(half, (images(),))


def test_without_the_packages(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    monkeypatch.delitem(sys.modules, "fastconv.onnx")
    with pytest.raises(ImportError, match="pip install onnx onnxscript"):
        importlib.import_module("fastconv.onnx")
