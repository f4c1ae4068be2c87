"""Several calls of ops in one: the same bits as each alone, on every instruction set."""

import copy
import operator

import pytest
import torch
from torch import Tensor, nn

import fastconv
from fastconv.optimize.arena import with_slots
from fastconv.optimize.join import QUEUED
from fastconv.optimize.linear import MOST_ROWS

from .helpers import (
    ISAS,
    assert_close,
    assert_same_bits_on_any_threads,
    channels_last,
    isa,
    threads,
)

ops = torch.ops.fastconv
STEM = "stem_conv2d i0 i1 i2 2,2 1,1,1,1 relu6"
SEPARABLE = "separable_conv2d o0 i3 i4 i5 - - i6 i7 i8 - 1,1 1,1,1,1 1,1 silu - relu hardsigmoid"
RESIDUAL = "inverted_residual o1 i9 i10 i3 i4 i11 i12 - - - - 1,1 1,1,1,1 hardswish true - sigmoid"
LAST = "pointwise_conv2d o2 i13 - o1 1,1 relu"
POOL = "global_avg_pool2d o3"
ALL = "\n".join([STEM, SEPARABLE, RESIDUAL, LAST, POOL])


def random(*shape: int) -> Tensor:
    return torch.randn(shape) / max(1, shape[-1] * shape[-2] if len(shape) == 4 else 1) ** 0.5


def inputs_of(batch: int = 2, size: int = 19, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(batch, 3, size, size), (8, 3, 3, 3), (8,), (8, 1, 3, 3), (8,), (8, 8, 1, 1)]
    shapes += [(4, 8, 1, 1), (4,), (8, 4, 1, 1), (8, 8, 1, 1), (8,), (8, 8, 1, 1), (8,)]
    shapes += [(8, 8, 1, 1)]
    return [torch.randn(s, generator=generator).mul(0.4).to(dtype) for s in shapes]


def one_by_one(t: list[Tensor]) -> list[Tensor]:
    stem = ops.stem_conv2d(t[0], t[1], t[2], [2, 2], [1] * 4, "relu6")
    squeeze = (t[6], t[7], t[8], None)
    window = ([1, 1], [1] * 4)
    a = ops.separable_conv2d(
        stem, t[3], t[4], t[5], None, None, *squeeze, *window, [1, 1], "silu", None, "relu",
        "hardsigmoid",
    )  # fmt: skip
    weights = (t[9], t[10], t[3], t[4], t[11], t[12], None, None, None, None)
    b = ops.inverted_residual(a, *weights, *window, "hardswish", True)
    c = ops.pointwise_conv2d(b, t[13], None, a, [1, 1], "relu")
    return [stem, a, b, c, ops.global_avg_pool2d(c)]


def joined(t: list[Tensor], calls: str = ALL) -> list[Tensor]:
    out = [torch.full_like(result, torch.nan) for result in one_by_one(t)]
    out = out[: calls.count("\n") + 1]
    ops.sequence(t, calls, out=out)
    return out


def assert_same(actual: list[Tensor], expected: list[Tensor]) -> None:
    assert all(torch.equal(a, b) for a, b in zip(actual, expected, strict=True))


