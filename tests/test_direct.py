"""Calls past torch's dispatcher: the same bits as by it, and by it where anything watches."""

import contextlib
import threading

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from fastconv import _C
from fastconv.ops._op import OPS, WATCHERS

from .helpers import channels_last, contiguous

X = torch.randn(2, 8, 9, 7)
DEPTHWISE, MATRIX, STEM = torch.randn(8, 1, 3, 3), torch.randn(8, 8, 1, 1), torch.randn(16, 8, 3, 3)
RESIDUAL, BIAS = torch.randn(2, 8, 9, 7), torch.randn(8)
NO_SQUEEZE = (None, None, None, None)
ONE, EDGES = (1, 1), (1, 1, 1, 1)

ARGUMENTS = {
    "depthwise_conv2d": (DEPTHWISE, BIAS, ONE, EDGES, ONE, "relu6"),
    "pointwise_conv2d": (MATRIX, torch.nn.Parameter(BIAS), None, [1, 1], "silu"),
    "dense_conv2d": (STEM, None, None, (2, 2), EDGES, ONE, "relu"),
    "stem_conv2d": (STEM, None, (2, 2), EDGES, None),
    "residual_add": (RESIDUAL, "hardswish"),
    "local_response_norm": (5, 1e-4, 0.75, 1.0),
    "max_pool2d": ((3, 3), (2, 2), ONE, True),
    "global_avg_pool2d": (),
    "separable_conv2d": (
        *(DEPTHWISE, BIAS, MATRIX, None, None, *NO_SQUEEZE),
        *(ONE, EDGES, ONE, "relu", "relu", None, "sigmoid"),
    ),
    "inverted_residual": (
        *(MATRIX, BIAS, DEPTHWISE, None, MATRIX, BIAS, *NO_SQUEEZE),
        *(ONE, EDGES, "relu6", True, None, "sigmoid"),
    ),
}


class OtherwiseError(Exception):
    pass


def refuse(*_arguments, **_out):
    raise OtherwiseError


def direct(name):
    return _C.direct(name, refuse, WATCHERS)


def test_every_op_with_out_has_direct_calls():
    assert {name for name, op in OPS.items() if op.raw_out} == set(ARGUMENTS)


@pytest.mark.parametrize(
    ("name", "layout"),
    [  # dense_conv2d reads no contiguous image, and a copy is the dispatcher's
        (name, layout)
        for name in ARGUMENTS
        for layout in (contiguous, channels_last)
        if (name, layout) != ("dense_conv2d", contiguous)
    ],
)
def test_same_tensor_as_from_the_dispatcher(name, layout):
    arguments = [layout(a) if a is X or a is RESIDUAL else a for a in (X, *ARGUMENTS[name])]
    with torch.no_grad():
        expected = OPS[name].raw(*arguments)
        result = direct(name)(*arguments)
        out = torch.empty_like(expected)
        assert direct(name)(*arguments, out=out) is out
    assert torch.equal(result, expected)
    assert torch.equal(out, expected)
    assert (result.shape, result.stride()) == (expected.shape, expected.stride())
    assert result.dtype == expected.dtype
    assert not result.requires_grad
    result.resize_(result.numel() + 1)  # memory of torch's own, as that of any result


WINDOW = (ONE, EDGES, ONE)
BACKWARD = {  # of one result; after grad_output
    "depthwise_conv2d_backward_input": (X, DEPTHWISE, *WINDOW),
    "local_response_norm_backward": (X, 5, 1e-4, 0.75, 1.0),
    "global_avg_pool2d_backward": (X,),
    "activation_backward": (X, "silu"),
}


@pytest.mark.parametrize("layout", [contiguous, channels_last])
@pytest.mark.parametrize("name", BACKWARD)
def test_same_gradient_as_from_the_dispatcher(name, layout):
    grad = RESIDUAL.mean((2, 3), keepdim=True) if "pool" in name else layout(RESIDUAL)
    arguments = [grad, *(layout(a) if a is X else a for a in BACKWARD[name])]
    expected = OPS[name].raw(*arguments)
    result = direct(name)(*arguments)
    assert torch.equal(result, expected)
    assert (result.shape, result.stride()) == (expected.shape, expected.stride())
    with pytest.raises(OtherwiseError):  # it writes to no tensor of the caller's
        direct(name)(*arguments, out=torch.empty_like(expected))


class Subclass(torch.Tensor):
    pass


class Function(TorchFunctionMode):
    def __torch_function__(self, function, types, args=(), kwargs=None):
        return function(*args, **kwargs or {})


