"""Every op on CUDA tensors against the same op on the CPU; `make gpu` runs these."""

import tempfile
from pathlib import Path

import pytest
import torch

import fastconv
from fastconv import kept, ops
from tests.helpers import DTYPES, channels_last, contiguous
from tests.small_network import images, plain_and_swapped

DEVICE = "cuda"

# The op as a function of tensors, and the tensors' shapes; one row or more for each function.
CALLS = {
    "residual_add": (ops.residual_add, (2, 8, 5, 7), (2, 8, 5, 7)),
    "residual_add, silu": (lambda x, r: ops.residual_add(x, r, "silu"), (2, 8, 5), (2, 8, 5)),
    "residual_add, shortcut": (ops.residual_add, (2, 8, 4, 4), (2, 5, 7, 8)),
    "local_response_norm": (lambda x: ops.local_response_norm(x, 5), (2, 9, 5, 7)),
    "depthwise_conv2d": (ops.depthwise_conv2d, (2, 8, 9, 7), (8, 1, 3, 3), (8,)),
    "depthwise_conv2d, stride": (
        lambda x, weight: ops.depthwise_conv2d(x, weight, stride=2, padding=2),
        (2, 8, 9, 7),
        (16, 1, 5, 5),
    ),
    "depthwise_conv2d, 3x3": (
        lambda x, weight, bias: ops.depthwise_conv2d(x, weight, bias, 1, 1, 1, "silu"),
        *((2, 40, 17, 30), (40, 1, 3, 3), (40,)),
    ),
    "depthwise_conv2d, 5x5": (
        lambda x, weight: ops.depthwise_conv2d(x, weight, stride=2, padding=2),
        *((3, 32, 14, 28), (32, 1, 5, 5)),
    ),
    "depthwise_conv2d, 7x7": (
        lambda x, weight: ops.depthwise_conv2d(x, weight, padding=3),
        *((9, 32, 7, 7), (32, 1, 7, 7)),
    ),
    "depthwise_conv2d, 9x9": (
        lambda x, weight, bias: ops.depthwise_conv2d(x, weight, bias, 1, 4, 1, "relu"),
        *((3, 24, 11, 19), (24, 1, 9, 9), (24,)),
    ),
    "inverted_residual": (
        lambda x, a, b, c: ops.inverted_residual(x, a, None, b, None, c, None, padding=1),
        *((2, 8, 5, 7), (16, 8, 1, 1), (16, 1, 3, 3), (6, 16, 1, 1)),
    ),
    "separable_conv2d": (
        lambda x, a, b: ops.separable_conv2d(x, a, None, b, None, padding=1),
        *((2, 8, 5, 7), (8, 1, 3, 3), (6, 8, 1, 1)),
    ),
    "batch_norm": (lambda x: ops.batch_norm(x, None, None, training=True), (2, 8, 5, 7)),
    "dense_conv2d": (ops.dense_conv2d, (2, 8, 9, 7), (8, 8, 3, 3), (8,), (2, 8, 7, 5)),
    "stem_conv2d": (ops.stem_conv2d, (2, 3, 9, 7), (8, 3, 3, 3), (8,)),
    "max_pool2d": (lambda x: ops.max_pool2d(x, 3, 2, 1), (2, 8, 5, 7)),
    "global_avg_pool2d": (ops.global_avg_pool2d, (2, 8, 5, 7)),
    "pointwise_conv2d": (ops.pointwise_conv2d, (2, 8, 5, 7), (6, 8, 1, 1), (6,), (2, 6, 5, 7)),
    "pointwise_conv2d, splits": (ops.pointwise_conv2d, (1, 896, 7, 8), (24, 896, 1, 1), (24,)),
}
each_call = pytest.mark.parametrize(
    ("function", "shapes"), [(function, shapes) for function, *shapes in CALLS.values()], ids=CALLS
)


def on_gpu(test):
    missing = not torch.cuda.is_available()
    return pytest.mark.gpu(pytest.mark.skipif(missing, reason="no CUDA device")(test))


@pytest.fixture(autouse=True)
def full_precision():
    with torch.backends.cudnn.flags(allow_tf32=False):
        yield


def tensors(shapes, dtype=torch.float32, layout=contiguous):
    """The same values on the CPU and on the GPU, only 4-dimensional ones in the layout."""
    on_cpu = [torch.randn(shape).to(dtype) for shape in shapes]
    on_cpu = [layout(x) if x.dim() == 4 else x for x in on_cpu]
    return on_cpu, [x.to(DEVICE) for x in on_cpu]


def assert_near(actual, expected):
    """actual on the GPU, whatever sums it in whatever order, against float64 on the CPU."""
    eps = torch.finfo(actual.dtype).eps
    bound = 8 * eps if actual.element_size() == 2 else 256 * eps  # 16-bit types sum in float32
    torch.testing.assert_close(actual.cpu().double(), expected.double(), rtol=bound, atol=bound)


def test_every_op_has_a_row():
    have_kernels = {op for op, *_ in fastconv._C.variants()} & set(ops.__all__)
    assert {name.partition(",")[0] for name in CALLS} == have_kernels


@on_gpu
@each_call
@pytest.mark.parametrize("layout", [contiguous, channels_last])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_values(function, shapes, layout, dtype):
    on_cpu, on_gpu = tensors(shapes, dtype, layout)
    expected, actual = function(*on_cpu), function(*on_gpu)
    assert actual.device.type == DEVICE
    assert actual.dtype == expected.dtype
    assert actual.stride() == expected.stride()
    assert_near(actual, function(*(x.double() for x in on_cpu)))


