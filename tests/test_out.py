"""out=: every inference op writes its result where it is told to, or says why it does not."""

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from fastconv import ops

from .helpers import ISAS, assert_same_bits_on_any_threads, channels_last, contiguous, isa

X = torch.randn(2, 8, 9, 7)
DEPTHWISE, POINTWISE, BIAS = torch.randn(8, 1, 3, 3), torch.randn(8, 8, 1, 1), torch.randn(8)
STEM = torch.randn(16, 8, 3, 3)
BLOCK = (POINTWISE, BIAS, DEPTHWISE, BIAS, POINTWISE, BIAS)

CALLS = {
    "depthwise_conv2d": lambda x, **out: ops.depthwise_conv2d(x, DEPTHWISE, BIAS, 1, 1, **out),
    "pointwise_conv2d": lambda x, **out: ops.pointwise_conv2d(
        x, POINTWISE, BIAS, x, activation="silu", **out
    ),
    "max_pool2d": lambda x, **out: ops.max_pool2d(x, 3, 1, 1, **out),
    "local_response_norm": lambda x, **out: ops.local_response_norm(x, 5, **out),
    "residual_add": lambda x, **out: ops.residual_add(x, x, **out),
    "inverted_residual": lambda x, **out: ops.inverted_residual(
        x, *BLOCK, 1, 1, residual=True, **out
    ),
    "separable_conv2d": lambda x, **out: ops.separable_conv2d(x, *BLOCK[2:], x, 1, 1, **out),
}
# Of another shape or memory format than their input.
OTHER_CALLS = {
    "stem_conv2d": lambda x, **out: ops.stem_conv2d(x, STEM, None, 1, 1, **out),
    "dense_conv2d": lambda x, **out: ops.dense_conv2d(x, STEM, None, None, 1, 1, **out),
    "global_avg_pool2d": ops.global_avg_pool2d,
}
any_op = pytest.mark.parametrize(
    "call", [*CALLS.values(), *OTHER_CALLS.values()], ids=[*CALLS, *OTHER_CALLS]
)
every_op = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)


def filled(like: Tensor) -> Tensor:
    return torch.full_like(like, float("nan"))


@any_op
@pytest.mark.parametrize("layout", [contiguous, channels_last])
@pytest.mark.parametrize("name", ISAS)
def test_out_holds_the_bits_of_a_fresh_result(name, layout, call):
    x = layout(X)
    with isa(name):
        expected = call(x)
        out = filled(expected)
        assert call(x, out=out) is out
        assert torch.equal(out, expected)
        assert_same_bits_on_any_threads(lambda: call(x, out=filled(expected)).clone())


@any_op
def test_raw_ops_have_the_overload_and_return_out(call, request):
    name = request.node.callspec.id
    arguments = str(getattr(torch.ops.fastconv, name).default._schema).split("(", 1)[1]
    schema = str(getattr(torch.ops.fastconv, name).out._schema)
    expected = arguments.replace(") -> Tensor", ", *, Tensor(a!) out) -> Tensor(a!)")
    assert schema == f"fastconv::{name}.out({expected}"


@any_op
def test_one_image_and_no_image(call):
    for x in (X[0], X[:0]):
        if x.dim() == 3 and call is CALLS["local_response_norm"]:
            continue  # three dimensions are (N, C, L) there
        expected = call(x)
        out = filled(expected)
        assert call(x, out=out) is out
        assert torch.equal(out, expected)


@every_op
def test_a_part_of_a_larger_tensor_serves_as_out(call):
    room = torch.zeros(X.numel() + 24)
    out = room[8:-16].view(X.shape)
    call(X, out=out)
    assert torch.equal(out, call(X))
    assert not room[:8].any()
    assert not room[-16:].any()


@every_op
@pytest.mark.parametrize(
    ("out", "error", "message"),
    [
        (lambda x: x.new_empty(2, 8, 9, 6), RuntimeError, "out of shape"),
        (lambda x: x.new_empty(0), RuntimeError, "out of shape"),
        (lambda x: torch.empty_like(x, dtype=torch.float64), RuntimeError, "out of the d"),
        (lambda x: torch.empty_like(x, device="meta"), RuntimeError, "device"),
        (lambda x: torch.empty_like(channels_last(x)), RuntimeError, "memory format"),
        (lambda x: x.transpose(2, 3).contiguous().transpose(2, 3), RuntimeError, "memory format"),
        (lambda x: x, RuntimeError, "no memory with an input"),
        (lambda x: x.numpy(), TypeError, "'out' must be Tensor, not ndarray"),
    ],
    ids=["shape", "empty", "dtype", "device", "layout", "strides", "overlap", "type"],
)
def test_a_wrong_out_is_refused(call, out, error, message):
    with pytest.raises(error, match=message):
        call(X, out=out(X))


def test_memory_shared_in_part_or_with_a_weight_is_refused():
    room = torch.randn(X.numel() + 8)
    x, out = room[8:].view(X.shape), room[:-8].view(X.shape)
    with pytest.raises(RuntimeError, match="no memory with an input"):
        ops.local_response_norm(x, 5, out=out)
    weight = torch.randn(8, 8, 1, 1)
    with pytest.raises(RuntimeError, match="no memory with an input"):
        ops.pointwise_conv2d(torch.randn(1, 8, 2, 4), weight, out=weight.view(1, 8, 2, 4))


@every_op
@pytest.mark.parametrize("which", ["input", "out"])
def test_gradients_are_refused_as_torch_refuses_them(call, which):
    x, out = X.clone().requires_grad_(which == "input"), filled(X).requires_grad_(which == "out")
    with pytest.raises(RuntimeError, match="don't support automatic differentiation"):
        call(x, out=out)
    with torch.no_grad():
        call(x, out=out)
    assert torch.equal(out, call(X))


@every_op
@pytest.mark.parametrize("layout", [contiguous, channels_last])
def test_opcheck(call, layout):
    seen = []

    class Spy(TorchDispatchMode):
        def __torch_dispatch__(self, op, types, args=(), kwargs=None):
            if op.namespace == "fastconv":
                seen.append((op, args, kwargs))
            return op(*args, **kwargs or {})

    x = layout(X)
    with Spy():
        call(x, out=filled(x))
    ((op, args, kwargs),) = seen
    assert op._overloadname == "out"
    torch.library.opcheck(op, args, kwargs, test_utils=("test_schema", "test_faketensor"))


@every_op
def test_compiled(call):
    torch._dynamo.reset()
    out = filled(X)
    compiled = torch.compile(lambda x, out: call(x, out=out), backend="aot_eager", fullgraph=True)
    compiled(X, out)
    torch.testing.assert_close(out, call(X), rtol=1e-5, atol=1e-5)


def test_what_has_no_kernel_is_written_by_the_reference():
    x = torch.ones(1, 4, 2, 2, dtype=torch.int32)
    out = torch.empty_like(x)
    assert ops.residual_add(x, x, out=out) is out
    assert (out == 2).all()
    with pytest.raises(RuntimeError, match="out of shape"):
        ops.residual_add(x, x, out=out[:, :3])
    meta = X.to("meta")
    assert ops.local_response_norm(meta, 3, out=torch.empty_like(meta)).is_meta
    with pytest.raises(RuntimeError, match="out of shape"):
        ops.local_response_norm(meta, 3, out=meta[:1])


def test_autocast_leaves_out_alone_as_torch_does():
    out = filled(X)
    with torch.autocast("cpu", torch.bfloat16):
        ops.pointwise_conv2d(X, POINTWISE, out=out)
    assert torch.equal(out, ops.pointwise_conv2d(X, POINTWISE))
