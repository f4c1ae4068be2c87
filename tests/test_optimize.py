import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fastconv


def randomize(model: nn.Module) -> nn.Module:
    """Weights and statistics that an error in folding cannot hide behind."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.normal_(module.bias)
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return model.eval()


def kernels(fast: nn.Module) -> list[str]:
    """Of the layers with weights."""
    return [row["kernel"] for row in fast.receipt if row["weight"]]


def assert_same(
    model: nn.Module, fast: nn.Module, *inputs: Tensor, tolerance: float = 2e-5
) -> None:
    with torch.no_grad():
        expected, actual = model(*inputs), fast(*inputs)
    scale = expected.abs().max()
    assert (actual - expected).abs().max() <= tolerance * scale
    assert actual.stride() == expected.stride()


class InvertedResidual(nn.Module):
    def __init__(self, activation: type[nn.Module] = nn.ReLU6) -> None:
        super().__init__()
        self.expand = nn.Sequential(
            nn.Conv2d(8, 24, 1, bias=False), nn.BatchNorm2d(24), activation()
        )
        self.depthwise = nn.Sequential(
            nn.Conv2d(24, 24, 3, 1, 1, groups=24, bias=False), nn.BatchNorm2d(24), activation()
        )
        self.project = nn.Sequential(nn.Conv2d(24, 8, 1, bias=False), nn.BatchNorm2d(8))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.project(self.depthwise(self.expand(x)))


@pytest.mark.parametrize("activation", [nn.ReLU, nn.ReLU6, nn.SiLU, nn.Hardswish])
def test_a_block_becomes_one_fused_op(activation):
    model = randomize(InvertedResidual(activation))
    x = torch.randn(2, 8, 9, 9)
    fast = fastconv.optimize(model, (x,))
    assert_same(model, fast, x)
    assert kernels(fast) == ["inverted_residual"]
    assert [row["residual"] for row in fast.receipt] == [True]
    calls = [node for node in fast.graph.graph.nodes if node.op == "call_function"]
    assert len(calls) == 2, calls  # the other one keeps the layout of the result


@pytest.mark.parametrize("batch", [1, 2, 5, 0])
@pytest.mark.parametrize("example_batch", [1, 3])
def test_any_batch_after_any_example(example_batch, batch):
    model = randomize(InvertedResidual())
    fast = fastconv.optimize(model, (torch.randn(example_batch, 8, 9, 9),))
    x = torch.randn(batch, 8, 9, 9)
    with torch.no_grad():
        torch.testing.assert_close(fast(x), model(x), rtol=1e-4, atol=1e-4)


class Everything(nn.Module):
    """Functional and in-place calls, asymmetric padding, LRN, flatten, a shared module, dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, 2, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.depthwise = nn.Conv2d(16, 16, 5, 2, groups=16, padding="valid")
        self.shared = nn.Conv2d(16, 16, 1)
        self.same = nn.Conv2d(16, 16, (2, 4), padding="same", groups=16)
        self.lrn = nn.LocalResponseNorm(5)
        self.dropout = nn.Dropout()
        self.linear = nn.Linear(16 * 4 * 4, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(F.pad(x, (0, 1, 0, 1)))), inplace=True)
        x = self.lrn(x)
        x = self.depthwise(F.pad(x, (1, 2, 1, 2))).clamp(0, 6)
        x = self.shared(self.shared(x)) + x
        x = F.local_response_norm(F.relu(self.same(x) + x), 3)
        return self.linear(self.dropout(F.max_pool2d(x, 2).flatten(1)))


def test_functional_code_padding_and_shared_modules():
    model = randomize(Everything())
    x = torch.randn(2, 3, 32, 32)
    fast = fastconv.optimize(model, (x,))
    assert_same(model, fast, x)
    assert kernels(fast) == [
        "stem_conv2d",
        "depthwise_conv2d",
        *["pointwise_conv2d"] * 2,
        "depthwise_conv2d",
        "pointwise_conv2d",
    ]
    targets = [node.target for node in fast.graph.graph.nodes]
    assert targets.count(torch.ops.fastconv.local_response_norm.default) == 2
    assert targets.count(torch.ops.fastconv.residual_add.default) == 1
    assert torch.ops.aten.pad.default not in targets


def test_the_model_passed_in_is_not_changed_and_not_shared():
    model = randomize(Everything())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    x = torch.randn(1, 3, 32, 32)
    fast = fastconv.optimize(model, (x,))
    expected = fast(x)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
        value.zero_()
    assert torch.equal(fast(x), expected)


@pytest.mark.parametrize("example_dtype", [torch.float32, torch.bfloat16])
def test_bfloat16_takes_either_dtype(example_dtype):
    model = randomize(Everything())
    x = torch.randn(2, 3, 32, 32)
    fast = fastconv.optimize(model, (x.to(example_dtype),), dtype=torch.bfloat16)
    y = fast(x)
    assert y.dtype == torch.bfloat16
    assert torch.equal(y, fast(x.bfloat16()))
    expected = model(x)
    assert (y - expected).abs().max() < 0.05 * expected.abs().max()