@on_gpu
@each_call
@pytest.mark.parametrize("layout", [contiguous, channels_last])
def test_gradients(function, shapes, layout):
    on_cpu, on_gpu = tensors(shapes, layout=layout)
    doubles = [x.double().requires_grad_() for x in on_cpu]
    function(*doubles).sum().backward()
    for x in on_gpu:
        x.requires_grad_()
    function(*on_gpu).sum().backward()
    for x, double in zip(on_gpu, doubles, strict=True):
        assert x.grad.stride() == x.stride()
        assert_near(x.grad, double.grad)


@on_gpu
@each_call
def test_autocast_does_as_on_the_cpu(function, shapes):
    on_cpu, on_gpu = tensors(shapes)
    with torch.autocast("cpu", torch.bfloat16):
        expected = function(*on_cpu)
    with torch.autocast(DEVICE, torch.bfloat16):
        actual = function(*on_gpu)
    assert actual.dtype == expected.dtype
    assert_near(actual, expected)


@on_gpu
@each_call
def test_runs_on_the_current_stream(function, shapes):
    on_cpu, on_gpu = tensors(shapes)
    expected = function(*on_cpu)
    stream = torch.cuda.Stream()
    late = [torch.zeros_like(x) for x in on_gpu]
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(100_000_000)  # cycles; a kernel on another stream would read the zeros
        for x, values in zip(late, on_gpu, strict=True):
            x.copy_(values)
        actual = function(*late)
    stream.synchronize()
    assert_near(actual, expected)


# What has CUDA kernels of its own; the others run their reference.
OURS = sorted({op for op, *_ in fastconv._C.gpu.kernels()} & set(ops.__all__))
each_of_ours = pytest.mark.parametrize(
    ("function", "shapes"),
    [
        (function, shapes)
        for name, (function, *shapes) in CALLS.items()
        if name.split(",")[0] in OURS
    ],
    ids=[name for name in CALLS if name.split(",")[0] in OURS],
)


def launches():
    return sum(count for *_, count in fastconv._C.gpu.kernels())


@on_gpu
@each_of_ours
def test_our_kernels_serve(function, shapes):
    _, on_gpu = tensors(shapes)
    before = launches()
    function(*on_gpu)
    assert launches() > before


@on_gpu
@each_of_ours
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_cuda_graphs_capture_and_replay(function, shapes, dtype):
    on_cpu, on_gpu = tensors(shapes, dtype, channels_last)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        function(*on_gpu)  # compiles, where kernels are compiled at run time
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        actual = function(*on_gpu)
    others = [torch.randn(x.shape).to(dtype) for x in on_cpu]
    for x, other in zip(on_gpu, others, strict=True):
        x.copy_(other)
    graph.replay()
    assert_near(actual, function(*(x.double() for x in others)))


@on_gpu
def test_a_swapped_network_in_a_cuda_graph():
    plain, swapped = plain_and_swapped()
    swapped.to(DEVICE)
    x, other = images().to(DEVICE), images()
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    with torch.no_grad():
        with torch.cuda.stream(stream):
            swapped(x)
        stream.synchronize()
        with torch.cuda.graph(graph):
            actual = swapped(x)
        x.copy_(other)
        graph.replay()
        torch.testing.assert_close(actual.cpu(), plain(other), rtol=1e-4, atol=1e-4)


@on_gpu
@each_of_ours
def test_two_streams_at_once(function, shapes):
    expected, results = [], []
    streams = [torch.cuda.Stream() for _ in range(2)]
    for stream in streams:
        on_cpu, on_gpu = tensors(shapes)
        expected.append(function(*(x.double() for x in on_cpu)))
        torch.cuda.synchronize()
        with torch.cuda.stream(stream):
            for _ in range(20):
                actual = function(*on_gpu)
        results.append(actual)
    torch.cuda.synchronize()
    for actual, wanted in zip(results, expected, strict=True):
        assert_near(actual, wanted)


@pytest.fixture
def much_memory():
    """In turn with other processes that run these tests: together they would want too much."""
    with kept.alone(Path(tempfile.gettempdir()) / "fastconv-much-memory"):
        if torch.cuda.mem_get_info()[0] < 16 << 30:
            pytest.skip("less than 16 GiB of GPU memory are free")
        yield
        torch.cuda.empty_cache()


@on_gpu
@pytest.mark.usefixtures("much_memory")
@pytest.mark.parametrize("layout", [contiguous, channels_last])
@pytest.mark.parametrize("name", ["residual_add", "local_response_norm", "depthwise_conv2d"])
def test_more_than_2_to_the_31_elements(name, layout):
    size = (1, 64, 6000, 6000)  # 2.3e9 elements, 4.3 GiB
    x = layout(torch.zeros(size, dtype=torch.bfloat16, device=DEVICE))
    last = torch.randn(64, 9).bfloat16()
    x[0, :, -3:, -3:] = last.view(64, 3, 3).to(DEVICE)
    weight = torch.randn(64, 1, 3, 3).bfloat16()
    function = {
        "residual_add": lambda x, w: ops.residual_add(x, x, None),
        "local_response_norm": lambda x, w: ops.local_response_norm(x, 5),
        "depthwise_conv2d": lambda x, w: ops.depthwise_conv2d(x, w, padding=1),
    }[name]
    actual = function(x, weight.to(DEVICE))[:, :, -2:, -2:]
    corner = last.view(1, 64, 3, 3).double()
    assert_near(actual, function(corner, weight.double())[:, :, -2:, -2:])


@on_gpu
@pytest.mark.parametrize("name", [name for name, (_, *shapes) in CALLS.items() if len(shapes) > 1])
def test_other_device_is_refused(name):
    function, *shapes = CALLS[name]
    on_cpu, on_gpu = tensors(shapes)
    with pytest.raises(RuntimeError, match=r"device|Input type"):  # ours, torch's convolution
        function(on_gpu[0], *on_cpu[1:])