class Dispatch(TorchDispatchMode):
    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        return op(*args, **kwargs or {})


@pytest.mark.parametrize(
    "watcher",
    [
        Function,
        Dispatch,
        lambda: torch.autocast("cpu", torch.bfloat16),
        lambda: torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]),
    ],
)
def test_a_watched_call_goes_by_the_dispatcher(watcher):
    add = direct("residual_add")
    assert torch.equal(add(X, X, None), 2 * X)
    with watcher(), pytest.raises(OtherwiseError):
        add(X, X, None)


def test_a_transformed_call_goes_by_the_dispatcher():
    with pytest.raises(OtherwiseError):
        torch.vmap(lambda x: direct("residual_add")(x, X[0], None))(X)


@pytest.mark.parametrize(
    "x",
    [
        X.clone().requires_grad_(),
        X.as_subclass(Subclass),
        torch.complex(X, X).conj().imag,  # its memory has the opposite of its values
        X.to("meta"),
        X.to_sparse(),
        X.long(),
        X[..., ::2],  # of which a copy is needed
        [X],
    ],
)
def test_no_view_of_memory_no_direct_call(x):
    with pytest.raises(OtherwiseError):
        direct("residual_add")(x, x, None)


@pytest.mark.parametrize(
    "arguments", [(X,), (X, X, "tanh"), (X, X, 1), (X, X, None, None), (X, X[:1], None)]
)
def test_what_it_does_not_understand_it_leaves_to_others(arguments):
    with pytest.raises(OtherwiseError):
        direct("residual_add")(*arguments)
    with pytest.raises(OtherwiseError):
        direct("residual_add")(X, X, None, into=X)


def test_out_of_another_kind_is_left_to_others():
    for out in (X, X[:1].clone(), X.double(), X.clone().requires_grad_()):
        with pytest.raises(OtherwiseError):
            direct("residual_add")(X, X, None, out=out)


def test_a_gradient_is_wanted_only_where_grad_mode_says_so():
    x = X.clone().requires_grad_()
    with torch.no_grad():
        assert not direct("residual_add")(x, x, None).requires_grad
    with torch.inference_mode():
        assert direct("residual_add")(x, x, None).is_inference()


CALLS = "pointwise_conv2d i0 i1 i2 - 1,1 relu\nglobal_avg_pool2d o0"


def sequence(inputs, out, otherwise=refuse):
    _C.direct("sequence", otherwise, WATCHERS)(inputs, CALLS, out)
    return out


def empty_results():
    return [torch.empty(2, 8, 9, 7), torch.empty(2, 8, 1, 1)]


def test_a_sequence_of_calls():
    inputs = [X, MATRIX, BIAS]
    expected, out = empty_results(), empty_results()
    torch.ops.fastconv.sequence(inputs, CALLS, out=expected)
    with torch.no_grad():
        assert _C.direct("sequence", refuse, WATCHERS)(inputs, CALLS, out) is None
    assert all(map(torch.equal, out, expected))


@pytest.mark.parametrize(
    ("inputs", "out"),
    [
        ([X, MATRIX.to_sparse(), BIAS], empty_results()),
        ([X, MATRIX, None], empty_results()),
        ([X, MATRIX, 1.0], empty_results()),
        ([X, MATRIX, BIAS], empty_results()[:1]),
        ([X, MATRIX], empty_results()),
        ([X, MATRIX, BIAS], [X, X]),
        ((), empty_results()),
        ([X, MATRIX, BIAS], ()),
        ([1, 2], empty_results()),
    ],
)
def test_what_a_sequence_does_not_understand_it_leaves_to_others(inputs, out):
    with torch.no_grad(), pytest.raises(OtherwiseError):
        sequence(inputs, out)


def test_a_sequence_where_a_gradient_may_be_wanted_goes_by_the_dispatcher():
    with pytest.raises(OtherwiseError):
        sequence([X, MATRIX, BIAS], empty_results())


def test_threads_call_at_once():
    expected = OPS["depthwise_conv2d"](X, *ARGUMENTS["depthwise_conv2d"])
    wrong = []

    def calls():
        for _ in range(200):
            result = OPS["depthwise_conv2d"](X, *ARGUMENTS["depthwise_conv2d"])
            if not torch.equal(result, expected):
                wrong.append(result)

    threads = [threading.Thread(target=calls) for _ in range(4)]
    with contextlib.ExitStack() as stack:
        for thread in threads:
            thread.start()
            stack.callback(thread.join)
    assert not wrong