def test_example_inputs_may_come_with_the_first_call():
    model = randomize(InvertedResidual())
    fast = fastconv.optimize(model)
    x = torch.randn(2, 8, 6, 6)
    assert_same(model, fast, x)
    assert kernels(fast) == ["inverted_residual"]


def test_copies_and_pickles():
    model = randomize(Everything())
    x = torch.randn(2, 3, 32, 32)
    fast = fastconv.optimize(model, (x,))
    for other in (copy.deepcopy(fast), pickle.loads(pickle.dumps(fast))):
        assert torch.equal(other(x), fast(x))


class Tree(nn.Module):
    def forward(self, pair: tuple[Tensor, Tensor], scale: float) -> dict[str, Tensor]:
        return {"sum": pair[0] + pair[1], "scaled": pair[0] * scale}


def test_inputs_and_outputs_may_be_trees():
    a, b = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    fast = fastconv.optimize(Tree().eval(), ((a, b), 2.0))
    torch.testing.assert_close(fast((b, a), 2.0), Tree()((b, a), 2.0))
    with pytest.raises(RuntimeError, match="expected inputs like"):
        fast((a, b), 3.0)


class TiedToItsBatch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.view(1, -1)


def test_a_batch_that_the_model_fixes_stays_fixed():
    fast = fastconv.optimize(TiedToItsBatch().eval(), (torch.randn(1, 6),))
    assert fast(torch.ones(1, 6)).shape == (1, 6)


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) if x.sum() > 0 else x


def test_a_model_that_cannot_be_captured_is_swapped_and_says_so():
    model = Branching().eval()
    x = torch.ones(1, 8, 4, 4)
    fast = fastconv.optimize(model, (x,))
    assert fast.receipt[0]["kernel"] == "swapped"
    assert "torch.export" in fast.receipt[0]["reason"]
    torch.testing.assert_close(fast(x), model(x))
    torch.testing.assert_close(fast(-x), -x)
    half = fastconv.optimize(model, (x.bfloat16(),), dtype=torch.bfloat16)
    assert half(x).dtype == torch.bfloat16


def test_a_batch_norm_that_has_nothing_to_fold_into_stays():
    model = randomize(nn.Sequential(nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1)))
    x = torch.randn(2, 8, 5, 5)
    assert_same(model, fastconv.optimize(model, (x,)), x)


def test_a_conv_whose_result_is_used_twice_keeps_it():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            return self.norm(y) + F.relu(y) + y

    model = randomize(Twice())
    x = torch.randn(2, 4, 5, 5)
    assert_same(model, fastconv.optimize(model, (x,)), x)


def test_a_batch_norm_after_a_computed_bias_stays():
    class Computed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.bias = (
                nn.Parameter(torch.randn(4, 4, 1, 1)),
                nn.Parameter(torch.ones(4)),
            )
            self.norm = nn.BatchNorm2d(4)

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(F.conv2d(x, self.weight, self.bias * 3))

    model = randomize(Computed())
    x = torch.randn(2, 4, 5, 5)
    assert_same(model, fastconv.optimize(model, (x,)), x)


@pytest.mark.parametrize("swapped", [False, True])
def test_efficientnet_lite0(swapped):
    model = randomize(fastconv.models.efficientnet_lite0())
    if swapped:
        fastconv.swap_(model)
    x = torch.randn(2, 3, 64, 64)
    fast = fastconv.optimize(model, (x,))
    assert_same(model, fast, x, tolerance=1e-4)
    assert kernels(fast).count("inverted_residual") == 15
    assert kernels(fast).count("separable_conv2d") == 1
    assert kernels(fast).count("pointwise_conv2d") == 2  # the head and the classifier
    assert kernels(fast).count("stem_conv2d") == 1
    assert len(kernels(fast)) == 19
    assert sum(row["residual"] for row in fast.receipt) == 9


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((lambda x: x, None), TypeError, "must be nn.Module, not function"),
        ((nn.Conv2d(3, 3, 1), None), RuntimeError, "eval mode"),
        ((nn.Identity().eval(), None, torch.int32), TypeError, "floating-point"),
        ((nn.Identity().eval(), None, "bfloat16"), TypeError, "floating-point"),
        ((nn.Conv2d(3, 3, 1).eval(), (torch.ones(1, 4, 2, 2),)), RuntimeError, "4 channels"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        fastconv.optimize(*arguments)


def test_other_sizes_than_the_examples_are_refused():
    fast = fastconv.optimize(randomize(InvertedResidual()), (torch.randn(1, 8, 9, 9),))
    with pytest.raises(RuntimeError, match=r"expected inputs like \[\('N', 8, 9, 9\)\]"):
        fast(torch.randn(1, 8, 10, 9))
    with pytest.raises(RuntimeError, match="expected inputs like"):
        fast("image")
    with pytest.raises(RuntimeError, match="expected inputs like"):
        fast()


def test_it_is_for_inference_only():
    fast = fastconv.optimize(randomize(InvertedResidual()), (torch.randn(1, 8, 9, 9),))
    assert not fast(torch.randn(1, 8, 9, 9, requires_grad=True)).requires_grad
    with pytest.raises(RuntimeError, match="inference only"):
        fast.train()
    assert not fast.eval().training