@pytest.mark.parametrize("name", ISAS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("batch", [0, 1, 3])
def test_the_bits_of_single_calls(name, dtype, batch):
    with isa(name), torch.no_grad():
        t = inputs_of(batch, dtype=dtype)
        assert_same(joined(t), one_by_one(t))


def test_values():
    with torch.no_grad():
        t = inputs_of()
        exact = one_by_one([tensor.double() for tensor in t])
        for actual, expected in zip(joined(t), exact, strict=True):
            assert_close(actual, expected, 400)


def test_packed_weights_and_layouts():
    with torch.no_grad():
        t = inputs_of()
        expected = joined(t)
        packed = [channels_last(w) if w.dim() == 4 else w for w in t]
        for i in (5, 6, 8, 9, 11, 13):
            packed[i] = fastconv.ops.pack_pointwise_weight(t[i])
        packed[3] = fastconv.ops.pack_depthwise_weight(t[3])
        assert_same(joined(packed), expected)


def test_a_copy_is_taken_of_what_was_computed_before():
    x = channels_last(torch.randn(1, 8, 6, 6))
    weight = torch.randn(8, 8, 1, 1)
    first = ops.pointwise_conv2d(x, weight, None, None, [1, 1])
    residual = first.contiguous()
    # The first result in an order of memory that the second call, of x, does not read.
    out = [torch.empty(1, 8, 6, 6), channels_last(torch.empty(1, 8, 6, 6))]
    calls = "pointwise_conv2d i0 i1 - - 1,1 -\npointwise_conv2d i2 i1 - o0 1,1 -"
    ops.sequence([x.contiguous(), weight, x], calls, out=out)
    expected = ops.pointwise_conv2d(x, weight, None, residual, [1, 1])
    assert_close(out[1], expected.double(), 16, scale=16)


@pytest.mark.parametrize("batch", [1, 5])
def test_the_same_bits_on_any_number_of_threads(batch):
    t = inputs_of(batch, size=67)
    with torch.no_grad():
        assert_same_bits_on_any_threads(lambda: tuple(joined(t)))


@pytest.mark.parametrize(
    ("calls", "said"),
    [
        ("", "expected a tensor of out for each of 0 calls, got 1"),
        ("\n", "expected a call in each line"),
        ("relu i0", "expected an op that can be queued, got 'relu'"),
        ("global_avg_pool2d", "expected 1 arguments of global_avg_pool2d .call 0., got 0"),
        ("global_avg_pool2d o0", "expected an earlier result as argument 0 .* got o0"),
        ("global_avg_pool2d i14", "expected one of the inputs as argument 0 .* got i14"),
        ("global_avg_pool2d i9999999999", "expected a tensor as argument 0"),
        ("global_avg_pool2d -", "expected a tensor as argument 0"),
        (STEM.replace("2,2", "2"), "expected two strides"),
        (STEM.replace("2,2", "2,"), "expected two strides"),
        (STEM.replace("2,2", "2,x"), "expected a list of ints as argument 3"),
        (STEM.replace("2,2", "-2,2"), "expected a list of ints as argument 3"),
        (STEM.replace("relu6", "1"), "expected a word as argument 5"),
        (STEM.replace("relu6", "tanh"), "expected activation to be"),
        (STEM.replace("i1", "i5"), "expected weight of shape"),
        (ALL.replace("true", "1"), "expected true or false as argument 14"),
        (ALL.replace("- sigmoid", "- -"), "expected a word as argument 16"),
        (ALL.replace("sigmoid", "tanh"), "expected gate to be"),
        (ALL.replace("o1 i9", "o1 i3"), "inverted_residual|pointwise_conv2d: expected"),
        (ALL.replace("o2 i13 - o1", "o2 i13 - i0"), "expected residual of shape"),
        (ALL.replace("global_avg_pool2d o3", "global_avg_pool2d o4"), "an earlier result"),
    ],
)
def test_bad_calls(calls, said):
    with torch.no_grad(), pytest.raises(RuntimeError, match=said):
        joined(inputs_of(), calls)


def test_bad_results():
    t = inputs_of()
    with torch.no_grad():
        out = one_by_one(t)
        for place, wrong, said in [
            (0, out[0].contiguous(), "expected out dense in the memory format"),
            (1, out[1][:1], "expected out of shape"),
            (2, out[2].double(), "expected out of the dtype"),
            (3, out[2], "expected out to share no memory"),
        ]:
            with pytest.raises(RuntimeError, match=said):
                ops.sequence(t, ALL, out=[*out[:place], wrong, *out[place + 1 :]])
        with pytest.raises(RuntimeError, match="for each of 5 calls, got 4"):
            ops.sequence(t, ALL, out=out[:4])


def test_more_texts_than_are_kept():
    x, out = torch.randn(1, 1, 2, 2), torch.empty(1, 1, 1, 1)
    for i in range(200):
        ops.sequence([x] * 200, f"global_avg_pool2d i{i}", out=[out])
        assert out.item() == pytest.approx(x.mean().item())


class Chain(nn.Module):
    """A stem, blocks of which one is read twice, something of torch's, and blocks again."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.blocks = nn.ModuleList(map(self.block, range(5)))

    def block(self, _: int) -> nn.Module:
        layers = nn.Conv2d(8, 16, 1), nn.ReLU6(), nn.Conv2d(16, 16, 3, 1, 1, groups=16), nn.ReLU6()
        return nn.Sequential(*layers, nn.Conv2d(16, 8, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        a = self.blocks[0](x)
        b = a + self.blocks[1](a)
        c = torch.flip(self.blocks[2](b), (3,)) * a
        return self.blocks[4](c + self.blocks[3](c)).mean((2, 3))


def calls_of(fast: nn.Module) -> list[str]:
    """What the code that runs an optimized module calls, of ours."""
    code, _ = with_slots(fast.graph)
    return [name for name in code.__code__.co_names if "fastconv" in name]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_optimized_network_joins_what_follows(dtype):
    model, x = Chain().eval(), torch.randn(2, 3, 33, 33)
    fast = fastconv.optimize(model, (x,), dtype, measure=False)
    names = calls_of(fast)
    assert sum("fastconv_sequence" in name for name in names) == 2, names
    for count in (1, 2, 3):
        with torch.no_grad(), threads(count):
            (expected,) = fast.graph(x)
            assert torch.equal(fast(x), expected)
            assert torch.equal(fast(x), expected)


class Classifier(nn.Module):
    """A convolution, a mean, and a linear layer; `reads` says what else reads the mean."""

    def __init__(self, activation: nn.Module, bias: bool, reads: bool) -> None:
        super().__init__()
        self.conv, self.pool = nn.Conv2d(3, 24, 1), nn.AdaptiveAvgPool2d(1)
        self.linear, self.activation = nn.Linear(24, 10, bias), activation
        self.reads = reads

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        mean = self.pool(torch.relu(self.conv(x)))
        result = self.activation(self.linear(mean.flatten(1)))
        return (result, torch.sin(mean)) if self.reads else result


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("reads", [False, True])
@pytest.mark.parametrize(("activation", "bias"), [(nn.Identity(), True), (nn.Hardswish(), False)])
def test_a_classifier_is_of_the_same_call(dtype, reads, activation, bias):
    model = Classifier(activation, bias, reads).eval().to(dtype)
    fast = fastconv.optimize(model, (torch.randn(4, 3, 9, 9, dtype=dtype),), measure=False)
    (name,) = calls_of(fast)
    assert name.endswith("fastconv_sequence_linear")
    for rows in (1, MOST_ROWS, MOST_ROWS + 1):
        x = torch.randn(rows, 3, 9, 9, dtype=dtype)
        with torch.no_grad():
            expected = fast.graph(x)
            first = fast(x)
            results = [fast(x) for _ in range(2)]
        for result in [first, *results]:
            assert_same(list(result) if reads else [result], list(expected))
        one, other = (result[0] if reads else result for result in results)
        assert one.data_ptr() != other.data_ptr()
        assert (one.shape, one.stride()) == ((rows, 10), (10, 1))
        if not reads:
            assert torch.equal(copy.deepcopy(fast)(x), other)


def test_its_graph_keeps_each_call():
    x = torch.randn(1, 3, 33, 33)
    fast = fastconv.optimize(Chain().eval(), (x,), measure=False)
    fast(x)
    fast(x)
    targets = [node.target for node in fast.graph.graph.nodes]
    assert sum(map(operator.countOf, [targets] * len(QUEUED), QUEUED)) == 7
    marks: list[str] = []

    def mark(name: str) -> None:
        marks.append(name)

    twin = fast.marked(mark)
    assert torch.equal(twin(x), fast(x))
    marks.clear()
    assert torch.equal(twin(x), fast(x))
    assert sum(name.startswith("inverted_residual") for name in marks) == 5


def test_weights_may_change():
    x = torch.randn(1, 3, 33, 33)
    fast = fastconv.optimize(Chain().eval(), (x,), measure=False)
    before = [fast(x) for _ in range(2)][1]
    with torch.no_grad():
        for name, buffer in list(fast.graph.named_buffers()):
            setattr(fast.graph, name, buffer * 2)
        (expected,) = fast.graph(x)
        assert torch.equal(fast(x), expected)
    assert not torch.allclose(expected, before)


@pytest.mark.parametrize("name", ISAS)
def test_another_instruction_set_than_at_the_first_call(name):
    x = torch.randn(1, 3, 33, 33)
    fast = fastconv.optimize(Chain().eval(), (x,), measure=False)
    with torch.no_grad():
        fast(x), fast(x)
        with isa(name):
            (expected,) = fast.graph(x)
            assert torch.equal(fast(x), expected)


def test_tensors_that_come_back_changed():
    """Work is kept from call to call; what it was planned for is looked at each time."""
    x, weight = channels_last(torch.randn(1, 8, 6, 6)), torch.randn(4, 8, 1, 1)
    flat = torch.empty(8 * 6 * 6)
    calls = "pointwise_conv2d i0 i1 - - 1,1 -"

    def call(x: Tensor, weight: Tensor) -> Tensor:
        expected = ops.pointwise_conv2d(x, weight, None, None, [1, 1])
        out = flat[: expected.numel()].as_strided(expected.shape, expected.stride()).fill_(0)
        out = out.view(x.dtype) if x.dtype.itemsize == 4 else out.clone().to(x.dtype)
        ops.sequence([x, weight], calls, out=[out])
        assert torch.equal(out, expected)
        return out

    first = call(x, weight).clone()
    weight.mul_(2)
    assert torch.equal(call(x, weight), 2 * first)
    call(x, weight.transpose(0, 1).reshape(4, 8, 1, 1))
    call(x, torch.as_strided(weight, (4, 8, 1, 1), (1, 4, 1, 1)))
    call(x[..., :3], weight)
    call(x[:, :, :3], weight)
    call(torch.as_strided(x, (1, 8, 3, 3), x.stride()), weight)
    call(x.double(), weight.double())
    call(x.bfloat16(), weight.bfloat16())
    call(torch.empty(0, 8, 6, 6), weight)
    with pytest.raises(RuntimeError, match="expected weight of shape"):
        call(x, torch.as_strided(weight, (4, 4, 1, 1), weight.stride()))
    with threads(1):
        call(x, weight)
    with isa("scalar"):
        call(x, weight)
    call(x, weight)
